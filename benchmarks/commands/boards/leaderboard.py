"""`robustft leaderboard`: gather all records, write the board, print it; and the screen that a sweep ends with."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from ...errors import resolve_name
from ...host.printed import complete, counted
from ...planning.current_selection import Suites
from ...planning.request import Planned, learns
from ...run_folder.folder import RunFolder

if TYPE_CHECKING:
    from ....results.board.grouping import Record
    from ....results.tables.leaderboard import Board
    from ...planning.benchmark import Benchmark


def board(
    known: Suites,
    runs: Path,
    results: Path,
    console: Console,
    with_published: bool = False,
    only: str | None = None,
    columns: str | None = None,
) -> int:
    """Write leaderboard.csv, .md, .tex and .html from all benchmarks' records; print that of one (`only`), or all.

    Args:
        columns: metrics to show beside accuracy, with commas; earlier records get them from their samples.
    """
    made = _write(known, runs, results, console, with_published, columns_of(columns), only)
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


def columns_of(text: str | None) -> tuple[str, ...]:
    """The metrics that --columns names, each once; those of every board where it names none."""
    from ....results.board.rows import MORE_METRICS, SHOWN

    names = [name.strip() for name in (text or "").split(",") if name.strip()]
    return tuple(dict.fromkeys(resolve_name("column", name, (*SHOWN, *MORE_METRICS)) for name in names)) or SHOWN


def _write(
    known: Suites,
    runs: Path,
    results: Path,
    console: Console,
    with_published: bool = False,
    shown: Sequence[str] = (),
    only: str | None = None,
) -> "Board":
    from ....results.board.per_sample import Outcomes
    from ....results.board.rows import MORE_METRICS, SHOWN
    from ....results.tables import leaderboard
    from ...python.tables import entries

    def report(sentence: str) -> None:
        console.print(sentence, markup=False, soft_wrap=True)

    local, reference = entries(known, runs, report)
    more = [metric for metric in shown if metric in MORE_METRICS]
    if more:
        local, reference = _with_metrics(local, reference, runs, more, only)
    return leaderboard.write(local, reference, results, Outcomes(runs), published=with_published, shown=shown or SHOWN)


def _with_metrics(
    local: "Iterable[Record]", reference: "Iterable[Record]", runs: Path, metrics: Sequence[str], only: str | None
) -> "tuple[list[Record], list[Record]]":
    """Records with these metrics, which earlier ones lack, from the samples of their runs: of one benchmark, or all."""
    from ....results.audit.rescoring import FolderFiles, ReferenceFiles, completed
    from ....results.records.records import REFERENCE
    from ....results.records.reference import ReferencePredictions, opened
    from ....results.records.run_id import folder_name

    def folder(record: "Record") -> Path:
        place = Path(record["benchmark"], folder_name(record["method"], record["spec"]), record["backbone"])
        return runs / place / f"seed{record['seed']}-{record['run_id']}" / "predictions"

    def asked(record: "Record") -> bool:
        return only in (None, record["benchmark"])

    names = {record["benchmark"] for record in reference if asked(record)}
    kept = {name: opened(REFERENCE / name) or ReferencePredictions(REFERENCE / name) for name in names}
    return (
        [completed(r, FolderFiles(folder(r)), metrics) if asked(r) else r for r in local],
        [
            completed(r, ReferenceFiles(kept[r["benchmark"]], r["run_id"]), metrics) if asked(r) else r
            for r in reference
        ],
    )
