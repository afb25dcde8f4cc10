"""What the commands do: plan, check the place, and carry out."""

import os
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from rich.console import Console

from ... import backbones
from ...datasets import catalogue
from ...results.records.records import read_record
from ...results.tables.cells import OWN_TITLES
from ..errors import UserError
from ..execution import wandb_tracking
from ..execution.whereabouts import Whereabouts, keep_given
from ..executors.keep_going import keep_going
from ..executors.local import Job, Launcher, exit_code
from ..executors.progress import Reporter
from ..executors.slurm import command as slurm_command
from ..host import plugin_files, plugins
from ..host.environment import cores, visible_gpus
from ..host.printed import counted
from ..planning import captions, data_check, tuning, unranked
from ..planning.benchmark import Benchmark, dataset, dataset_for, method_of
from ..planning.current_selection import selection_of
from ..planning.request import Planned, Request, choose_backbones, choose_methods
from ..planning.resolver import Resolver
from ..planning.resolver import expand as expand_grid
from ..planning.suite.tuned_values import part_text
from ..run_folder.folder import RunFolder, last_lines
from ..run_folder.plan import Plan, make_known
from ..run_folder.spec import RunSpec
from . import cautions, listing
from .console import Terminal, complain
from .executor_options import Executor

RESULTS = {"acc_id": "ID accuracy", "acc_ood_mean": "OOD mean accuracy", "ece_id": "ID ECE", "nll_id": "ID NLL"}


def load(name: str) -> Benchmark:
    """A benchmark by name or by the path of its suite file."""
    return Benchmark(name)


def expand(benchmark: Benchmark, request: Request, tell: Callable[[str], None] = complain) -> list[Planned]:
    """The runs that a request means; tells which of its methods have no values, or cannot be meant on a backbone."""
    suite, facts = benchmark.suite, benchmark.facts
    plan = expand_grid(request, suite, benchmark.tuned, facts)
    planned = {(each.spec.method, each.spec.backbone) for each in plan}
    asked = product(choose_methods(request.methods, suite, facts), choose_backbones(request.backbones, suite, facts))
    beside = [pair for pair in asked if pair not in planned]
    resolver = Resolver(suite, benchmark.tuned, facts, request.recipe, request.rule, request.kind)
    refused = {pair: resolver.refused(*pair) for pair in beside if resolver.has_values(*pair)}
    for why in refused.values():
        tell(f"not planned: {why}.")
    named = {name for name, _ in planned | refused.keys()}
    if left_out := list(dict.fromkeys(name for name, _ in beside if name not in named)):
        chosen = f"recipe {plan[0].spec.recipe}, rule {request.rule}"
        tell(f"not planned: {', '.join(left_out)}, for which {chosen} has no values.")
    if "all" in request.methods and (more := untuned(benchmark, plan[0].spec.recipe)):
        tune = f"`robustft tune {benchmark.command_name} --method {more[0]}`"
        tell(f"not planned: {', '.join(more)}: not tuned; run {tune}, and sweep it by name.")
    return plan


def untuned(benchmark: Benchmark, recipe: str) -> list[str]:
    """Methods that the suite can tune and does not list, and that have not been tuned on all its backbones."""
    suite = benchmark.suite
    if suite.tuning is None or recipe in suite.published:
        return []
    return [
        name
        for name in suite.tuning.space
        if name not in suite.methods
        and any(benchmark.tuned.entry(name, backbone, recipe) is None for backbone in suite.backbones)
    ]


