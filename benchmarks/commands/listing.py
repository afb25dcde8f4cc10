"""Tables for people: the plan of a dry run, what is installed, and what tuning chose."""

import ast
import dataclasses
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ..errors import UserError, resolve_name, unknown
from ..host import plugins
from ..host.printed import counted
from ..host.redaction import discreet
from ..planning.request import Planned, choose_backbone, learns
from ..run_folder.spec import OTHER_FIELDS, TRAINING_FIELDS

BATCH = 256
"""Pairs of a step whose cost is told."""
PACKAGE = __package__.partition(".")[0]


def plan(console: Console, planned: list[Planned], done: set[str], notes: Iterable[str] = ()) -> None:
    """Runs in order, then each method's values and their sources, then `notes`: sentences for the user."""
    table = Table("run", "method", "backbone", "seed", "state", title="plan", title_justify="left")
    for run in planned:
        spec = run.spec
        state = "finished" if spec.run_id in done else "to run"
        needed = "" if run.requested else " (input)"
        table.add_row(spec.run_id, spec.method + needed, spec.backbone, str(spec.seed), state)
    console.print(table)
    for method in dict.fromkeys(run.spec.method for run in planned):
        _values(console, method, [run for run in planned if run.spec.method == method])
    cautions(console, notes)
    to_do = sum(run.spec.run_id not in done for run in planned)
    runs = counted(len(planned), "run")
    console.print(f"{runs}, {len(planned) - to_do} finished, {to_do} to run; dry run: nothing was started")


def cautions(console: Console, notes: Iterable[str]) -> None:
    """A line for each sentence."""
    for sentence in notes:
        console.print(f"caution: {sentence}", soft_wrap=True)


def _values(console: Console, method: str, runs: list[Planned]) -> None:
    """One row a key and source; a value that differs between runs is listed with the runs that have it."""
    table = Table("key", "value", "source", title=method, title_justify="left")
    for key in runs[0].sources:
        groups: dict[tuple[str, str], list[Planned]] = {}
        for run in runs:
            groups.setdefault((_text(_value(run, key)), run.sources[key]), []).append(run)
        for (value, source), members in groups.items():
            where = "" if len(groups) == 1 else f"  ({_where(members, runs)})"
            table.add_row(key, value + where, source)
    console.print(table)


def _value(run: Planned, key: str) -> Any:
    """A value of a run; a key that its spec leaves out has the value from before that key was introduced."""
    from ..planning.benchmark import method_of

    if key in run.spec.hyper:
        return run.spec.hyper[key]
    introduced = method_of(run.spec).introduced
    return introduced[key] if key in introduced else getattr(run.spec, key)


