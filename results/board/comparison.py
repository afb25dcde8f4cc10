"""Two rows of a board against each other, paired by source image and seed, and every row against the best."""

from __future__ import annotations

import statistics as middle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import TypeVar, cast

import numpy as np

from ..records.predictions import PredictionError
from ..statistics.jackknife import METRICS
from ..statistics.paired import Difference, holm, paired, resolvable
from ..statistics.seed_summary import LEVEL, level_text
from .curve import Curve
from .matched import Matched, matched
from .per_sample import OutcomeError, Outcomes, SetScores, tables
from .rows import FORGOTTEN, MORE_METRICS, PARTIAL, RETAINED, SCORE, Row, Section, in_percent

Judged = TypeVar("Judged")


@dataclass(frozen=True, eq=False)
class Comparison:
    """First minus second on one column of a board, as fractions (NLL: nats).

    Attributes:
        seeds: seeds that both rows have, or those of the row that has any.
        difference: its `interval` is over seeds and images, its `image_interval` over images, for these checkpoints.
        random: whether training is random on either side.
        whole: whether the interval holds for all that is random: not where a random row has one seed, or is one model
            made of several: how much other seeds would change it is not known.
    """

    seeds: tuple[int, ...]
    difference: Difference
    random: bool
    whole: bool

    @property
    def p(self) -> float | None:
        """Two-sided; None where the training randomness of a row cannot be known from one seed."""
        if not self.random:
            return float(self.difference.image_p)
        return float(self.difference.p) if self.whole else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """Over all that is random; None as `p`."""
        if not self.whole:
            return None
        low, high = self.difference.interval() if self.random else self.difference.image_interval()
        return float(low), float(high)

    @property
    def resolvable(self) -> float | None:
        """The true difference that a comparison as noisy as this one finds with 80 % power, alone: at 5 %."""
        return self.resolvable_at(LEVEL)

    def resolvable_at(self, level: float) -> float | None:
        """The same for a test at another level; None as `p`."""
        if not self.whole:
            return None
        found = self.difference
        error, df = (found.error, found.df) if self.random else (found.image_error, found.image_df)
        return resolvable(float(error), float(df), level=level)


@dataclass(frozen=True)
class AgainstBest:
    """A row beside the best of its column that can be tested: that minus the row, and Holm's adjusted p value.

    No p where there is no test; a row that cannot be tested may be ahead, and then the gap has the other sign.
    """

    gap: float
    p: float | None

    @property
    def separable(self) -> bool | None:
        return None if self.p is None else self.p <= LEVEL


@dataclass(frozen=True)
class Verdict:
    """What is known of a column of a ranked table, by the index of its rows.

    Attributes:
        best: the best row, with those that equal it; bold. Of those that can be tested, where there are files; none
            where no test was possible.
        against: every other comparable row against the first of the best, where a file of both is there.
        tested: whether there are files for such a column at all.
    """

    best: frozenset[int] = frozenset()
    against: Mapping[int, AgainstBest] = field(default_factory=dict)
    tested: bool = False


def sets_of(section: Section, column: str) -> dict[str, str] | None:
    """The sets whose unweighted mean a column is, each with its score; None where it is none that samples give."""
    if column in ("acc_ood_mean", "ece_ood_mean", SCORE):
        score = {"acc_ood_mean": "accuracy", "ece_ood_mean": "ece"}.get(column)
        return {name: score or section.score(name) for name in section.shifts} or None
    if column.startswith(PARTIAL):
        return {name: section.score(name) for name in section.means.get(column.removeprefix(PARTIAL), ())} or None
    if column in ("acc_id", "ece_id", "nll_id"):
        score = {"acc_id": "accuracy"}.get(column, column.removesuffix("_id"))
        return {section.id_set: score} if section.id_set else None
    metric, _, name = column.partition("/")
    metric = "accuracy" if metric == "acc" else metric
    return {name: metric} if metric in ("accuracy", *METRICS) else None


def scores_of(outcomes: Outcomes, section: Section, row: Row, column: str) -> dict[str, SetScores] | None:
    """Set -> per-sample scores of a row that a column is made of; None where one is missing, or is of one source.

    Raises:
        OutcomeError, PredictionError: as `Outcomes.scores`.
    """
    asked = sets_of(section, column)
    if asked is None:
        return None
    read = {name: outcomes.scores(section.benchmark, row, name, score) for name, score in asked.items()}
    # Of one source, as on some sets of a rehearsal, no interval is known.
    known = {name: scores for name, scores in read.items() if scores is not None and len(scores.units) > 1}
    return known if len(known) == len(asked) else None