def carry_out(
    benchmark: Benchmark,
    plan: list[Planned],
    console: Console,
    executor: Executor,
    *,
    wandb: str | None = None,
    results: Path | None = None,
    seeds: Sequence[int] = (),
) -> int:
    """Make the runs of a plan that have no record yet, here or on a cluster; returns the exit code.

    Args:
        seeds: those that were asked for, where they are more than one run.
    """
    for sentence in doubts(benchmark, plan):
        complain(sentence)
    check_captions(benchmark, [planned.spec for planned in plan])
    folders = {planned.spec.run_id: RunFolder.of(executor.runs, planned.spec) for planned in plan}
    done = {run_id for run_id, folder in folders.items() if folder.done()}
    unfinished = [planned for planned in plan if planned.spec.run_id not in done]
    notes = [
        *cautions.one_run(plan, seeds, benchmark.facts.methods),
        *cautions.of_plan(benchmark, unfinished, executor.device, executor.jobs, here=executor.cluster is None),
    ]
    if executor.dry_run:
        listing.plan(console, plan, done, notes)
        for recipe in dict.fromkeys(planned.spec.recipe for planned in plan):
            if recipe in benchmark.suite.published:
                methods = list(dict.fromkeys(planned.spec.method for planned in plan if planned.spec.recipe == recipe))
                listing.departures(console, benchmark.suite.published[recipe], methods)
        if executor.cluster is not None:
            at, minutes = executor.runs, executor.checkpoint_minutes
            suite = benchmark.suite
            known = (suite.cost, suite.dataset_of(plan[0].spec.recipe))
            slurm_command.dry_run(plan, folders, console, at, executor.cluster, executor.device, minutes, *known)
        return 0
    if len(done) == len(plan):
        console.print(f"{counted(len(plan), 'run')}, all finished earlier; nothing to do")
        return 0
    check_inputs(plan, folders, executor.keep)
    _check_place(unfinished, executor)
    check_data(benchmark, [planned.spec for planned in unfinished])
    if results is not None:
        check_writable(results, "--results")
    check_writable(executor.runs)
    listing.cautions(console, notes)
    for planned in unfinished:
        write_plan(benchmark, planned, folders[planned.spec.run_id], executor.keep, wandb)
    return _start(plan, folders, done, console, executor)


def write_plan(
    benchmark: Benchmark, planned: Planned, folder: RunFolder, keep: str | None, wandb: str | None = None
) -> None:
    """Make the folder of a run, from which any process can make the run."""
    data = benchmark.suite.dataset_of(planned.spec.recipe)
    brought = plugins_of(planned.spec, data)
    plugin_files.keep(folder.runs, brought)
    named = tuple(plugin.named for plugin in brought)
    written = Plan(planned.spec, data, planned.sources, selection_of(benchmark, planned.spec), named)
    written.write(folder)
    Whereabouts.now().keep(written, folder)
    if planned.checkpoint is not None:
        keep_given(planned.checkpoint, folder)
    if keep is not None:
        folder.keep(keep)
    if wandb is not None:
        wandb_tracking.choose(folder.path, wandb)


def plugins_of(spec: RunSpec, data: str) -> list[plugin_files.Plugin]:
    """The plug-ins that whoever makes a run must import."""
    return plugins.of_run(spec.method, data, spec.backbone, [name.partition(":")[0] for name in spec.inputs])


def finished(plan: list[Planned], runs: Path) -> bool:
    """Whether each run of a plan has its record."""
    return all(RunFolder.of(runs, planned.spec).done() for planned in plan)


def make(plan: list[tuple[Planned, RunFolder]], console: Console, executor: Executor) -> int:
    """Make runs that were planned earlier and have their folders; returns the exit code."""
    folders = {planned.spec.run_id: folder for planned, folder in plan}
    done = {run_id for run_id, folder in folders.items() if folder.done()}
    planned = [planned for planned, _ in plan]
    unfinished = {}  # of each backbone one, for each is loaded
    for each, folder in plan:
        key = (each.spec.backbone, *each.spec.plugins)
        if each.spec.run_id not in done:
            unfinished[key] = each, folder
    for each, folder in unfinished.values():
        make_known(Plan.read(folder), folder)
        _check_place([each], executor)
    check_writable(executor.runs)
    return _start(planned, folders, done, console, executor)


def _start(
    plan: list[Planned],
    folders: dict[str, RunFolder],
    done: set[str],
    console: Console,
    executor: Executor,
) -> int:
    """Have the runs made that are not done; returns the exit code."""
    if executor.cluster is None:
        return exit_code(_launch(plan, folders, done, console, executor))
    minutes = executor.checkpoint_minutes
    work = list(folders.values()), console, executor.runs, executor.cluster, executor.device, minutes
    return keep_going(*work) if executor.keep_going else slurm_command.submit(*work)


