"""`robustft leaderboard`: gather all records, write the board, print it."""

from pathlib import Path

from rich.console import Console

from .finished import Suites


def board(
    known: Suites, runs: Path, results: Path, console: Console, with_published: bool = False, only: str | None = None
) -> int:
    """Write leaderboard.csv, .md, .tex and .html from all benchmarks' records; print that of one (`only`), or all."""
    from ..results import leaderboard, records
    from ..results.outcomes import Outcomes
    from ..results.packed import Packed

    def report(sentence: str) -> None:
        console.print(sentence, markup=False, soft_wrap=True)

    shared: dict = {}
    local = [Packed(record, shared) for record in known.with_selections(records.gather(runs, report))]
    reference = records.gather_reference(report=report)
    outcomes = Outcomes(runs)
    made = leaderboard.write(local, reference, results, outcomes, published=with_published)
    console.print((made if only is None else made.of(only)).to_console())
    return 0
