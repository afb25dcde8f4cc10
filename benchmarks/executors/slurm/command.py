"""What `--executor slurm` does for a command: submit and say so, or show what would be submitted."""

import contextlib
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from rich.console import Console

from .... import backbones
from ....datasets.card import DatasetCard
from ....datasets.contents import readable
from ...execution.process_group import batch_text
from ...host.printed import counted
from ...host.redaction import discreet
from ...planning.benchmark import dataset, method_of
from ...planning.request import Planned
from ...planning.suite.suite import Cost
from ...run_folder.folder import RunFolder
from ...run_folder.size import Size, of_run
from ...run_folder.spec import RunSpec
from . import client as queue
from . import code_snapshot, stage, submitit_api
from .arrays import Array, Cluster, Outcome
from .cost_estimate import estimate
from .profile import Profile
from .submission import LIMITS, PREFIX, Submitter


def submit(
    folders: Iterable[RunFolder],
    console: Console,
    runs: Path,
    cluster: Cluster,
    device: str,
    checkpoint_minutes: float,
) -> int:
    """Submit runs; 0 where all are done or on their way, 1 where SLURM took some, 2 where it refused the profile."""
    folders = list(folders)
    queue.require()
    submitter = Submitter(runs, cluster, device, checkpoint_minutes * 60, lambda text: console.print(text))
    outcome = submitter.submit(folders)
    _tell(outcome, sum(folder.done() for folder in folders), len(folders), console)
    _warn(cluster, console)
    if not outcome.left:
        return 0
    errors = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)
    reason = f" SLURM refused: {outcome.refusal.rstrip('.')}." if outcome.refusal else ""
    mistake = bool(outcome.refusal) and not LIMITS.search(outcome.refusal)
    remedy = "Mend --profile and start the same command again." if mistake else "Start it again when there is room."
    errors.print(
        f"robustft: {counted(len(outcome.left), 'run')} still planned and not submitted.{reason} {remedy}",
        markup=False,
    )
    return 2 if mistake else 1


def _warn(cluster: Cluster, console: Console) -> None:
    """Of partitions that end a job for a more urgent one and do not queue it again."""
    profile = cluster.profile
    keys = [profile, *profile.methods.values(), *profile.backbones.values()]
    names = {name for each in keys if (name := queue.cancels_preempted(each.partition or profile.partition))}
    for name in sorted(names):
        console.print(
            f"partition {name}: SLURM cancels what it preempts there and does not queue it again; with --keep-going, "
            "or by `robustft retry --executor slurm`, such runs go on from their last checkpoint",
            soft_wrap=True,
        )


def _tell(outcome: Outcome, done: int, count: int, console: Console) -> None:
    parts = [f"{done} finished earlier"]
    if outcome.queued:
        parts.append(f"{len(outcome.queued)} on their way")
    arrays = f" as {counted(len(outcome.arrays), 'array')} ({', '.join(outcome.arrays)})" if outcome.arrays else ""
    parts.append(f"{len(outcome.submitted)} submitted{arrays}")
    console.print(f"{counted(count, 'run')}: {', '.join(parts)}", soft_wrap=True)


