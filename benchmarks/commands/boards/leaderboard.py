"""`robustft leaderboard`: gather all records, write the board, print it; and the screen that a sweep ends with."""

from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from ...host.printed import complete, counted
from ...planning.current_selection import Suites
from ...planning.request import Planned, learns
from ...run_folder.folder import RunFolder

if TYPE_CHECKING:
    from ....results.tables.leaderboard import Board
    from ...planning.benchmark import Benchmark


def board(
    known: Suites, runs: Path, results: Path, console: Console, with_published: bool = False, only: str | None = None
) -> int:
    """Write leaderboard.csv, .md, .tex and .html from all benchmarks' records; print that of one (`only`), or all."""
    made = _write(known, runs, results, console, with_published)
    console.print((made if only is None else made.of(only)).to_console(complete))
    return 0


def of_sweep(
    known: Suites, benchmark: "Benchmark", plan: list[Planned], rule: str, runs: Path, results: Path, console: Console
) -> None:
    """Write the same files; print the sweep's results, on one screen."""
    from ....results.statistics.setting_selection import RULES
    from ....results.tables.screen import Screen

    made = _write(known, runs, results, console)
    name = benchmark.suite.name
    ranking = rule if rule in RULES else RULES[0]  # rows of `fixed` stand in the default rule's table
    where = (
        f"`robustft leaderboard {benchmark.command_name}`, {results}/leaderboard.html (.md, .csv, .tex).",
        f"Figures and every run: `robustft report {name}`.",
    )
    console.print(
        Screen(
            [section for section in made.sections if section.benchmark == name],
            made.judge,
            {planned.spec.run_id for planned in plan if planned.requested},
            ranking,
            tuple(_lacking(benchmark, plan, runs)),
            where,
            complete,
        )
    )


def _lacking(benchmark: "Benchmark", plan: list[Planned], runs: Path) -> list[str]:
    """Sentences on runs that were asked for and have no result, and on seeds that were not asked for."""
    said, every = [], benchmark.suite.seeds
    missing = sum(not RunFolder.of(runs, planned.spec).done() for planned in plan)
    if missing:
        of, have = counted(len(plan), "run"), "has" if missing == 1 else "have"
        said.append(f"{missing} of {of} {have} no result: see `robustft status`, then `robustft retry`.")
    methods = benchmark.facts.methods
    asked = [planned.spec for planned in plan if planned.requested]
    varied = [spec for spec in asked if learns(methods[spec.method]) and not methods[spec.method].pools()]
    lacking = sorted(set(every) - {spec.seed for spec in varied})
    if varied and lacking:
        seeds = ",".join(map(str, every))
        said.append(
            f"Only {len(every) - len(lacking)} of the {len(every)} seeds of {benchmark.command_name}; for all: the "
            f"same command with --seeds {seeds} (make: SEEDS={seeds})."
        )
    return said


def _write(known: Suites, runs: Path, results: Path, console: Console, with_published: bool = False) -> "Board":
    from ....results.board.per_sample import Outcomes
    from ....results.tables import leaderboard
    from ...python.tables import entries

    def report(sentence: str) -> None:
        console.print(sentence, markup=False, soft_wrap=True)

    local, reference = entries(known, runs, report)
    return leaderboard.write(local, reference, results, Outcomes(runs), published=with_published)
