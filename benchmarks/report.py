"""`robustft report`: gather records, draw the figures, write one HTML file."""

from pathlib import Path

import click
from rich.console import Console

from . import flags
from .console import complain, make_console
from .errors import UserError, resolve_name
from .places import Place

with_roots = flags.together(
    flags.runs,
    click.option("--results", type=Place(), default=Path("results"), help="Where the files go."),
)
"""The two options that say where runs are and where results go."""


def gather(runs: Path, benchmark: str | None, console: Console) -> object:
    """All records, local ones with the selection that today's tuning gives them, and the committed reference.

    Raises:
        UserError: `benchmark` has no finished run, local or committed.
    """
    from ..results import records
    from ..results.material import Material
    from . import finished

    def report(sentence: str) -> None:
        console.print(sentence, markup=False, soft_wrap=True)

    local = list(finished.Suites(complain).for_board(records.gather(runs, report)))
    reference = records.gather_reference(report=report)
    material = Material(tuple(local), tuple(reference), runs)
    if benchmark is None:
        return material
    if not material.benchmarks:
        raise UserError(f"--runs {runs}: must have a finished run, got none; run `robustft sweep {benchmark}` first.")
    remedy = f"finished runs are of: {', '.join(material.benchmarks)}"
    return material.of(resolve_name("benchmark", benchmark, material.benchmarks, remedy))


@click.command("report")
@click.argument("benchmark", required=False)
@with_roots
def report(benchmark: str | None, runs: Path, results: Path) -> int:
    """One HTML file with tables, figures and every run: results/report.html."""
    from ..results.gallery import ENTRIES
    from ..results.report import write
    from .figures import absent, draw, pictures, tell_broken

    console = make_console()
    material = gather(runs, benchmark, console)
    made = draw(material, list(ENTRIES), results / "figures", console, png=False)
    path = write(material, results / "report.html", pictures(made), absent(made))
    console.print(f"wrote {path}: open it in a browser; it needs no network", soft_wrap=True)
    return tell_broken(made)