def check_inputs(plan: Sequence[Planned], folders: dict[str, RunFolder], keep: str | None) -> None:
    """Refuse runs whose inputs have, or will have, no weights to read."""
    known = {planned.spec.run_id: planned.spec for planned in plan}
    for planned in plan:
        if folders[planned.spec.run_id].done():
            continue
        for run_id in planned.needs:
            if folders[run_id].done() and not folders[run_id].weights.exists():
                raise UserError(
                    f"{planned.spec.title}: reads the final weights of {known[run_id].title}, which were not kept; "
                    f"delete {folders[run_id].path} to make them again."
                )
            if keep == "none":
                raise UserError(
                    f"--keep: must be final or all where {planned.spec.method} reads the weights of "
                    f"{known[run_id].method}, got none; make those with --keep final first."
                )


def _check_place(plan: list[Planned], executor: Executor) -> None:
    """Refuse what would fail in every run, before any starts."""
    if executor.cluster is None:
        check_device(executor.device)
    if executor.checkpoint_activations:
        check_recomputes([planned.spec for planned in plan])
    for backbone in {planned.spec.backbone for planned in plan if not planned.spec.given}:
        backbones.check(backbone)


def _launch(
    plan: list[Planned],
    folders: dict[str, RunFolder],
    done: set[str],
    console: Console,
    executor: Executor,
) -> list[Job]:
    threads = max(planned.spec.threads for planned in plan)
    gpus = visible_gpus(executor.device)
    limit = min(executor.jobs or len(gpus) or max(1, cores() // threads), len(plan) - len(done))
    console.print(f"{counted(len(plan), 'run')}, {len(done)} finished earlier, {limit} side by side")
    more = [] if executor.workers is None else ["--workers", str(executor.workers)]
    if executor.checkpoint_activations:
        more.append("--checkpoint-activations")
    seconds = executor.checkpoint_minutes * 60
    arguments = ("--device", executor.device, "--checkpoint-seconds", str(seconds), *more)
    launcher = Launcher([(p, folders[p.spec.run_id]) for p in plan], limit, Reporter(console), arguments, gpus)
    results = launcher.run()
    errors = Terminal(stderr=True, highlight=False, soft_wrap=True, emoji=False)
    for job in results:
        if job.state == "failed":
            errors.print(f"robustft: {job.planned.spec.title}: {job.reason.rstrip('.')}.", markup=False)
            if not job.mistake:
                errors.print(f"  the end of {job.folder.log}:", markup=False)
                errors.print("\n".join(f"  | {line}" for line in last_lines(job.folder.log)), markup=False)
    stopped = sum(job.state == "interrupted" for job in results)
    if stopped:
        errors.print(f"robustft: stopped with {counted(stopped, 'run')} to go; the same command goes on where it was.")
    return results


def check_captions(benchmark: Benchmark, specs: list[RunSpec]) -> None:
    """Refuse one's own data whose classes have one and the same caption to a backbone of the plan."""
    for recipe, backbone in dict.fromkeys((spec.recipe, spec.backbone) for spec in specs):
        name = benchmark.suite.dataset_of(recipe)
        if catalogue.is_own(name):  # of other data the runs say so, and a plan need not read them
            captions.check(dataset(name), name, backbone)


def check_data(benchmark: Benchmark, specs: list[RunSpec]) -> None:
    """Refuse to start on data that are not complete, before any work; each view of them is counted once."""
    seen: set[tuple[Any, ...]] = set()
    for spec in specs:
        trains = method_of(spec).trained
        shape = backbones.image_size(spec.backbone), backbones.resizing(spec.backbone)
        view = (spec.recipe, shape, spec.allow_partial, spec.kind, trains)
        if view not in seen:
            seen.add(view)
            data = dataset_for(benchmark.suite.dataset_of(spec.recipe), spec.backbone, spec.allow_partial)
            data_check.check(data, spec, trains)


def doubts(benchmark: Benchmark, plan: Sequence[Planned]) -> Iterator[str]:
    """Sentences on what a person should know of a plan's tuned values and of one's own data."""
    yield from _stale_tuning(benchmark, plan)
    yield from _doubtful_data(benchmark, plan)


def _doubtful_data(benchmark: Benchmark, plan: Sequence[Planned]) -> Iterator[str]:
    """On one's own data: images that are not read, or that stand in two sets."""
    of_name = {benchmark.suite.dataset_of(planned.spec.recipe): planned.spec for planned in plan}
    for name, spec in of_name.items():
        if catalogue.has_own(name):
            data = dataset_for(name, spec.backbone, spec.allow_partial)
            yield from data_check.doubts(data)
            yield from data_check.permitted(data)
            yield from data_check.copies_in_train(data)


def _stale_tuning(benchmark: Benchmark, plan: Sequence[Planned]) -> Iterator[str]:
    """On tuned values that come from other trials than the suite and the code would make today."""
    tuned = {(p.spec.method, p.spec.backbone): p.spec.recipe for p in plan if "tuned" in str(p.sources.get("lr"))}
    limited = {(p.spec.method, p.spec.backbone) for p in plan if p.spec.train_limit or p.spec.allow_partial}
    for (method, backbone), recipe in tuned.items():
        tuned_in = benchmark.base or benchmark
        entry = tuned_in.tuned.entry(method, backbone, recipe)  # None: those of what it reads, as of a soup
        of_recipe = f" --recipe {recipe}" if recipe != tuned_in.suite.default_recipe else ""
        again = f"`robustft tune {tuned_in.command_name} --method {method}{of_recipe}`"
        if entry is not None and entry.part and (method, backbone) not in limited:
            yield (
                f"the tuned values of {method} on {backbone} were chosen in a rehearsal ({part_text(entry.part)}), so "
                f"these runs are not ranked; run {again} on all images."
            )
        elif not tuning.is_current(benchmark, method, backbone, recipe):
            yield (
                f"the tuned values of {method} on {backbone} come from other trials than {tuned_in.path.name} and "
                "the code give now, so these runs are not ranked; "
                f"run {again} to renew them."
            )


def tell_result(benchmark: Benchmark, plan: list[Planned], runs: Path, console: Console) -> None:
    """What the one run that was asked for has come to, where its record is, and why no rule ranks it."""
    (spec,) = (planned.spec for planned in plan if planned.requested)
    folder = RunFolder.of(runs, spec)
    if not folder.done():
        return
    record = read_record(folder.record)
    summary = record["summary"]
    parts = [
        f"{title} {100 * value:.1f} %" if key.startswith("acc") else f"{title} {value:.3f}"
        for key, title in RESULTS.items()
        if (value := summary.get(key)) is not None
    ]
    for name, metric in record["info"].get("own_metrics", {}).items():
        found: Mapping[str, Any] = record["sets"].get(name, {})
        if metric in found:
            parts.append(f"{name} {OWN_TITLES[metric]} {100 * found[metric]:.1f} %")
    console.print(f"{', '.join(parts)}: {folder.record}", soft_wrap=True)
    if reason := unranked.reason({**record, "selection": selection_of(benchmark, spec)}, benchmark):
        console.print(f"{reason}.", soft_wrap=True)


def check_recomputes(specs: list[RunSpec]) -> None:
    """UserError where `--checkpoint-activations` is for a tower that cannot compute its blocks again."""
    for backbone in dict.fromkeys(spec.backbone for spec in specs if spec.steps):
        if not backbones.traits(backbone).recomputes:
            raise UserError(
                f"--checkpoint-activations: must be left out for {backbone}, whose image tower has no blocks that can "
                "be computed again; leave it out or choose another backbone."
            )


def check_device(device: str) -> None:
    """Refuse a device that this machine has not."""
    if device == "cpu":
        return
    import torch

    kind = device.partition(":")[0]
    if kind != "cuda" or not torch.cuda.is_available():
        raise UserError(f"--device: must be cpu, or cuda where there is a GPU, got '{device}'; use --device cpu.")


def check_writable(root: Path, option: str = "--runs") -> None:
    """Refuse a root that cannot be written to, or is full, before any work starts."""
    try:
        os.fsencode(root).decode()
    except UnicodeDecodeError:  # safetensors opens no such path
        raise UserError(f"{option}: must be a name in UTF-8, got {str(root)!r}; choose another folder.") from None
    probe = root / f".probe-{uuid.uuid4().hex}"
    try:
        root.mkdir(parents=True, exist_ok=True)
        with probe.open("xb") as file:
            probe.unlink()  # at once, so that no kill leaves it behind
            file.write(bytes(1 << 20))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise UserError(
            f"{option}: must be a folder with room that can be written to, got '{root}' ({error.strerror}); "
            "free space or choose another folder."
        ) from None
