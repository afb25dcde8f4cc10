"""`robustft merge`: bundles of several groups in one board, each verified first."""

from __future__ import annotations

from pathlib import Path

import click

from ...host.places import Place
from .. import options as flags
from ..console import make_console


@click.command("merge")
@click.argument("bundles", nargs=-1, required=True, metavar="BUNDLE...", type=Place())
@flags.results
def command(bundles: tuple[Path, ...], results: Path) -> int:
    """Bundles of several groups in one board, each group's runs in rows of their own.

    Each bundle is verified first, as by `robustft verify`, and one that does not hold ends the command: there is no
    flag to show it all the same, for nobody who reads a board sees which of its numbers were not checked.
    """
    from ....results.audit import merged
    from ....results.tables import leaderboard

    console = make_console()
    checked = []
    for submission in merged.submissions(bundles):
        found = submission.checked()
        console.print(f"{submission.name} ({submission.folder}): {found.summary}", markup=False, soft_wrap=True)
        checked.append((submission, found))
    board = merged.board(checked)
    leaderboard.save(board, results)
    console.print(board.to_console())
    console.print(f"wrote {results}/leaderboard.html (.md, .csv, .tex)", markup=False, soft_wrap=True)
    return 0
