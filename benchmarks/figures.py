"""`robustft figures`: one command a figure, SVG and PNG, from finished runs and the committed reference."""

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .console import make_console
from .errors import UserError, resolve_name
from .report import gather, with_roots

if TYPE_CHECKING:
    from ..results.material import Material
    from ..results.report import Picture


@click.command("figures")
@click.argument("name")
@click.option("--benchmark", default=None, help="Draw for this benchmark alone.")
@click.option(
    "--baselines",
    type=click.Path(path_type=Path),
    help="CSV of models without pretraining (columns id and ood, in percent) for the figure robustness of BENCHMARK.",
)
@with_roots
def figures(name: str, benchmark: str | None, baselines: Path | None, runs: Path, results: Path) -> int:
    """Draw a figure, or all, into results/figures/BENCHMARK/NAME.svg and .png."""
    from ..results.effective_robustness import read_baselines
    from ..results.gallery import ENTRIES
    from ..results.plots import save

    names = list(ENTRIES) if name == "all" else [resolve_name("figure", name, ENTRIES)]
    console = make_console()
    if baselines is not None and benchmark is None:
        raise UserError("--baselines: is of the sets of one benchmark, and none was named; add --benchmark NAME.")
    material = gather(runs, benchmark, console)
    if baselines is not None:
        material = replace(material, baselines=read_baselines(baselines))
    drawn, missing = draw(material, names)
    for (part, figure), files in drawn.items():
        paths = save(files, results / "figures" / part / figure)
        console.print("wrote " + " and ".join(map(str, paths)), soft_wrap=True)
    if not drawn:
        raise UserError(next(iter(missing.values()), "figures: need a finished run, got none; run a sweep first."))
    for (part, figure), reason in missing.items() if name == "all" else ():
        console.print(f"skipped {part}/{figure}: {reason}", soft_wrap=True)
    return 0


def draw(
    material: "Material", names: Sequence[str]
) -> tuple[dict[tuple[str, str], dict[str, bytes]], dict[tuple[str, str], str]]:
    """(benchmark, figure) -> files, and (benchmark, figure) -> why there is none."""
    from ..results import gallery
    from ..results.material import Missing

    if "layers" in names:
        compare_layers(material)
    drawn, missing = {}, {}
    for benchmark in material.benchmarks:
        part = material.of(benchmark)
        for name in names:
            try:
                drawn[benchmark, name] = gallery.make(name, part)
            except Missing as error:
                missing[benchmark, name] = str(error)
    return drawn, missing


def pictures(material: "Material") -> dict[str, list["Picture"]]:
    """Every figure that can be drawn, for the report."""
    from ..results.gallery import ENTRIES
    from ..results.report import Picture

    found: dict[str, list[Picture]] = {}
    for (benchmark, name), files in draw(material, list(ENTRIES))[0].items():
        entry = ENTRIES[name]
        found.setdefault(benchmark, []).append(Picture(name, entry.title, entry.caption, files[".svg"].decode()))
    return found


def compare_layers(material: "Material") -> None:
    """Measure, once a run, how alike its layers are to the pretrained ones; a side file of the run keeps it.

    Only runs that the figure shows and whose final weights are there; torch is loaded if there is one. Where the data
    or the pretrained weights are not on this machine, or the validation images are too few, a warning says so and the
    run is left out of the figure.
    """
    from ..results.atomic import OutputError, write_json_atomic
    from ..results.material import LAYERS
    from ..results.plots_runs import LAYERS_OF

    for section in material.board.sections:
        for backbone in section.backbones:
            for method in LAYERS_OF:
                _, records = material.chosen(section, backbone, method, lambda record: bool(_weights(material, record)))
                for record in records:
                    if not material.layers(record):
                        from ..backbones import BackboneError
                        from ..datasets.card import DataError
                        from ..results.similarity import SimilarityError
                        from .layers import similarity_to_start

                        try:
                            found = {"layers": similarity_to_start(material.folder(record))}
                        except (UserError, DataError, BackboneError, SimilarityError) as error:
                            warnings.warn(f"figure layers: {method} on {backbone} is left out: {error}", stacklevel=2)
                            break
                        try:
                            write_json_atomic(material.folder(record) / LAYERS, found)
                        except OutputError as error:
                            raise UserError(f"figure layers: {error}") from error


def _weights(material: "Material", record: dict) -> bool:
    folder = material.folder(record)
    return folder is not None and (folder / "weights" / "final.safetensors").is_file()
