"""`robustft figures`: one command a figure, SVG and PNG, from finished runs and the committed reference."""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from rich.console import Console

from ...errors import UserError, is_mistake, resolve_name
from ...executors.progress import Steps
from ...host.places import Place
from ..console import complain, make_console
from .gather import gather, with_roots

if TYPE_CHECKING:
    from ....results.plots.figure_data import Material
    from ....results.report.report import Picture

PROCESSES = 4
"""That draw side by side, at most: each has its own matplotlib."""
Kept = TypeVar("Kept")
_parts: "Mapping[str, Material]" = {}
_png = True


@click.command("figures")
@click.argument("name")
@click.option("--benchmark", default=None, help="Draw for this benchmark alone.")
@click.option(
    "--baselines",
    type=Place(),
    help="CSV of models without pretraining (columns id and one a shift, in percent) for the figure robustness.",
)
@with_roots
def figures(name: str, benchmark: str | None, baselines: Path | None, runs: Path, results: Path) -> int:
    """Draw a figure, or all, into results/figures/BENCHMARK/NAME.svg and .png."""
    from ....results.metrics.effective_robustness import read_baselines
    from ....results.plots.gallery import ENTRIES
    from ....results.plots.style import save

    names = list(ENTRIES) if name == "all" else [resolve_name("figure", name, ENTRIES)]
    console = make_console()
    if baselines is not None and benchmark is None:
        raise UserError("--baselines: is of the sets of one benchmark, and none was named; add --benchmark NAME.")
    material = gather(runs, benchmark, console)
    if baselines is not None:
        material = replace(material, baselines=read_baselines(baselines))
    made = draw(material, names, results / "figures", console)
    for (part, figure), files in made.files.items():
        paths = save(files, results / "figures" / part / figure)
        console.print("wrote " + " and ".join(map(str, paths)), soft_wrap=True)
    if not made.files and not made.broken:
        raise UserError(next(iter(made.missing.values()), "figures: need a finished run, got none; run a sweep first."))
    for (part, figure), reason in made.missing.items() if name == "all" else ():
        console.print(f"skipped {part}/{figure}: {reason}", soft_wrap=True)
    return tell_broken(made)


@dataclass(frozen=True)
class Made:
    """What became of figures; each key is (benchmark, figure).

    Attributes:
        files: suffix -> content.
        missing: why there is none. broken: of those, what went wrong where that is a fault of ours.
    """

    files: Mapping[tuple[str, str], Mapping[str, bytes]]
    missing: Mapping[tuple[str, str], str]
    broken: Mapping[tuple[str, str], str]


def draw(material: "Material", names: Sequence[str], folder: Path, console: Console, png: bool = True) -> Made:
    """Draw figures of every benchmark, those alone that were not drawn from the same before (`results.drawn`).

    Args:
        folder: of all figures; what is drawn is kept there.
        png: False: the SVG alone.
    """
    from ....results.plots.drawn import Album, digest

    if "layers" in names:
        compare_layers(material, console)
    parts = {benchmark: material.of(benchmark) for benchmark in material.benchmarks}
    albums = {benchmark: Album(folder, benchmark, digest(part)) for benchmark, part in parts.items()}
    jobs = [(benchmark, name) for benchmark in parts for name in names]
    files: dict[tuple[str, str], Mapping[str, bytes]]
    files = {job: found for job in jobs if (found := albums[job[0]].find(job[1], png))}
    missing: dict[tuple[str, str], str] = {}
    broken: dict[tuple[str, str], str] = {}
    for job, outcome in _drawn(parts, [job for job in jobs if job not in files], png, console):
        if outcome.files:
            files[job] = outcome.files
            albums[job[0]].keep(job[1], outcome.files)
        else:
            (broken if outcome.broken else missing)[job] = outcome.reason

    def in_order(of: Mapping[tuple[str, str], Kept]) -> dict[tuple[str, str], Kept]:
        return {job: of[job] for job in jobs if job in of}

    return Made(in_order(files), in_order(missing), in_order(broken))


@dataclass(frozen=True)
class Outcome:
    """What became of one figure: its files, or the reason why there are none."""

    files: Mapping[str, bytes] | None = None
    reason: str = ""
    broken: bool = False


