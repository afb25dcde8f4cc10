"""Per-sample outcomes in few bytes: what a board tests is kept, what it only prints stands in the record alone.

A sample's prediction is exact. Of its confidence the bin of the ECE is kept, and the mean of each bin of a set:
accuracy, F1, ECE, debiased ECE and MCE of a set are those of the run, to 1e-6. A wrong sample's p_label is a power of
two, of the two around it the one that cancels what the samples before it were rounded by, so that the negative
log-likelihood of a set moves by less than a step of one sample. Rounding what was rounded changes nothing.

Samples lie in an order in which those that most runs on a backbone get right come first: like beside like takes half
the bytes.

Decoding takes nothing but comparisons, single additions and products, and powers of two: the same everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np

from ..metrics.metrics import bin_edges, binned

COLUMNS = ("wrong", "prediction", "bin", "means", "p_label")
"""What `encode` gives: which samples are wrong, one bit each; prediction and p_label of those alone (a right sample's
are its label and its confidence), the bin of every sample's confidence, and the mean confidence of each set's bins."""
GIVEN = ("n", "accuracy", "macro_f1", "macro_f1_labels", "mean_confidence", "ece", "ece_debiased", "mce", "nll")
"""The metrics of a set that follow from what is kept; others are in the record alone."""
_BINS = 16
"""Those of the ECE, and one of confidences of 1, which it counts apart."""
_PARTS = 2**16 - 1
"""Of a bin, in which the place of its mean is counted."""
_IMPOSSIBLE = 255
"""In place of the power, where p_label is 0."""
_STEP = math.log(2)
"""Nats between two powers."""


def order(runs: Iterable[Mapping[str, np.ndarray]]) -> np.ndarray:
    """(N,) int32 samples from those that most of these runs, and most confidently, are right on."""
    ease = sum(
        np.where(columns["prediction"] == columns["label"], 1, -1) * (1 + columns["confidence"].astype(np.float64))
        for columns in runs
    )
    return np.argsort(-np.asarray(ease), kind="stable").astype(np.int32)


def encode(columns: Mapping[str, np.ndarray], sets: np.ndarray, places: np.ndarray) -> dict[str, bytes]:
    """Bytes of one run's samples, by the names of COLUMNS.

    Args:
        columns: label, prediction, confidence and p_label of N samples, as `predictions.read` gives them.
        sets: (N,) which set a sample is of.
        places: (N,) the samples in the order in which they are kept, as `order` gives them.
    """
    of_set = _indices(sets)
    wrong = columns["prediction"] != columns["label"]
    kept, bins = binned(np.minimum(columns["confidence"].astype(np.float32), np.float32(1)), bin_edges(_BINS - 1))
    parts = _mean_parts(kept, bins, of_set)
    confidence = _means(parts)[of_set, bins]
    p_label = np.minimum(columns["p_label"].astype(np.float32), np.float32(1))
    powers = _powers(p_label, confidence, wrong, of_set)
    here = places[wrong[places]]
    return {
        "wrong": np.packbits(wrong[places]).tobytes(),
        "prediction": _planes(columns["prediction"][_by_label(here, columns["label"])]),
        "bin": bins[places].astype(np.uint8).tobytes(),
        "means": parts.astype("<u2").tobytes(),
        "p_label": powers[here].astype(np.uint8).tobytes(),
    }


def decode(
    coded: Mapping[str, bytes | None], labels: np.ndarray, sets: np.ndarray, places: np.ndarray
) -> dict[str, np.ndarray]:
    """prediction, int32, and confidence and p_label, float32, of samples in their own order.

    Raises:
        ValueError: there are not as many numbers as labels.
    """
    bits = np.frombuffer(coded["wrong"] or b"", np.uint8)
    if len(bits) != -(-len(labels) // 8):
        raise ValueError(f"{8 * len(bits)} bits for {len(labels)} samples")
    of_set = _indices(sets)
    wrong = np.unpackbits(bits, count=len(labels)).astype(bool)
    here = places[wrong]
    bins = np.empty(len(labels), dtype=np.int64)
    bins[places] = _numbers(coded["bin"], len(labels), np.uint8)
    count = int(of_set.max(initial=-1)) + 1
    confidence = _means(_numbers(coded["means"], count * _BINS, np.dtype("<u2")).reshape(count, _BINS))[of_set, bins]
    prediction, p_label = labels.astype(np.int32), confidence.copy()
    planes = _numbers(coded["prediction"], 2 * len(here), np.uint8).reshape(2, -1)
    prediction[_by_label(here, labels)] = np.ascontiguousarray(planes.T).view("<u2").ravel()
    p_label[here] = _probability(_numbers(coded["p_label"], len(here), np.uint8))
    return {"prediction": prediction, "confidence": confidence, "p_label": p_label}


def _indices(sets: np.ndarray) -> np.ndarray:
    """(N,) number of each sample's set, by name."""
    return np.unique(sets.astype(str), return_inverse=True)[1]


