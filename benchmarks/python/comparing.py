"""Two methods against each other, paired by seed and source image: for a person to read, and as values."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError, fold, resolve_name
from .mistakes import one_error
from .places import StrPath, root_of

if TYPE_CHECKING:
    import pandas as pd

    from ...results.board.comparison import Comparison
    from ...results.board.per_sample import Outcomes
    from ...results.board.rows import Row, Section


@dataclass(frozen=True)
class ColumnCompared:
    """First minus second on one column of a board, as fractions (NLL: nats).

    Attributes:
        column: as in a board: "acc_id", "acc_ood_mean", "acc/<set>", "worst_group_accuracy/<set>".
        first, second: means over each one's seeds.
        difference: mean over the seeds that are compared.
        interval: 95 %, for new seeds and new source images; None where one model cannot tell what other seeds would
            change.
        images_interval: 95 %, for new source images and these checkpoints.
        p: two-sided, for that `interval`; None as it. Not corrected for looking at several columns.
        images_p: two-sided, for these checkpoints.
        resolvable: the true difference that is found with 80 % power; None as `interval`.
        seeds: those compared. images: how many source images.
    """

    column: str
    first: float | None
    second: float | None
    difference: float
    interval: tuple[float, float] | None
    images_interval: tuple[float, float]
    p: float | None
    images_p: float
    resolvable: float | None
    seeds: tuple[int, ...]
    images: int


@dataclass(frozen=True)
class Compared:
    """Two methods on one backbone of one benchmark; `columns` has the numbers, `to_frame` as a data frame.

    Attributes:
        first, second: as their rows are called.
        provenance: "local" or "reference".
    """

    benchmark: str
    version: str
    recipe: str
    rule: str
    backbone: str
    provenance: str
    first: str
    second: str
    columns: tuple[ColumnCompared, ...]

    def __getitem__(self, column: str) -> ColumnCompared:
        known = {each.column: each for each in self.columns}
        if column not in known:
            raise UserError(f"column: must be one of {', '.join(known)}, got {column!r}; correct it.")
        return known[column]

    def to_frame(self) -> pd.DataFrame:
        """A row a column of the board; intervals as two columns each, and NaN where a value is None."""
        import pandas as pd

        return pd.DataFrame([_flat(each) for each in self.columns])


def _flat(each: ColumnCompared) -> dict[str, Any]:
    values = asdict(each)
    for name in ("interval", "images_interval"):
        low, high = values.pop(name) or (None, None)
        values |= {f"{name}_low": low, f"{name}_high": high}
    return values


@dataclass(frozen=True)
class Pair:
    """The rows of two methods in the table of a rule on a backbone, and how they differ on each column."""

    section: Section
    rule: str
    rows: Sequence[Row]
    first: Row
    second: Row
    comparisons: Mapping[str, Comparison | None]
    names: Mapping[str, str]
    """Column -> what a table calls it."""


@dataclass(frozen=True)
class Found:
    """All pairs of rows of two methods.

    Attributes:
        reasons: why there is none, reason -> backbones.
    """

    outcomes: Outcomes
    pairs: list[Pair] = field(default_factory=list)
    reasons: dict[str, list[str]] = field(default_factory=dict)


@one_error
def compare(
    first: str,
    second: str,
    *,
    benchmark: str,
    backbone: str | None = None,
    rule: str = "one_se",
    reference: bool = False,
    runs: StrPath | None = None,
) -> list[Compared]:
    """The difference of two methods with its intervals and p values, one result a backbone.

    Runs are paired by seed and source image, from their per-sample files. What the numbers mean: docs, "How numbers
    are made".

    Args:
        first: name of a method.
        second: name of another.
        benchmark: whose runs are compared, a name or a suite file.
        backbone: one; all that both have by default.
        rule: the selection rule of the rows: "one_se" or "best_id".
        reference: the committed runs in place of those below `runs`.
        runs: root of all run folders; by default that of ROBUSTFT_RUNS, or the folder runs.

    Raises:
        UserError: there are no ranked runs of both, or they have no per-sample files; one sentence.
    """
    found = find(first, second, benchmark, backbone, rule, reference, root_of(runs), warnings.warn)
    return [_compared(pair) for pair in found.pairs]


def _compared(pair: Pair) -> Compared:
    section, first, second = pair.section, pair.first, pair.second
    columns = []
    for column, comparison in pair.comparisons.items():
        if comparison is None:
            continue
        difference = comparison.difference
        low, high = difference.image_interval()
        columns.append(
            ColumnCompared(
                column,
                first.mean(column),
                second.mean(column),
                float(difference.mean),
                comparison.interval,
                (float(low), float(high)),
                comparison.p,
                float(difference.image_p),
                comparison.resolvable,
                comparison.seeds,
                difference.images,
            )
        )
    about = (section.benchmark, section.version, section.condition, pair.rule, first.backbone, first.provenance)
    return Compared(*about, first.name, second.name, tuple(columns))


def find(
    first: str,
    second: str,
    benchmark: str,
    backbone: str | None,
    rule: str,
    reference: bool,
    runs: Path,
    tell: Callable[[str], None],
) -> Found:
    """What `robustft compare` shows.

    Args:
        tell: called with a sentence on a suite that cannot be read.

    Raises:
        UserError: there is nothing to compare.
    """
    from ...results.board.per_sample import Outcomes
    from ...results.records import records
    from ...results.statistics.setting_selection import RULES
    from ...results.tables import leaderboard
    from ..planning import current_selection

    rule = resolve_name("rule", rule, RULES)
    if reference:
        benchmark = resolve_name("benchmark", benchmark, sorted(path.name for path in records.REFERENCE.glob("*/")))
        board = leaderboard.build([], records.gather_reference(benchmark))
    else:
        known = current_selection.Suites(tell)
        benchmark = known.of(benchmark, runs)
        gathered = [record for record in records.gather(runs) if record["benchmark"] == benchmark]
        board = leaderboard.build(list(known.for_board(gathered)))
    methods = _methods((first, second), board.sections)
    where = "the committed reference" if reference else f"--runs {runs}"
    remedy = "" if reference else ": run `robustft sweep BENCHMARK --method {}`, or add --reference"
    have = {row.method for section in board.sections for row in section.rows}
    lacking = [
        f"{where} has no run of {name} of {benchmark}{remedy.format(name)}" for name in methods if name not in have
    ]
    if lacking:
        of_these = f"; it has {', '.join(sorted(have))}" if reference else ""
        raise UserError(f"compare: {'; '.join(lacking)}{of_these}.")
    found = Found(Outcomes(runs=None if reference else runs))
    for section in board.sections:
        _add(found, section, methods, backbone, rule)
    if not found.pairs:
        raise UserError(f"compare: no ranked runs of both {' and '.join(methods)}: {'; '.join(found.reasons)}.")
    return found


def _methods(asked: tuple[str, str], sections: Iterable[Section]) -> list[str]:
    """The names of two methods, of which there are runs or which are installed.

    Raises:
        UserError: a name is of none, or both are one method.
    """
    names = {row.method for section in sections for row in section.rows}
    if not {fold(name) for name in asked} <= set(map(fold, names)):
        from ..planning import (
            benchmark as facts,  # methods, and so torch: only to tell a method without runs from a slip of the pen
        )

        names |= set(facts.methods())
    found = [resolve_name("method", name, names) for name in asked]
    if found[0] == found[1]:
        raise UserError(f"compare: must be given two methods, got {found[0]} twice; name another one.")
    return found


def _add(found: Found, section: Section, methods: list[str], backbone: str | None, rule: str) -> None:
    """Adds a section's pairs, and why there is none."""
    known = section.backbones
    for name in [resolve_name("backbone", backbone, known)] if backbone else known:
        rows = [*section.table(rule, name), *(row for row in section.unranked() if _beside(row, name))]
        first, second = (_row(rows, method) for method in methods)
        if first is not None and second is not None:
            found.pairs.append(_pair(found.outcomes, section, rule, rows, first, second))
            continue
        for method in (method for method, row in zip(methods, (first, second), strict=True) if row is None):
            backbones = found.reasons.setdefault(_why_not(section, method, name, rule), [])
            backbones += [name] if name not in backbones else []