def compare(outcomes: Outcomes, section: Section, first: Row, second: Row, column: str) -> Comparison | None:
    """First minus second on a column; None where a per-sample file, or a shared seed, is missing.

    Rows that both vary over seeds are paired by seed, whatever else each has; a row without training randomness, or
    made from several seeds at once, stands beside every seed of the other. The pages of a board ask for the same pairs:
    each is compared once.

    Raises:
        OutcomeError, PredictionError: as `Outcomes.scores`.
    """
    key = (id(section), id(first), id(second), column)
    if key not in outcomes.compared:
        found = _compare(outcomes, section, first, second, column)
        outcomes.compared[key] = (section, first, second), found
    return cast("Comparison | None", outcomes.compared[key][1])


def _compare(outcomes: Outcomes, section: Section, first: Row, second: Row, column: str) -> Comparison | None:
    if sets_of(section, column) is None:
        return None
    seeds = [row.varies for row in (first, second)]
    if all(seeds):
        shared = sorted(first.runs.keys() & second.runs.keys())
    else:
        shared = sorted((first if seeds[0] else second).runs)
    found: list[dict[str, SetScores]] = []
    kept: list[list[int]] = []
    for row, varies in zip((first, second), seeds, strict=True):
        every = scores_of(outcomes, section, row, column)
        if not shared or every is None:
            return None
        kept.append([list(row.runs).index(seed) for seed in shared] if varies else [0])
        found.append(every)
    random = any(not row.is_reference_method for row in (first, second))
    known = outcomes.differences(section.benchmark, first, second)
    key = (*(id(scores) for every in found for scores in every.values()), *map(tuple, kept))
    if key not in known:
        one, other = (
            {name: s.of_seeds(rows) for name, s in every.items()} for every, rows in zip(found, kept, strict=True)
        )
        known[key] = found, paired(tables(one, other, list(one)))
    difference = known[key][1]
    whole = difference.seeds > 1 and not any(row.pooled for row in (first, second))
    return Comparison(tuple(shared), difference, random, not random or whole)


def best_rows(rows: Sequence[Row], column: str) -> frozenset[int]:
    """Indices of the best of the rows of a column that compete; none unless two do."""
    more = column.removesuffix("_id").removesuffix("_ood_mean") in MORE_METRICS
    if more or column in ("ece_floor_ood_mean", RETAINED):
        return frozenset()
    sign = -1 if in_percent(column) and column != FORGOTTEN else 1
    means = {i: row.mean(column) for i, row in enumerate(rows) if row.competes}
    # Below nine digits, means differ by rounding only.
    losses = {i: round(sign * mean, 9) for i, mean in means.items() if mean is not None}
    return frozenset(i for i in losses if losses[i] == min(losses.values())) if len(losses) > 1 else frozenset()


def testable(outcomes: Outcomes, section: Section, row: Row, column: str) -> bool:
    """Whether a row can be tested on a column: it competes, what its seeds vary is known, and its samples are there."""
    if not row.competes or row.pooled or (row.varies and len(row.seeds) < 2):
        return False
    return scores_of(outcomes, section, row, column) is not None


def verdict(outcomes: Outcomes, section: Section, rows: Sequence[Row], column: str) -> Verdict:
    """The best testable row of a column, and every other comparable row against it."""
    places = [i for i, row in enumerate(rows) if testable(outcomes, section, row, column)]
    best = frozenset(places[i] for i in best_rows([rows[i] for i in places], column))
    against = against_best(outcomes, section, rows, min(best), column) if best else {}
    known = any(found.p is not None for found in against.values())
    return Verdict(best if known else frozenset(), against, True)


def against_best(
    outcomes: Outcomes, section: Section, rows: Sequence[Row], best: int, column: str
) -> dict[int, AgainstBest]:
    """Every other comparable row of a table beside the best of a column, Holm over the column.

    Args:
        rows: of one table. best: the index of the best testable one in it.

    Returns:
        Index -> comparison, for rows that `Row.competes`; none where per-sample files are missing.
    """
    found = {}
    for i, row in enumerate(rows):
        if i != best and row.competes:
            comparison = compare(outcomes, section, rows[best], row, column)
            if comparison is not None:
                found[i] = comparison
    tested = {i: p for i, comparison in found.items() if (p := comparison.p) is not None}
    adjusted = dict(zip(tested, holm(list(tested.values())), strict=True))
    return {i: AgainstBest(float(found[i].difference.mean), adjusted.get(i)) for i in found}


