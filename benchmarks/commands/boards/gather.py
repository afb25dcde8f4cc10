"""What `report` and `figures` gather: the records below --runs and the committed reference."""

from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console

from ...errors import UserError, resolve_name
from ...host.places import Place
from .. import options as flags
from ..console import complain

if TYPE_CHECKING:
    from ....results.plots.figure_data import Material

with_roots = flags.together(
    flags.include,
    flags.runs,
    click.option("--results", type=Place(folder=True), default=Path("results"), help="Where the files go."),
)
"""The options that say where runs are and where results go, and what is a plug-in's."""


def gather(runs: Path, benchmark: str | None, console: Console) -> "Material":
    """All records, local ones with the selection that today's tuning gives them, and the committed reference.

    Raises:
        UserError: `benchmark` has no finished run, local or committed.
    """
    from ....results.plots.figure_data import Material
    from ....results.records import records
    from ...planning import current_selection

    def report(sentence: str) -> None:
        console.print(sentence, markup=False, soft_wrap=True)

    local = list(current_selection.Suites(complain).for_board(records.gather(runs, report)))
    reference = records.gather_reference(report=report)
    material = Material(tuple(local), tuple(reference), runs)
    if benchmark is None:
        return material
    if not material.benchmarks:
        raise UserError(f"--runs {runs}: must have a finished run, got none; run `robustft sweep BENCHMARK` first.")
    remedy = f"finished runs are of: {', '.join(material.benchmarks)}"
    return material.of(resolve_name("benchmark", benchmark, material.benchmarks, remedy))