def dry_run(
    plan: list[Planned],
    folders: dict[str, RunFolder],
    console: Console,
    runs: Path,
    cluster: Cluster,
    device: str,
    checkpoint_minutes: float,
    cost: Cost | None,
    data: str,
) -> None:
    """Show the arrays, what they will take, and the sbatch text of each; nothing is written.

    Args:
        data: the dataset's name.
    """
    submitter = Submitter(runs, cluster, device, checkpoint_minutes * 60, lambda text: None)
    arranger = submitter.arranger
    for planned in plan:
        arranger.specs[folders[planned.spec.run_id].path.absolute()] = planned.spec
    try:
        flying = submitter.in_flight()
    except queue.QueueError as error:  # a dry run needs no cluster
        console.print(f"what is in the queue is not known: {error}", soft_wrap=True)
        flying = {}
    code = None if cluster.live else code_snapshot.content_hash()
    outcome = Outcome()
    arrays = arranger.plan(list(folders.values()), flying, code, outcome)
    specs = [arranger.specs[folder.path] for array in arrays for folder in array.runs]
    console.print(f"\n{counted(len(arrays), 'array')}, code {code or 'as installed when a job starts'}:")
    names: list[str] = []
    for number, array in enumerate(arrays):
        names.append(f"{PREFIX}{arranger.specs[array.runs[0].path].benchmark}-{number}")
        console.print(f"  {names[-1]}: {_described(array, cluster)}", soft_wrap=True)
    with contextlib.suppress(queue.QueueError):
        _warn(cluster, console)
    for named in _of_no_run(cluster.profile, arranger.specs.values()):
        console.print(f"profile: {named} is of no run of this plan; look whether its name is right", markup=False)
    unit = "GPU-hours" if cluster.profile.gpus else "process-hours"
    rates = cost.image_seconds if cost else {}
    card = dataset(data).card
    told = estimate(specs, runs, device, cluster.profile.array_parallelism, rates, partial(_size, card=card))
    known, of = [], f"of {counted(told.runs, 'run')}"
    if told.timed:
        known.append(f"{told.hours:.2f} for {told.timed} {of}, by earlier records")
    if cost is not None and told.printed:
        hours = f"about {told.printed_hours:.0f} of training for {told.printed} {of}"
        known.append(f"{hours}, by the suite's cost ({cost.of}), evaluation beside it")
    known = known or ["not known: no earlier record is of such a run, and the suite has no cost for this device"]
    console.print(f"{unit}: {'; '.join(known)}", soft_wrap=True)
    disk = [f"{readable(told.kept_bytes)} for {told.weighed} {of}, by earlier ones"] if told.weighed else []
    if told.laid_out:
        disk.append(f"{readable(told.laid_out_bytes)} for {told.laid_out} {of}, by estimate, no run has been measured")
    disk += [f"up to {readable(told.passing_bytes)} of checkpoints while they are made"] if disk else []
    console.print(
        f"disk: {'; '.join(disk) or 'not known before the first run of such a kind has ended'}", soft_wrap=True
    )
    for text in stage.told(arrays, arranger.specs, data):
        console.print(text, markup=False, soft_wrap=True)
    shares = {
        batch_text(batch, array.profile.processes, array.profile.micro_batch): None
        for array in arrays
        if array.profile.processes > 1 or array.profile.micro_batch
        for batch in dict.fromkeys(arranger.specs[folder.path].batch_size for folder in array.runs)
        if batch
    }
    for text in shares:
        console.print(text)
    for name, array in zip(names, arrays, strict=True):
        after = [other for other, made in zip(names, arrays, strict=True) if array.needs & {f.path for f in made.runs}]
        after += sorted({flying[path].job for path in array.needs if path in flying})
        given = submitter.parameters(array, name, after)
        console.print(f"\n{name}/submission.sh", markup=False)
        text = submitit_api.text(submitter.home / name, array.profile.python, given, len(array.tasks))
        console.print(discreet(text), markup=False, soft_wrap=True)


def _size(spec: RunSpec, card: DatasetCard) -> Size | None:
    """What a run will take by its layout; None where its backbone is no model of open_clip."""
    cost = None if spec.given else backbones.step_cost(spec.backbone)
    return None if cost is None else of_run(spec, method_of(spec), cost, card)


def _of_no_run(profile: Profile, specs: Iterable[RunSpec]) -> list[str]:
    """Keys of a profile for methods and backbones that no run has: a name may be misspelt."""
    known = {name for spec in specs for name in (f"methods.{spec.method}", f"backbones.{spec.backbone}")}
    named = [f"{kind}.{name}" for kind in ("methods", "backbones") for name in getattr(profile, kind)]
    return [name for name in named if name not in known]


def _described(array: Array, cluster: Cluster) -> str:
    profile = array.profile
    each = "a run each" if cluster.pack == 1 else f"up to {cluster.pack} runs each, one after the other"
    on = f"{profile.nodes} node{'s' * (profile.nodes > 1)} with {counted(profile.gpus, 'GPU')}"
    jobs = counted(len(array.tasks), "job")
    waits = f", after {counted(len(array.needs), 'run')}" if array.needs else ""
    return f"{jobs}, {each}, {on}, {profile.time}{waits}"