def _where(members: list[Planned], runs: list[Planned]) -> str:
    """Backbones, where they alone tell the members apart; else how many runs."""
    names = {run.spec.backbone for run in members}
    if sum(run.spec.backbone in names for run in runs) == len(members):
        return ", ".join(sorted(names))
    return f"{len(members)} of {counted(len(runs), 'run')}"


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def catalogue(
    console: Console, name: str | None, benchmark: str | None, backbone: str | None, recipe: str | None = None
) -> None:
    """Everything that has a name, or one method, backbone, dataset or benchmark in detail."""
    from ... import backbones
    from ...datasets import catalogue as datasets
    from ...datasets.card import DataError
    from ..executors.slurm import profile as slurm_profile
    from ..planning.suite import suite

    if name is None:
        if benchmark or backbone or recipe:
            raise UserError(
                "list: --benchmark, --backbone and --recipe need the name of a method, got none; name a method."
            )
        table = Table("methods", "", show_header=True)
        for method, about in _methods().items():
            table.add_row(method, about)
        console.print(table)
        for title, names in (
            ("backbones", backbones.names()),
            ("datasets", datasets.names()),
            ("benchmarks", suite.names()),
        ):
            more = ", and MODEL:TAG of open_clip, see `robustft list backbones`" if title == "backbones" else ""
            console.print(f"{title}: {', '.join(names)}{more}")
        for line in plugins.lines():
            console.print(line, markup=False, soft_wrap=True)
        profiles = ", ".join(slurm_profile.names())
        console.print(f"profiles: {profiles}, to copy from {slurm_profile.SHIPPED}", soft_wrap=True)
        return
    kinds = {
        "method": list(_methods()),
        "backbone": backbones.names(),
        "dataset": datasets.names(),
        "benchmark": suite.names(),
    }
    every = [entry for names in kinds.values() for entry in names]
    found = None
    for kind, names in kinds.items():
        try:
            found = kind, resolve_name(kind, name, names)
            break
        except UserError:
            continue
    if found is None:
        from ...backbones import clip

        if (model := name.partition(":")[0].replace("/", "-")) in clip.installed():
            raise UserError(f"list: {model} is a model of open_clip; see `robustft list backbones {model}`.")
        raise UserError(f"{unknown('name', name, every)} Models of open_clip: `robustft list backbones`.")
    kind, name = found
    if brought := plugins.origin(kind, name):
        console.print(f"from {discreet(brought.origin)}, sha256 {brought.sha256}", markup=False, soft_wrap=True)
    if kind == "method":
        if recipe and not benchmark:
            raise UserError(f"list: --recipe needs --benchmark, whose recipe it is, got only '{recipe}'; name one.")
        from ...methods import registry

        _method(console, name, registry.get(name), benchmark, backbone, recipe)
    elif kind == "backbone":
        console.print(f"{name}: {backbones.weights_id(name)}")
    elif name in suite.names():
        loaded = suite.load(suite.find(name))
        try:
            _card(console, datasets.get(loaded.dataset_of(loaded.default_recipe)).card)
        except DataError as error:  # the card of one's own images is made from them
            console.print(f"no card yet: {error}", soft_wrap=True)
        console.print(f"methods: {', '.join(loaded.methods)}\nbackbones: {', '.join(loaded.backbones)}")
        shots = f", shots: {loaded.shots}" if loaded.shots else ""
        console.print(f"seeds: {loaded.seeds}{shots}, recipes: {', '.join(loaded.recipe_names)}")
        if loaded.retention:
            asked = ", ".join(f"{key} ({source})" for key, source in loaded.retention.items())
            console.print(f"retention: {asked}", soft_wrap=True)
        for method in loaded.grid:
            console.print(f"settings of {method}: {len(loaded.settings_of(method))}")
        for recipe_name, published in loaded.published.items():
            console.print(f"{recipe_name}: {published.about} Methods: {', '.join(published.methods)}.", soft_wrap=True)
        console.print(f"file: {suite.find(name)}", soft_wrap=True)
    else:
        _card(console, datasets.get(name).card)


def open_clip_models(console: Console, pattern: str) -> None:
    """Every model of the installed open_clip: what it is as a backbone and what a step costs, or why it is none.

    Args:
        console: where to print.
        pattern: as in `clip.models`, in small or capital letters; "" is all.
    """
    from ...backbones import clip
    from ...backbones.registered import OPENAI, QUICK_GELU

    rows = list(clip.models(pattern))
    if not rows:
        raise UserError(f"list backbones: open_clip has no model with '{pattern}' in its name; give less of it.")
    openai = [name for name in OPENAI if any(row.model in (name, f"{name}{QUICK_GELU}") for row in rows)]
    accepted = [(row, row.cost) for row in rows if row.cost is not None]
    if accepted:
        each = f", {BATCH} pairs"
        titles = ("model", "weights", "M parameters", "pixels", "tokens", "loss", f"TFLOPs{each}", f"GB{each}")
        table = Table(*titles, title="backbones of open_clip, as MODEL:TAG", title_justify="left")
        for row, cost in accepted:
            table.add_row(
                row.model,
                ", ".join(row.tags) if len(row.tags) < 3 else f"{len(row.tags)} tags",
                f"{cost.parameters / 1e6:.0f}",
                str(row.architecture.image_size),
                str(row.architecture.context) + ("" if row.architecture.clip_tokens else "*"),
                row.architecture.loss,
                f"{cost.step_flops(BATCH) / 1e12:.1f}",
                f"{cost.memory(BATCH) / 2**30:.0f}",
            )
        console.print(table)
        console.print(
            f"A step trains both towers on {BATCH} pairs in bf16; memory is an estimate (weights, AdamW, and what the "
            "backward pass reads). * has a tokenizer of Hugging Face: pip install 'robustft[tokenizers]'. Also "
            "hf-hub:org/name and local-dir:PATH with open_clip's configuration, and MODEL:FILE.safetensors.",
            soft_wrap=True,
        )
        if openai:
            names = ", ".join(openai)
            console.print(f"Without a tag, {names}: OpenAI's weights, with their QuickGELU.", soft_wrap=True)
        if len(accepted) == 1:
            console.print(f"{accepted[0][0].model}: {clip.tags(accepted[0][0].model)}.", soft_wrap=True)
    for row in (row for row in rows if row.cost is None):
        console.print(f"no backbone: {row.architecture.foreign}.", markup=False, soft_wrap=True)


def _first_line(thing: Any) -> str:
    return _of_text(thing.__doc__)


def _of_text(docstring: str | None) -> str:
    return (docstring or "").strip().partition("\n")[0]


