"""`robustft leaderboard`: gather all records, write the board, print it; and the screen that a sweep ends with."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from ...planning.current_selection import Suites
from ...planning.request import Planned, learns
from ...planning.unranked import command_name
from ...run_folder.folder import RunFolder

if TYPE_CHECKING:
    from ....results.tables.leaderboard import Board
    from ...planning.benchmark import Benchmark


def board(
    known: Suites, runs: Path, results: Path, console: Console, with_published: bool = False, only: str | None = None
) -> int:
    """Write leaderboard.csv, .md, .tex and .html from all benchmarks' records; print that of one (`only`), or all."""
    made = _write(known, runs, results, console, with_published)
    console.print((made if only is None else made.of(only)).to_console())
    return 0


def of_sweep(
    known: Suites, benchmark: "Benchmark", plan: list[Planned], rule: str, runs: Path, results: Path, console: Console
) -> None:
    """Write the same files; print the sweep's results, on one screen."""
    from ....results.statistics.setting_selection import RULES
    from ....results.tables.screen import Screen

    made = _write(known, runs, results, console)
    name, place = benchmark.suite.name, "" if runs == Path("runs") else f" --runs {shlex.quote(str(runs))}"
    ranking = rule if rule in RULES else RULES[0]  # rows of `fixed` stand in the default rule's table
    where = (
        f"`robustft leaderboard {command_name(benchmark)}{place}`, {results}/leaderboard.html (.md, .csv, .tex).",
        f"Figures and every run: `robustft report {name}{place}`.",
    )
    console.print(
        Screen(
            [section for section in made.sections if section.benchmark == name],
            made.judge,
            {planned.spec.run_id for planned in plan if planned.requested},
            ranking,
            tuple(_lacking(benchmark, plan, runs, place)),
            where,
        )
    )


def _lacking(benchmark: "Benchmark", plan: list[Planned], runs: Path, place: str) -> list[str]:
    """Sentences on runs that were asked for and have no result, and on seeds that were not asked for."""
    said, name = [], command_name(benchmark)
    missing = sum(not RunFolder.of(runs, planned.spec).done() for planned in plan)
    if missing:
        said.append(
            f"{missing} of {len(plan)} runs have no result: see `robustft status{place}`, then `robustft retry{place}`."
        )
    methods = benchmark.facts.methods
    asked = [planned.spec for planned in plan if planned.requested]
    varied = [spec for spec in asked if learns(methods[spec.method]) and not methods[spec.method].pools()]
    lacking = sorted(set(benchmark.suite.seeds) - {spec.seed for spec in varied})
    if varied and lacking:
        few = len(benchmark.suite.seeds) - len(lacking)
        said.append(
            f"Only {few} of the {len(benchmark.suite.seeds)} seeds of {name}: the same command with "
            f"--seeds {','.join(map(str, benchmark.suite.seeds))} makes the others."
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