def resolution(outcomes: Outcomes, section: Section, rows: Sequence[Row]) -> str:
    """A sentence on the difference of two rows of a table that its seeds and images resolve; empty without files.

    At the level of the table's signs: Holm separates a first row of m at 5 % / m, whatever the others are.
    """
    sizes, seeds, images = [], set(), set()
    against = verdict(outcomes, section, rows, section.ood_column).against
    tests = max(1, sum(found.p is not None for found in against.values()))
    sources = sum(section.clusters.get(name, 0) for name in section.shifts)
    for first, second in combinations([row for row in rows if row.competes], 2):
        both = first.varies and second.varies
        comparison = compare(outcomes, section, first, second, section.ood_column) if both else None
        # WiSE-FT at alpha 1 is its FT, image by image: two rows of one model say nothing of noise.
        same = comparison is not None and comparison.difference.mean == comparison.difference.error == 0
        if comparison is not None and (size := comparison.resolvable_at(LEVEL / tests)) is not None and not same:
            sizes.append(100 * size)
            seeds.add(len(comparison.seeds))
            images.add(comparison.difference.images - sources)
    if not sizes:
        return ""
    count, many = (" to ".join(str(n) for n in sorted({min(group), max(group)})) for group in (seeds, images))
    return (
        f"Smallest OOD-mean difference that {count} paired seeds on {images_text(many, sources)} resolve "
        f"({level_text(tests)}, 80 % power): {middle.median(sizes):.1f} points, median over pairs of rows; "
        f"{min(sizes):.1f} to {max(sizes):.1f}."
    )


def images_text(many: str, sources: int) -> str:
    """600 source images and 3 sources of images"""
    return f"{many} source images and {sources} sources of images" if sources else f"{many} source images"


class Judge:
    """Tests the numbers of ranked tables by their per-sample files; without files it tests nothing.

    Attributes:
        problems: one sentence for each file that contradicts a record; its rows are not tested.
    """

    def __init__(self, outcomes: Outcomes | None) -> None:
        self._outcomes = outcomes
        self._found: dict[tuple[int, tuple[int, ...], str], Verdict] = {}
        self.problems: list[str] = []

    def anew(self) -> Judge:
        """A new Judge of the same files, without the problems that this one found."""
        return Judge(self._outcomes)

    @property
    def tests(self) -> bool:
        """Whether it knows of any per-sample files."""
        return self._outcomes is not None

    def verdict(self, section: Section, rows: Sequence[Row], column: str) -> Verdict:
        """`verdict`; where no file is known of at all, the best by the means alone.

        A column that no samples give, or whose files contradict their records, has no best row.
        """
        outcomes = self._outcomes
        if outcomes is None:
            return Verdict(best_rows(rows, column))
        if sets_of(section, column) is None:
            return Verdict()
        key = (id(section), tuple(map(id, rows)), column)
        if key not in self._found:
            self._found[key] = self._checked(lambda: verdict(outcomes, section, rows, column)) or Verdict()
        return self._found[key]

    def scores(self, section: Section, row: Row, column: str) -> dict[str, SetScores] | None:
        """`scores_of`; None also where no file is known of at all, or a file contradicts its record."""
        outcomes = self._outcomes
        return None if outcomes is None else self._checked(lambda: scores_of(outcomes, section, row, column))

    def matched(self, section: Section, row: Row, curve: Curve) -> Matched | None:
        """`matched`; of the seeds alone where there are no files, or they contradict their records."""
        found = self._checked(lambda: matched(self._outcomes, section, row, curve))
        return found or matched(None, section, row, curve)

    def resolution(self, section: Section, rows: Sequence[Row]) -> str:
        """`resolution`; empty where it cannot be computed."""
        outcomes = self._outcomes
        return (self._checked(lambda: resolution(outcomes, section, rows)) or "") if outcomes is not None else ""

    def _checked(self, judged: Callable[[], Judged]) -> Judged | None:
        try:
            return judged()
        except (OutcomeError, PredictionError) as error:
            if str(error) not in self.problems:
                self.problems.append(str(error))
            return None


@dataclass(frozen=True)
class Flips:
    """Shares of a set's samples, mean over a row's seeds: zero-shot right and now wrong, and the reverse."""

    negative: float
    positive: float


def flips(outcomes: Outcomes, section: Section, row: Row, start: Row, name: str) -> Flips | None:
    """What finetuning turned wrong and right on a set; None where a per-sample file is missing.

    positive - negative is the gain in accuracy over zero-shot.
    """
    now, before = (outcomes.right(section.benchmark, of, name) for of in (row, start))
    if now is None or before is None:
        return None
    return Flips(float(np.mean(before[:1] & ~now)), float(np.mean(~before[:1] & now)))