def _drawn(
    parts: Mapping[str, "Material"], jobs: Sequence[tuple[str, str]], png: bool, console: Console
) -> Iterator[tuple[tuple[str, str], Outcome]]:
    """Each figure as it is done, drawn by several processes where the machine has cores for them.

    A picture is a function of its records, whoever draws it. The processes are forks, which have the records already
    and need no import; where there is no fork, or one of them is killed, this process draws.
    """
    from ...host.environment import cores

    _hold(parts, png)
    done, count = set(), min(cores(), len(jobs), PROCESSES)
    with contextlib.ExitStack() as stack:
        if count > 1 and sys.platform == "linux":
            _load_drawing()
            context = multiprocessing.get_context("fork")
            pool = stack.enter_context(ProcessPoolExecutor(count, context, initializer=_serve, initargs=(os.getpid(),)))
            stack.callback(pool.shutdown, cancel_futures=True)  # at Ctrl-C: what has begun ends in a moment
            running = {pool.submit(_make, job): job for job in jobs}
            steps = stack.enter_context(Steps(console, "drawing figures", len(jobs)))  # its thread after the forks
            with contextlib.suppress(BrokenProcessPool):
                for future in as_completed(running):
                    yield running[future], future.result()
                    done.add(running[future])
                    steps.step()
        else:
            steps = stack.enter_context(Steps(console, "drawing figures", len(jobs)))
        for job in jobs:
            if job not in done:
                yield job, _make(job)
                steps.step()


def _hold(parts: Mapping[str, "Material"], png: bool) -> None:
    global _parts, _png
    _parts, _png = parts, png


def _serve(parent: int) -> None:
    """Leave Ctrl-C, which reaches every process of a terminal, to the parent; and leave when that is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _load_drawing() -> None:
    """What every process that draws needs, imported once."""
    import matplotlib.backends.backend_agg
    import matplotlib.backends.backend_svg  # noqa: F401

    from ....results.plots.style import drawing

    with drawing():
        import matplotlib.figure  # noqa: F401


def _make(job: tuple[str, str]) -> Outcome:
    from ....results.plots import gallery
    from ....results.plots.figure_data import Missing

    benchmark, name = job
    try:
        return Outcome(gallery.make(name, _parts[benchmark], _png))
    except Missing as error:
        return Outcome(reason=str(error), broken=isinstance(error, gallery.Broken))


def pictures(made: Made) -> dict[str, list["Picture"]]:
    """Every figure that was drawn, for the report."""
    from ....results.plots.gallery import ENTRIES
    from ....results.report.report import Picture

    found: dict[str, list[Picture]] = {}
    for (benchmark, name), files in made.files.items():
        entry = ENTRIES[name]
        found.setdefault(benchmark, []).append(Picture(name, entry.title, entry.caption, files[".svg"].decode()))
    return found


def absent(made: Made) -> dict[str, dict[str, str]]:
    """Benchmark -> title of each figure that was not drawn -> why, for the report."""
    from ....results.plots.gallery import ENTRIES

    found: dict[str, dict[str, str]] = {}
    for (benchmark, name), reason in {**made.broken, **made.missing}.items():
        found.setdefault(benchmark, {})[ENTRIES[name].title] = reason
    return found


def tell_broken(made: Made) -> int:
    """Names on stderr what could not be drawn; the exit code, 1 if there is any."""
    for (benchmark, _), reason in made.broken.items():
        complain(f"{benchmark}: {reason}")
    return 1 if made.broken else 0


def compare_layers(material: "Material", console: Console) -> None:
    """Measure, once a run, how alike its layers are to the pretrained ones; a side file of the run keeps it.

    Only runs that the figure shows and whose final weights are there; torch is loaded if there is one. Where the data
    or the pretrained weights are not on this machine, or the validation images are too few, a warning says so and the
    run is left out of the figure.
    """
    from ....results.plots.run_figures import layered

    waiting: list[tuple[str, list[Any]]] = []
    for section in material.board.sections:
        for backbone in section.backbones:
            for method in layered(material, section, backbone):
                _, records = material.chosen(section, backbone, method, lambda record: bool(_weights(material, record)))
                waiting.append((f"{method} on {backbone}", [r for r in records if not material.layers(r)]))
    with Steps(console, "comparing layers", sum(len(records) for _, records in waiting)) as steps:
        for title, records in waiting:
            for record in records:
                folder = material.folder(record)
                if folder is None or not _compared(folder, title):
                    break
                steps.step()


def _compared(folder: Path, title: str) -> bool:
    """Whether the layers of a run could be compared; if so, they are, in its folder."""
    from ....results.plots.figure_data import LAYERS
    from ....results.records.atomic import OutputError, write_json_atomic
    from ...execution.layer_similarity import similarity_to_start

    try:
        found = {"layers": similarity_to_start(folder)}
    except Exception as error:  # whatever it is, it costs this line of one figure
        what = error if is_mistake(error) else f"{type(error).__name__}: {error}"
        warnings.warn(f"figure layers: {title} is left out: {what}", stacklevel=2)
        return False
    try:
        write_json_atomic(folder / LAYERS, found)
    except OutputError as error:
        raise UserError(f"figure layers: {error}") from error
    return True


def _weights(material: "Material", record: Mapping[str, Any]) -> bool:
    folder = material.folder(record)
    return folder is not None and (folder / "weights" / "final.safetensors").is_file()
