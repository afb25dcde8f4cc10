"""One summary over pretrained models: what rows come to on average, and which differ from plain finetuning on all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ..statistics.paired import Difference, holm, over_models, resolvable
from ..statistics.seed_summary import LEVEL, mean_sd
from .comparison import Judge
from .per_sample import SetScores, combined, tables
from .provenances import shares_name
from .rows import BASELINE, JOINT, Row, Section

MODELS = 4
"""Below so many there is no summary: of three models without any difference one in four shows one sign on all."""


@dataclass(frozen=True)
class Against:
    """A row minus plain finetuning on one column, as fractions.

    Attributes:
        difference: mean over models.
        same: on how many models the difference has the sign of that mean; none where it is 0.
        images: of the test, over all sets of the column; 0 where there was none.
        interval: at the `level` of its column; None where it could not be tested.
        p: Holm's adjusted p value over the column; None as `interval`.
        claimed: whether an order is: the interval excludes 0, and the sign is one on all models.
        resolvable: the true difference that Holm separates first with 80 % power; None as `interval`, and where the row
            is plain finetuning, image by image, which says nothing of noise.
    """

    difference: float
    same: int
    images: int = 0
    interval: tuple[float, float] | None = None
    p: float | None = None
    claimed: bool = False
    resolvable: float | None = None


@dataclass(frozen=True)
class OverRow:
    """A method over all models.

    Attributes:
        rows: of the board, one a model. provenance: theirs, or the group's that all of them are of.
        means: column -> mean over models. intervals: column -> its 95 % interval, where there are files of its samples.
        baseline: whether it is plain finetuning that others stand against.
        against: column -> difference from that; none of the reference method and of a baseline.
    """

    rows: tuple[Row, ...]
    provenance: str
    means: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]]
    baseline: bool = False
    against: Mapping[str, Against] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.rows[0].name


@dataclass(frozen=True)
class Summary:
    """A section over its models.

    Attributes:
        models: backbones with a ranked row.
        rows: those that count on every model: the reference method, then by falling OOD mean.
        lacking: (name, provenance, models on which it counts) of every other row.
        tests: column -> how many rows were tested.
        level: column -> that of the intervals, 5 % / (tests - rows that Holm separates): where his tests end, so that
            an interval excludes 0 exactly where the row is separated.
    """

    models: tuple[str, ...]
    rows: tuple[OverRow, ...]
    lacking: tuple[tuple[str, str, int], ...]
    tests: Mapping[str, int]
    level: Mapping[str, float]


def summary(section: Section, judge: Judge, rule: str, columns: Sequence[str]) -> Summary | None:
    """What a rule ranks, over all models of a section; None where these are fewer than `MODELS`.

    A row counts on a model where it competes there. One that does not count on every model is listed, and neither
    averaged nor tested: a mean over other models is another quantity. Rows stand against plain finetuning of their own
    provenance, where that counts. One seed a model, or one model made of several seeds' runs, is enough for a test,
    because what other seeds would change is in the differences between models.

    Args:
        columns: of the board; those that no samples give have no interval and no test.
    """
    ranked = [row for row in section.rows if rule in row.rules]
    models = tuple(
        name
        for name in section.backbones
        if any(row.backbone == name and not row.is_reference_method for row in ranked)
    )
    if len(models) < MODELS:
        return None
    found: dict[tuple[str, str], dict[str, Row]] = {}
    for row in ranked:
        on = found.setdefault((row.name, row.provenance.split(JOINT)[0]), {})
        counts = row.competes or (row.is_reference_method and row.complete)
        if row.backbone in models and counts and all(row.mean(column) is not None for column in columns):
            on[row.backbone] = row
    made = [
        _row(section, judge, [on[name] for name in models], owner, columns)
        for (_, owner), on in sorted(found.items())
        if len(on) == len(models)
    ]
    made.sort(key=lambda row: (not row.rows[0].is_reference_method, -row.means[section.ood_column]))
    compared, tests, level = _compared(section, judge, made, columns)
    lacking = tuple((*key, len(on)) for key, on in sorted(found.items()) if len(on) < len(models))
    return Summary(models, tuple(compared), lacking, tests, level)


def _row(section: Section, judge: Judge, rows: Sequence[Row], owner: str, columns: Sequence[str]) -> OverRow:
    """A row with its means and their intervals."""
    intervals = {}
    for column in columns:
        scores = _scores(section, judge, rows, column)
        if scores is not None:
            terms = {name: [(1 / len(scores), of_set)] for name, of_set in scores.items()}
            intervals[column] = _ends(over_models(combined(terms)), LEVEL)
    provenances = {row.provenance for row in rows}
    return OverRow(
        tuple(rows),
        min(provenances) if len(provenances) == 1 else owner,
        {column: _mean([row.mean(column) for row in rows]) for column in columns},
        intervals,
        baseline=rows[0].method == BASELINE and not rows[0].kind,
    )


def _compared(
    section: Section, judge: Judge, rows: Sequence[OverRow], columns: Sequence[str]
) -> tuple[list[OverRow], dict[str, int], dict[str, float]]:
    """The rows with what they are against plain finetuning; of each column the tests and the level of intervals."""
    baselines = [row for row in rows if row.baseline]
    pairs = {
        i: min(baselines, key=lambda other: (not shares_name(other.provenance, row.provenance), other.provenance))
        for i, row in enumerate(rows)
        if baselines and not row.baseline and not row.rows[0].is_reference_method
    }
    against: dict[int, dict[str, Against]] = {i: {} for i in pairs}
    tests, levels = {}, {}
    for column in columns:
        tested = {}
        for i, other in pairs.items():
            of_models = _by_model(rows[i], other, column)
            mean = _mean(of_models)
            against[i][column] = Against(mean, sum(_sign(one) == _sign(mean) != 0 for one in of_models))
            one, two = (_scores(section, judge, row.rows, column) for row in (rows[i], other))
            if one is not None and two is not None:
                tested[i] = over_models(tables(one, two, list(one)))
        adjusted = dict(zip(tested, holm([float(found.p) for found in tested.values()]), strict=True))
        separated = sum(p <= LEVEL for p in adjusted.values())
        tests[column] = len(tested)
        levels[column] = LEVEL / max(1, len(tested) - separated)
        for i, found in tested.items():
            plain = against[i][column]
            against[i][column] = replace(
                plain,
                images=found.images,
                interval=_ends(found, levels[column]),
                p=adjusted[i],
                claimed=adjusted[i] <= LEVEL and plain.same == len(rows[i].rows),
                resolvable=resolvable(float(found.error), float(found.df), level=LEVEL / len(tested)) or None,
            )
    return [replace(row, against=against.get(i, {})) for i, row in enumerate(rows)], tests, levels


def _scores(section: Section, judge: Judge, rows: Sequence[Row], column: str) -> dict[str, SetScores] | None:
    """Set -> scores of a column with a row per model, each the mean over its seeds; None where a file is missing."""
    every = [judge.scores(section, row, column) for row in rows]
    known = [of_row for of_row in every if of_row is not None]
    if len(known) < len(rows):
        return None
    return {
        name: SetScores(first.units, first.counts, np.stack([of_row[name].sums.mean(axis=0) for of_row in known]))
        for name, first in known[0].items()
    }


def _by_model(row: OverRow, other: OverRow, column: str) -> list[float]:
    pairs = ((one.mean(column), two.mean(column)) for one, two in zip(row.rows, other.rows, strict=True))
    return [one - two for one, two in pairs if one is not None and two is not None]


def _sign(value: float) -> int:
    return int(np.sign(round(value, 9)))  # below that, means differ by rounding only


def _mean(values: Sequence[float | None]) -> float:
    return mean_sd([value for value in values if value is not None])[0]


def _ends(found: Difference, level: float) -> tuple[float, float]:
    low, high = found.interval(1 - level)
    return float(low), float(high)