def _methods() -> dict[str, str]:
    """Every method with its first line: read from the source where nothing has imported them yet, for torch is slow."""
    read = None if f"{PACKAGE}.methods" in sys.modules else _read_methods(Path(__file__).parents[2] / "methods")
    if read is not None:
        return read
    from ..planning import benchmark as facts

    return {name: _first_line(method) for name, method in facts.methods().items()}


def _read_methods(folder: Path) -> dict[str, str] | None:
    """What importing the methods of a folder would register; None where the source alone does not say it."""
    found: dict[str, str] = {}
    listed = [node for node in _tree(folder / "__init__.py").body if isinstance(node, ast.ImportFrom)]
    for file in (folder / f"{alias.name}.py" for node in listed for alias in node.names):
        classes = [node for node in _tree(file).body if isinstance(node, ast.ClassDef)] if file.is_file() else []
        named = [(each, name) for each in classes for call in each.decorator_list for name in _registered(call)]
        if not named:
            return None
        for each, name in named:
            if not isinstance(name, ast.Constant) or not isinstance(name.value, str):
                return None
            found[name.value] = _of_text(ast.get_docstring(each))
    return dict(sorted(found.items()))


def _tree(file: Path) -> ast.Module:
    return ast.parse(file.read_bytes())


def _registered(node: ast.expr) -> list[ast.expr]:
    """What a decorator registers its class under; nothing where it is another decorator."""
    registers = isinstance(node, ast.Call) and getattr(node.func, "id", "") == "register" and len(node.args) == 1
    return node.args if isinstance(node, ast.Call) and registers else []


def _card(console: Console, card: Any) -> None:
    table = Table(
        "set", "role", "measures", "in pretraining", "in finetuning", title=card.version, title_justify="left"
    )
    for entry in card.sets:
        table.add_row(entry.name, entry.role, entry.measures, entry.in_pretraining, entry.in_finetuning)
    console.print(table)


def _method(
    console: Console, name: str, method: Any, benchmark: str | None, backbone: str | None, recipe: str | None
) -> None:
    console.print(f"{name} (version {method.version}): {_first_line(method)}")
    if benchmark is None:
        fields = method.Hyper.__pydantic_fields__
        table = Table("hyperparameter", "default", "meaning: unit, range, source")
        for entry in dataclasses.fields(method.Hyper):
            meaning = " ".join((fields[entry.name].description or "").split())
            table.add_row(entry.name, _text(entry.default), meaning)
        console.print(table if fields else "no hyperparameters of its own")
        shared = (*TRAINING_FIELDS, *OTHER_FIELDS) if learns(method) else OTHER_FIELDS
        console.print(f"and, as for every method: {', '.join(shared)} (see --benchmark for their values)")
        return
    from ..planning.benchmark import Benchmark

    loaded = Benchmark(benchmark)
    chosen = choose_backbone(backbone or loaded.suite.backbones[0], loaded.facts)
    resolver = loaded.resolver(recipe, rule="one_se")
    run = resolver.resolve(name, chosen, loaded.suite.seeds[0], {})[-1]
    title = f"{loaded.suite.name}, {chosen}, recipe {resolver.recipe}"
    table = Table("key", "value", "source", title=title, title_justify="left")
    for key in run.sources:
        table.add_row(key, _text(_value(run, key)), run.sources[key])
    console.print(table)
    if resolver.published is not None:
        departures(console, resolver.published, [name])
    others = [r for r, given in loaded.suite.published.items() if name in given.methods and r != resolver.recipe]
    if others:
        console.print(f"published values too, each with its source: --recipe {' or '.join(others)}", soft_wrap=True)


def departures(console: Console, recipe: Any, methods: list[str]) -> None:
    """What a published recipe reports, and what its authors do and this package does not."""
    console.print(f"{recipe.about} Reported: {recipe.selection}.", soft_wrap=True)
    sentences = dict.fromkeys(sentence for name in methods for sentence in recipe.departures_of(name))
    for sentence in sentences:
        console.print(f"departure: {sentence}", soft_wrap=True)


def tuned(console: Console, entries: dict[str, dict[str, Any]]) -> None:
    """What each rule chose, side by side."""
    table = Table(
        "method", "backbone", "one_se", "NLL", "best_id", "NLL", "trials", title="tuned", title_justify="left"
    )
    for method, backbones in entries.items():
        for backbone, entry in backbones.items():
            cells = []
            for choice in (entry.one_se, entry.best_id):
                cells += [
                    ", ".join(f"{key}={_text(value)}" for key, value in choice.values.items()),
                    f"{choice.nll:.4f}",
                ]
            table.add_row(method, backbone, *cells, str(len(entry.trials)))
    console.print(table)
