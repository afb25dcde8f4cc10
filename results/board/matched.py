"""How far a row is from a curve at its own ID score, with what that is known to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy import special

from ..statistics.paired import paired
from .curve import Crossing, Curve, Stop
from .interpolation_paths import by_seed
from .per_sample import OutcomeError, Outcomes, SetScores, combined
from .provenances import shares_name
from .rows import Row, Section


@dataclass(frozen=True)
class Matched:
    """A row against a curve, as fractions.

    Attributes:
        there: OOD mean of the curve where it has the row's ID score. gap: the row's OOD mean minus that.
        interval: 95 %; None where another seed would be another model and how different is not known.
        images: whether the interval is for new source images too, and not for new seeds on these images alone.
    """

    there: float
    gap: float
    interval: tuple[float, float] | None
    images: bool


def matched(outcomes: Outcomes | None, section: Section, row: Row, curve: Curve) -> Matched | None:
    """A row against a curve at the row's mean ID score; None where either has no such number.

    The curve's height is read at an ID score that is itself an estimate, and between two estimated points, so that the
    gap moves by the slope there times what all three ID scores are off. To first order (delta method), with w the
    weight of the second point and s the slope, it is a sum of means, each over the same seeds and source images:

        gap = row.ood - (1 - w) first.ood - w second.ood - s (row.id - (1 - w) first.id - w second.id)

    so that `paired` gives its error over both. Without the samples of the points it is over seeds alone.

    Raises:
        OutcomeError, PredictionError: as `Outcomes.scores`.
    """
    at = section.at(row)
    crossing = None if at is None else curve.crossing(at[0])
    if at is None or crossing is None:
        return None
    gap = at[1] - crossing.ood
    ends = (crossing.first, crossing.second)
    seeds = set(crossing.first.run_ids)
    agree = all(set(stop.run_ids) == seeds for stop in ends) and (not row.varies or set(row.runs) == seeds)
    if not agree or row.pooled or len(seeds) < 2:
        return Matched(crossing.ood, gap, None, False)
    terms = None if outcomes is None else _terms(outcomes, section, row, curve, crossing)
    if terms is None:
        return Matched(crossing.ood, gap, _over_seeds(section, row, crossing), False)
    difference = paired(combined(terms))
    if abs(float(difference.mean) - gap) > 1e-6:
        raise OutcomeError(
            f"{row.name} against {curve.name}: it is {float(difference.mean):.6f} away by the samples and {gap:.6f} by "
            "the records; run `robustft rescore`."
        )
    low, high = difference.interval()
    return Matched(crossing.ood, gap, (float(low), float(high)), True)


def _over_seeds(section: Section, row: Row, crossing: Crossing) -> tuple[float, float] | None:
    """The t interval of the seeds' own gaps, each to first order."""
    own, w = by_seed(section, row), crossing.weight
    values = []
    for seed in sorted(crossing.first.runs):
        ends = [crossing.first.runs[seed], crossing.second.runs[seed]]
        known = own.get(seed) if row.varies else section.at(row)
        if known is None or any(value is None for end in ends for value in end):
            return None
        (x0, y0), (x1, y1) = ends
        off = known[0] - (1 - w) * x0 - w * x1  # type: ignore[operator]
        values.append(known[1] - (1 - w) * y0 - w * y1 - crossing.slope * off)  # type: ignore[operator]
    half = special.stdtrit(len(values) - 1.0, 0.975) * np.std(values, ddof=1) / np.sqrt(len(values))
    return float(np.mean(values) - half), float(np.mean(values) + half)


def _terms(
    outcomes: Outcomes, section: Section, row: Row, curve: Curve, crossing: Crossing
) -> dict[str, list[tuple[float, SetScores]]] | None:
    """Set -> factors with scores of row, first and second point, whose sum is the gap; None where a file is missing."""
    if section.id_set is None:
        return None
    factors: Mapping[str, float] = {
        **dict.fromkeys(section.shifts, 1 / len(section.shifts)),
        section.id_set: -crossing.slope,
    }
    found = {}
    for name, factor in factors.items():
        score = section.score(name)
        scores = [
            outcomes.scores(section.benchmark, row, name, score),
            *(_of_stop(outcomes, section, row, curve, stop, name, score) for stop in (crossing.first, crossing.second)),
        ]
        weights = (factor, -factor * (1 - crossing.weight), -factor * crossing.weight)
        there = [(weight, each) for weight, each in zip(weights, scores, strict=True) if each is not None]
        if len(there) < len(scores):
            return None
        found[name] = there
    return found


def _of_stop(
    outcomes: Outcomes, section: Section, row: Row, curve: Curve, stop: Stop, name: str, score: str
) -> SetScores | None:
    if curve.of_one_run:
        at = (curve.parameter, stop.value)
        found = outcomes.at_point(section.benchmark, row, curve.provenance, stop.run_ids, at, name, score)
    else:
        same = (other for other in section.rows if other.runs == stop.run_ids)
        of = next(other for other in same if shares_name(other.provenance, curve.provenance))
        found = outcomes.scores(section.benchmark, of, name, score)
    return found
