"""`robustft report`: gather records, draw the figures, write one HTML file."""

from pathlib import Path

import click

from ..console import make_console
from .gather import gather, with_roots


@click.command("report")
@click.argument("benchmark", required=False)
@with_roots
def report(benchmark: str | None, runs: Path, results: Path) -> int:
    """One HTML file with tables, figures and every run: results/report.html."""
    from ....results.plots.gallery import ENTRIES
    from ....results.report.report import write
    from .figures import absent, draw, pictures, tell_broken

    console = make_console()
    material = gather(runs, benchmark, console)
    made = draw(material, list(ENTRIES), results / "figures", console, png=False)
    path = write(material, results / "report.html", pictures(made), absent(made))
    console.print(f"wrote {path}: open it in a browser; it needs no network", soft_wrap=True)
    return tell_broken(made)