def _by_label(samples: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Samples in the order of their labels: one class is taken for few others."""
    return samples[np.argsort(labels[samples], kind="stable")]


def _mean_parts(confidence: np.ndarray, bins: np.ndarray, of_set: np.ndarray) -> np.ndarray:
    """(S, _BINS) where in its bin the mean confidence of each set's lies, from 0 to _PARTS; 0 where a bin is empty."""
    size = (int(of_set.max(initial=-1)) + 1) * _BINS
    groups = of_set * _BINS + bins
    total, n = (np.bincount(groups, weights, size) for weights in (confidence.astype(np.float64), None))
    low, width = _inside_bins()
    means = np.divide(total, n, out=np.zeros(size), where=n > 0).reshape(-1, _BINS)
    within = np.divide(means - low, width, out=np.zeros_like(means), where=width > 0)
    return np.clip(np.rint(within * _PARTS), 0, _PARTS).astype(np.int64)


def _means(parts: np.ndarray) -> np.ndarray:
    """(S, _BINS) float32 of `_mean_parts`."""
    low, width = _inside_bins()
    return (low + parts.astype(np.float64) * (width / _PARTS)).astype(np.float32)


def _inside_bins() -> tuple[np.ndarray, np.ndarray]:
    """(_BINS,) float64 lowest confidence of each bin, and the distance from there to its highest."""
    lowest = bin_edges(_BINS - 1)
    highest = np.append(np.nextafter(lowest[1:], np.float32(0)), np.float32(1))
    return lowest.astype(np.float64), highest.astype(np.float64) - lowest


def _powers(p_label: np.ndarray, confidence: np.ndarray, wrong: np.ndarray, of_set: np.ndarray) -> np.ndarray:
    """(N,) k of the 2**-k in place of a wrong sample's p_label, no larger than its confidence, or _IMPOSSIBLE."""
    known = p_label > 0
    exact = np.where(known, p_label, 1).astype(np.float64)
    least = _power_below(confidence)
    low = np.maximum(_power_below(exact), least)
    high = np.maximum(np.where(_probability(low) == exact, low, low - 1), least)
    nll = -np.log(exact)
    # Right ones have their bin's mean, which the wrong ones make up for.
    right = known & ~wrong
    away = nll + np.log(np.where(known, confidence, 1))
    owed = np.bincount(of_set[right], away[right], int(of_set.max(initial=-1)) + 1)
    powers = np.full(len(p_label), _IMPOSSIBLE)
    for i in np.flatnonzero(known & wrong).tolist():
        want = float(nll[i]) + owed[of_set[i]]
        k = int(low[i] if abs(low[i] * _STEP - want) < abs(high[i] * _STEP - want) else high[i])
        powers[i], owed[of_set[i]] = k, want - k * _STEP
    return powers


def _power_below(p: np.ndarray) -> np.ndarray:
    """(N,) the smallest k whose 2**-k is no larger than p > 0."""
    return 1 - np.frexp(p.astype(np.float64))[1].astype(np.int64)


def _probability(powers: np.ndarray) -> np.ndarray:
    return np.where(powers == _IMPOSSIBLE, 0.0, np.ldexp(1.0, -powers.astype(np.int64)))


def _planes(numbers: np.ndarray) -> bytes:
    """Two-byte numbers as all low bytes, then all high."""
    return np.ascontiguousarray(numbers.astype("<u2").view(np.uint8).reshape(-1, 2).T).tobytes()


def _numbers(content: bytes | None, count: int, kind: np.dtype | type) -> np.ndarray:
    found = np.frombuffer(content or b"", kind)
    if len(found) != count:
        raise ValueError(f"{len(found)} numbers for {count} samples")
    return found
