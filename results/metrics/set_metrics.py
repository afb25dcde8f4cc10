"""The metrics of one evaluation set from what is kept of each sample: what a run records, and what can be rescored.

A run scores its columns before they are rounded to the file's precision; from the file, every number comes back to
1e-6, and the ECEs bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np

from . import calibration
from .metrics import Meter
from .selective import SELECTIVE, selective

LISTED_GROUPS = 16
"""A set of more groups has the worst one's accuracy in its record, and not each one's."""
BATCH_SIZE = 512
"""Of the lineage's calibration error, where a record does not say."""
Columns = Mapping[str, np.ndarray]

OF_CONFIDENCE: Mapping[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "ece_adaptive": calibration.adaptive_ece,
    "mce": calibration.mce,
    "ece_debiased": calibration.debiased_ece,
    "ece_smooth": calibration.smooth_ece,
}
"""Metrics of confidences, as a file has them, and what is right."""


def basic(columns: Columns) -> dict[str, Any]:
    """What `Meter` computes, of the columns label, prediction, confidence, p_label and, where there, sum_p2."""
    kept = {name: columns[name] for name in ("prediction", "confidence", "p_label", "sum_p2") if name in columns}
    labels = columns["label"]
    classes = max(int(labels.max(initial=0)), int(kept["prediction"].max(initial=0))) + 1
    meter = Meter(classes)
    meter.add(labels, **kept)
    return meter.compute()


def score(columns: Columns, name: str, batch_size: int, more: bool = True) -> dict[str, Any]:
    """Every metric that the columns of one set allow.

    Args:
        columns: as `predictions.SCHEMA`, of at least one sample, in the set's order; those of `basic`, and where
            they are there group and confidence_scaled.
        name: of the set: the seed of `expected_ece`.
        batch_size: of the lineage's calibration error; it stands in that metric's name.
        more: also mce, ece_debiased, ece_smooth and what `selective` gives, which take most of the time.

    Returns:
        What `Meter` computes; ece_expected (of a perfectly calibrated model), ece_adaptive, ece_lineage_10bins_b<N>;
        mce, ece_debiased, ece_smooth, and what `selective` gives; ece_scaled (after temperature scaling) where it is
        known; and what `by_group` finds.
    """
    correct, confidence = columns["prediction"] == columns["label"], columns["confidence"]
    found = basic(columns) | {
        "ece_expected": calibration.expected_ece(confidence, name),
        **some(columns, ("ece_adaptive",)),
        lineage_key(batch_size): calibration.batch_averaged_ece(confidence, correct, batch_size),
    }
    if more:
        found |= some(columns, ("mce", "ece_debiased", "ece_smooth", *SELECTIVE))
    found |= some(columns, ("ece_scaled",))
    if "group" in columns:
        found |= by_group(columns, columns["group"])
    return found


def some(columns: Columns, wanted: Collection[str]) -> dict[str, Any]:
    """Those of the metrics `wanted` that the columns give, with the bits of `score` and without the time of the others.

    Args:
        columns: as `score` has them.
        wanted: of OF_CONFIDENCE, `selective` and ece_scaled; any others are looked for in `basic`.
    """
    correct = columns["prediction"] == columns["label"]
    kept = columns["confidence"].astype(np.float32)  # as a file has them: what is of one confidence there is so here
    found: dict[str, Any] = {key: OF_CONFIDENCE[key](kept, correct) for key in wanted if key in OF_CONFIDENCE}
    if set(SELECTIVE) & set(wanted):
        found |= selective(kept, correct)
    if "ece_scaled" in wanted and "confidence_scaled" in columns:
        found["ece_scaled"] = calibration.ece(columns["confidence_scaled"], correct)
    if set(wanted) - {*OF_CONFIDENCE, *SELECTIVE, "ece_scaled"}:
        found |= basic(columns)
    return {key: found[key] for key in wanted if key in found}


def lineage_key(batch_size: int) -> str:
    """Name of the calibration error that CaRot's and TRACER's code report at this batch size."""
    return f"ece_lineage_10bins_b{batch_size}"


def by_group(columns: Columns, groups: Sequence[str] | np.ndarray) -> dict[str, Any]:
    """Accuracy by group.

    Args:
        columns: label and prediction of N samples.
        groups: N names; a sample whose name is "" is in no group.

    Returns:
        worst_group_accuracy: the lowest accuracy of any group, a fraction. group_accuracy: name -> accuracy, where
        the groups are few. Nothing if no sample is in a group.

    Example: right, wrong, right in groups a, a, b: worst 0.5, {"a": 0.5, "b": 1.0}.
    """
    right, names = columns["prediction"] == columns["label"], np.asarray(groups, dtype=object)
    found = {name: float(right[names == name].mean()) for name in sorted(set(groups) - {""})}
    if not found:
        return {}
    listed = {"group_accuracy": found} if len(found) <= LISTED_GROUPS else {}
    return {"worst_group_accuracy": min(found.values()), **listed}


def per_class(columns: Columns, name: str) -> dict[str, np.ndarray]:
    """How each class of a set fares: a row a class that occurs as label or prediction.

    Returns:
        (K,) columns: set (its name), class (index among the set's own), n (samples of it), correct, predicted (samples
        taken for it) and accuracy, NaN where n is 0.
    """
    classes = np.union1d(columns["label"], columns["prediction"]).astype(np.int64)
    size = int(classes.max(initial=-1)) + 1
    right = columns["label"][columns["prediction"] == columns["label"]]
    n, correct, predicted = (
        np.bincount(values, minlength=size)[classes] for values in (columns["label"], right, columns["prediction"])
    )
    accuracy = np.divide(correct, n, out=np.full(len(n), np.nan), where=n > 0)
    counts = {"class": classes, "n": n, "correct": correct, "predicted": predicted}
    return {"set": np.full(len(classes), name, dtype=object), **counts, "accuracy": accuracy}
