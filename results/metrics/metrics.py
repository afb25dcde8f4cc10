"""Accuracy, calibration and likelihood from probabilities and labels, as sums over a whole evaluation set.

Sums are kept as integers in units of 2**-40, so that no number depends on how the set was cut into batches
or in which order the batches came.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

UNIT = 2.0**40  # sums are exact below it; one term is rounded by at most 5e-13


class MetricError(ValueError):
    """Probabilities or labels that no metric is defined for."""


def accuracy(scores: ArrayLike, labels: ArrayLike) -> float:
    """Share of rows whose largest score is at the label; the first of equal scores counts.

    Args:
        scores: (N, C) logits or probabilities.
        labels: (N,) integers in [0, C).

    Returns:
        Fraction in [0, 1]. Scores [[1, 2], [3, 0]] with labels [1, 1] give 0.5.

    Raises:
        MetricError: wrong shapes, a score that is NaN, labels outside [0, C), or no sample.
    """
    scores, labels = _numpy(scores), _numpy(labels)
    _check_shapes(scores, labels)
    if not len(labels):
        raise MetricError("accuracy: no rows to average over; pass at least one sample.")
    _check_labels(labels, scores.shape[1])
    if np.isnan(scores).any():
        raise MetricError(f"accuracy: row {int(np.isnan(scores).any(axis=1).argmax())} has a score that is NaN.")
    return float(np.mean(scores.argmax(axis=1) == labels))


def expected_calibration_error(probabilities: ArrayLike, labels: ArrayLike, bins: int = 15) -> float:
    """Mean over samples of |accuracy - confidence| of their bin: L1, equal-width bins, over the whole set.

    Bins are [a, b) on a float32 grid and confidence 1 has a bin of its own: the numbers of torchmetrics'
    multiclass calibration error.

    Args:
        probabilities: (N, C), rows sum to 1.
        labels: (N,) integers in [0, C).
        bins: number of equal-width bins on [0, 1).

    Returns:
        Error in [0, 1]. One sample, right, with confidence 0.9 gives 0.1.

    Raises:
        MetricError: wrong shapes, rows that are no probabilities, labels outside [0, C), or no sample.
    """
    probabilities = _numpy(probabilities)
    if probabilities.ndim != 2:
        raise MetricError(f"probabilities: expected shape (N, C), got {probabilities.shape}.")
    meter = Meter(probabilities.shape[1], bins=bins)
    meter.update(probabilities, labels)
    return meter.compute()["ece"]


class Meter:
    """Streaming metrics of one evaluation set; memory grows with classes and bins, not with images."""

    def __init__(self, num_classes: int, bins: int = 15) -> None:
        if num_classes < 1:
            raise MetricError(f"num_classes: expected at least 1, got {num_classes}.")
        self.num_classes = num_classes
        self.n = 0
        self._calibration = Bins(bins)
        self._nll = self._confidence = 0  # integers, in units of 1 / UNIT
        self._brier: int | None = 0
        self._impossible = 0  # labels that got probability 0
        self._hits = np.zeros(num_classes, dtype=np.int64)
        self._predicted = np.zeros(num_classes, dtype=np.int64)
        self._labelled = np.zeros(num_classes, dtype=np.int64)

    def update(self, probabilities: ArrayLike, labels: ArrayLike) -> None:
        """Add a batch.

        Args:
            probabilities: (B, C), rows sum to 1. Compute the softmax in float64 where a label may get
                less than 1e-45: a probability of 0 makes the NLL infinite.
            labels: (B,) integers in [0, C).

        Raises:
            MetricError: wrong shapes, rows that are no probabilities, or labels outside [0, C).
        """
        kept = sample_columns(probabilities, labels, self.num_classes)
        self.add(_numpy(labels).astype(np.int64), **kept)

    def add(
        self,
        labels: np.ndarray,
        prediction: np.ndarray,
        confidence: np.ndarray,
        p_label: np.ndarray,
        sum_p2: np.ndarray | None = None,
    ) -> None:
        """Add samples by what `sample_columns` keeps of them, (B,) each; without `sum_p2` there is no Brier score."""
        correct = prediction == labels
        confidence, p_label = confidence.astype(np.float64), p_label.astype(np.float64)
        self.n += len(labels)
        self._calibration.add(confidence, correct)
        self._confidence += _total(confidence)
        if sum_p2 is None or self._brier is None:
            self._brier = None
        else:
            self._brier += _total(sum_p2.astype(np.float64) - 2 * p_label + 1)
        possible = p_label > 0
        self._nll += _total(-np.log(p_label[possible]))
        self._impossible += int((~possible).sum())
        self._hits += np.bincount(labels[correct], minlength=self.num_classes)
        self._predicted += np.bincount(prediction, minlength=self.num_classes)
        self._labelled += np.bincount(labels, minlength=self.num_classes)

    def compute(self) -> dict[str, float]:
        """Metrics of everything added so far.

        Returns:
            n: number of samples.
            accuracy, mean_confidence: fractions.
            ece: in [0, 1], over the whole set.
            nll: mean of -log p(label), nats; infinite if a label got probability 0.
            brier: mean of the sum over classes of (p - onehot)**2, in [0, 2]; left out where it is not known.
            macro_f1: mean over classes that occur as label or prediction (scikit-learn's and torchmetrics').
            macro_f1_labels: mean over classes that occur as label (WILDS').

        Raises:
            MetricError: nothing was added.
        """
        if not self.n:
            raise MetricError("no samples: nothing was added to this meter.")
        present = self._labelled > 0
        union = present | (self._predicted > 0)
        f1 = 2 * self._hits / np.maximum(self._labelled + self._predicted, 1)
        return {
            "n": self.n,
            "accuracy": int(self._hits.sum()) / self.n,
            "ece": self._calibration.error(),
            "nll": math.inf if self._impossible else self._nll / UNIT / self.n,
            **({} if self._brier is None else {"brier": self._brier / UNIT / self.n}),
            "macro_f1": float(f1[union].mean()),
            "macro_f1_labels": float(f1[present].mean()),
            "mean_confidence": self._confidence / UNIT / self.n,
        }


class BatchAveragedECE:
    """The calibration error that CaRot's and TRACER's code report: per batch, then averaged by batch size.

    It depends on the batch size and is at least as large as the error of the whole set (same bins), so it
    never stands in one table with `Meter`'s. Samples are regrouped here into batches of `batch_size` in the
    order in which they come, however they were cut on the way in. The last batch may be short.
    """

    def __init__(self, num_classes: int, batch_size: int, bins: int = 10) -> None:
        if batch_size < 1:
            raise MetricError(f"batch_size: expected at least 1, got {batch_size}.")
        self.num_classes, self.batch_size, self.bins = num_classes, batch_size, bins
        self.n = 0
        self._batch = Bins(bins)
        self._sum = 0.0  # of batch error times batch size

    def update(self, probabilities: ArrayLike, labels: ArrayLike) -> None:
        """Add samples: probabilities (B, C), labels (B,); errors as in `Meter.update`."""
        probabilities, labels = _checked(probabilities, labels, self.num_classes)
        predictions = probabilities.argmax(axis=1)
        self.add(probabilities[np.arange(len(labels)), predictions], predictions == labels)

    def add(self, confidence: np.ndarray, correct: np.ndarray) -> None:
        """Add samples: confidence (B,) in [0, 1], correct (B,) bool."""
        start = 0
        while start < len(correct):
            stop = min(len(correct), start + self.batch_size - self._batch.n)
            self._batch.add(confidence[start:stop], correct[start:stop])
            if self._batch.n == self.batch_size:
                self._sum += self._batch.error() * self._batch.n
                self._batch = Bins(self.bins)
            start = stop
        self.n += len(correct)

    def compute(self) -> dict[str, float]:
        """The error with the two settings it depends on: ece_batch_averaged, batch_size, bins."""
        if not self.n:
            raise MetricError("no samples: nothing was added to this meter.")
        rest = self._batch.error() * self._batch.n if self._batch.n else 0.0
        value = (self._sum + rest) / self.n
        return {"ece_batch_averaged": value, "batch_size": self.batch_size, "bins": self.bins}


class Bins:
    """Count, correct and confidence per equal-width bin."""

    def __init__(self, bins: int) -> None:
        if bins < 1:
            raise MetricError(f"bins: expected at least 1, got {bins}.")
        self.edges = bin_edges(bins)
        self.count = np.zeros(bins + 1, dtype=np.int64)
        self.correct = np.zeros(bins + 1, dtype=np.int64)
        self.confidence = np.zeros(bins + 1, dtype=object)  # Python integers, in units of 1 / UNIT

    @property
    def n(self) -> int:
        """Samples added."""
        return int(self.count.sum())

    def add(self, confidence: np.ndarray, correct: np.ndarray) -> None:
        """Add samples: confidence (B,) in [0, 1], correct (B,) bool."""
        confidence, index = binned(confidence, self.edges)
        self.count += np.bincount(index, minlength=len(self.count))
        self.correct += np.bincount(index[correct], minlength=len(self.count))
        sums = np.zeros(len(self.count), dtype=np.int64)
        np.add.at(sums, index, _units(confidence))
        self.confidence += sums

    def error(self) -> float:
        """Mean over samples of |accuracy - confidence| of their bin."""
        confidence = np.array([total / UNIT for total in self.confidence])
        return float(np.abs(self.correct - confidence).sum()) / self.n


def sample_columns(
    probabilities: ArrayLike, labels: ArrayLike, num_classes: int | None = None
) -> dict[str, np.ndarray]:
    """Per-sample columns that every metric is computed from, whatever the number of classes.

    Args:
        probabilities: (N, C), rows sum to 1.
        labels: (N,) integers in [0, C).
        num_classes: what C must be; None takes any.

    Returns:
        (N,) prediction, the first of equal ones; in float64 confidence (its probability), p_label (the label's) and
        sum_p2 (sum over classes of p**2).

    Raises:
        MetricError: as `Meter.update`.
    """
    probabilities, labels = _checked(probabilities, labels, num_classes)
    rows, prediction = np.arange(len(labels)), probabilities.argmax(axis=1)
    exact = probabilities.astype(np.float64)
    return {
        "prediction": prediction,
        "confidence": exact[rows, prediction],
        "p_label": exact[rows, labels],
        "sum_p2": (exact**2).sum(axis=1),
    }


@cache
def bin_edges(bins: int) -> np.ndarray:
    """(bins + 1,) float32 edges from 0 to 1, from both ends inwards, the same on every processor.

    Made once, and read-only. They are those of torch.linspace on a CPU with fused multiply-add; on others its last bits
    are not these. Some differ from the float32 nearest to k / bins: float32(3 / 15) is below the edge of bin 3.
    """
    step = np.float32(1) / np.float32(bins)
    k = np.arange(bins + 1)
    from_start = step * k.astype(np.float32)
    # One rounding for product and difference, as a fused multiply-add: float64 holds the product exactly.
    from_end = (1 - np.float64(step) * (bins - k)).astype(np.float32)
    edges = np.where(k < (bins + 1) // 2, from_start, from_end).astype(np.float32)
    edges.flags.writeable = False
    return edges


def as_kept(confidence: np.ndarray) -> np.ndarray:
    """In float32, the precision that edges of bins are defined in, and that a file of predictions keeps; at most 1."""
    return np.minimum(confidence.astype(np.float32), np.float32(1))


def binned(confidence: np.ndarray, edges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(N,) confidences as `as_kept` gives them, and the index of each one's bin; `edges` as `bin_edges` gives them."""
    kept = as_kept(confidence)
    return kept, np.searchsorted(edges, kept, side="right") - 1


def _total(values: np.ndarray) -> int:
    """Exact sum in units of 1 / UNIT."""
    return int(_units(values).sum())


def _units(values: np.ndarray) -> np.ndarray:
    """Integers in units of 1 / UNIT."""
    return np.rint(values.astype(np.float64) * UNIT).astype(np.int64)


def _numpy(values: Any) -> np.ndarray:
    """A torch tensor or anything array-like, as an array on the host."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        values = values.float() if values.element_size() < 4 and values.is_floating_point() else values
    return np.asarray(values)


def _check_shapes(scores: np.ndarray, labels: np.ndarray) -> None:
    if scores.ndim != 2 or labels.shape != scores.shape[:1]:
        raise MetricError(f"expected scores (N, C) and labels (N,), got {scores.shape} and {labels.shape}.")


def _check_labels(labels: np.ndarray, num_classes: int) -> None:
    if len(labels) and not 0 <= labels.min() <= labels.max() < num_classes:
        raise MetricError(f"labels: expected 0 to {num_classes - 1}, got {labels.min()} to {labels.max()}.")
    if (labels != labels.astype(np.int64)).any():
        raise MetricError("labels: expected whole numbers, got fractions; pass class indices.")


def _checked(probabilities: ArrayLike, labels: ArrayLike, num_classes: int | None) -> tuple[np.ndarray, np.ndarray]:
    probabilities, labels = _numpy(probabilities), _numpy(labels)
    _check_shapes(probabilities, labels)
    num_classes = probabilities.shape[1] if num_classes is None else num_classes
    if probabilities.shape[1] != num_classes:
        raise MetricError(f"probabilities: expected {num_classes} columns, got {probabilities.shape[1]}.")
    _check_labels(labels, num_classes)
    # 1e-3 lets half precision through and stops logits.
    good = (probabilities >= 0).all(axis=1) & (np.abs(probabilities.sum(axis=1) - 1) < 1e-3)
    if not good.all():
        row = int(np.argmin(good))
        if not np.isfinite(probabilities[row]).all():
            raise MetricError(f"probabilities: row {row} is not finite; the model has diverged, or is damaged.")
        raise MetricError(f"probabilities: row {row} is not a distribution; pass the softmax, in float32.")
    return probabilities, labels.astype(np.int64)