def _beside(row: Row, backbone: str) -> bool:
    """Whether a row that no rule ranks can be compared all the same: that of a checkpoint that somebody gave."""
    return row.is_given and row.backbone == backbone


def _row(rows: Sequence[Row], method: str) -> Row | None:
    """The row of a method, as its rule chose it; a fixed point of a path only where nothing else is there."""
    found = [row for row in rows if row.method == method]
    return min(found, key=lambda row: (bool(row.kind), not row.complete, row.name), default=None)


def _why_not(section: Section, method: str, backbone: str, rule: str) -> str:
    """Why a method has no row in the table of a rule on a backbone, and what to do."""
    from ...results.board.rows import TRANSDUCTIVE, UNRANKED

    rows = [row for row in section.rows if (row.method, row.backbone) == (method, backbone)]
    if not rows:
        return f"{method} has no run on {backbone} under recipe {section.condition}"
    if ranked := [row for row in rows if row.rules]:
        return f"{method} is a result of rule {ranked[0].rules[0]} and not of {rule}: add --rule {ranked[0].rules[0]}"
    reasons = [row.marks[key] for row in rows for key in (UNRANKED, "stale", TRANSDUCTIVE) if key in row.marks]
    return f"{method} is {reasons[0] if reasons else 'of a study, which ranks nothing'}"


def _pair(outcomes: Outcomes, section: Section, rule: str, rows: Sequence[Row], first: Row, second: Row) -> Pair:
    from ...results.board.comparison import compare as compared
    from ...results.board.comparison import sets_of
    from ...results.board.rows import in_percent
    from ...results.tables.cells import metric_columns

    columns = [(c, name) for c, name in metric_columns(section) if in_percent(c) and sets_of(section, c) is not None]
    comparisons = {column: compared(outcomes, section, first, second, column) for column, _ in columns}
    if all(comparison is None for comparison in comparisons.values()):
        raise UserError(
            f"compare: {first.name} and {second.name} on {first.backbone} must have per-sample files of common "
            "seeds, found none; run them with the same seeds, and keep the folders predictions/."
        )
    return Pair(section, rule, rows, first, second, comparisons, dict(columns))
