"""What each source image moves a score by that is no mean over samples: the score without it (the jackknife)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

Columns = Mapping[str, np.ndarray]
METRICS = ("macro_f1_labels", "worst_group_accuracy", "ece")


def pseudovalues(metric: str, columns: Columns, unit: np.ndarray, units: int) -> np.ndarray | None:
    """Jackknife pseudovalues of a score, one a source image: M numbers whose mean is the score.

    A number lies as far above the score as M - 1 times what the score falls by without that image, the mean of all M
    such falls aside; of a mean over samples, one an image, the numbers are the samples themselves. A class, or a group,
    that no sample is left of is out of the score, so that an image that is the only one of its class counts in full.

    Args:
        metric: one of METRICS.
        columns: label and prediction of N samples; for groups also group, for ece bin (an index) and confidence.
        unit: (N,) index of each sample's source image. units: M, how many there are.

    Returns:
        (M,) fractions, some below 0 or above 1; None where no sample is in a group, or all are of one image.

    Example: labels 0, 0, 1, predictions 0, 1, 1, each of its own image: macro F1 is 2/3, and without each of them 1/3,
    1 and 2/3; the numbers are 4/3, 0 and 2/3.
    """
    of = {"macro_f1_labels": _macro_f1_labels, "worst_group_accuracy": _worst_group_accuracy, "ece": _ece}[metric]
    with np.errstate(divide="ignore", invalid="ignore"):
        found = of(columns, unit, units + 1)  # the last image has no sample: without it, all are there
    if not np.isfinite(found).all():
        return None
    whole, without = found[-1], found[:-1]
    return whole + (units - 1) * (without.mean() - without)


def _macro_f1_labels(columns: Columns, unit: np.ndarray, units: int) -> np.ndarray:
    label, prediction = columns["label"], columns["prediction"]
    total, classes = np.zeros(units), np.zeros(units)
    for index in np.unique(label):
        here, there = label == index, prediction == index
        labelled, predicted, hits = (_without(unit[mask], units) for mask in (here, there, here & there))
        total += np.where(labelled > 0, 2 * hits / np.maximum(labelled + predicted, 1), 0)
        classes += labelled > 0
    return total / classes


def _worst_group_accuracy(columns: Columns, unit: np.ndarray, units: int) -> np.ndarray:
    right, worst = columns["label"] == columns["prediction"], np.full(units, np.inf)
    groups = columns.get("group", np.zeros(0, dtype=object))
    for name in set(groups) - {""}:
        left = _without(unit[groups == name], units)
        worst = np.where(left > 0, np.minimum(worst, _without(unit[(groups == name) & right], units) / left), worst)
    return worst


def _ece(columns: Columns, unit: np.ndarray, units: int) -> np.ndarray:
    """The |accuracy - confidence| of a bin has a kink at 0, near which the jackknife gives too large a spread."""
    bins = int(columns["bin"].max(initial=0)) + 1
    gap = (columns["label"] == columns["prediction"]) - columns["confidence"].astype(np.float64)
    by_unit = np.bincount(unit * bins + columns["bin"], weights=gap, minlength=units * bins).reshape(units, bins)
    return np.abs(by_unit.sum(axis=0) - by_unit).sum(axis=1) / _without(unit, units)


def _without(unit: np.ndarray, units: int) -> np.ndarray:
    """(M,) how many of these samples are not of each source image."""
    return len(unit) - np.bincount(unit, minlength=units)
