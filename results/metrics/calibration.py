"""Calibration beyond the global ECE: its sampling noise, temperature scaling, and two other estimators.

All take what a file of predictions keeps of each sample, the confidence and whether the prediction is right, so that
each can be computed again without the model.
"""

from __future__ import annotations

import hashlib

import numpy as np

from .metrics import BatchAveragedECE, Bins, MetricError, bin_edges, binned

DRAWS = 200
"""Sets of labels that `expected_ece` draws."""
TEMPERATURES = (0.01, 100.0)
"""Where a temperature is looked for; logits that separate all labels would want 0."""


def ece(confidence: np.ndarray, correct: np.ndarray, bins: int = 15) -> float:
    """`expected_calibration_error` of (N,) confidences in [0, 1] and (N,) bool."""
    counted = Bins(bins)
    counted.add(confidence, correct)
    if not counted.n:
        raise MetricError("ece: no samples; pass at least one.")
    return counted.error()


def batch_averaged_ece(confidence: np.ndarray, correct: np.ndarray, batch_size: int, bins: int = 10) -> float:
    """The lineage's estimator: ECE of each batch of the set's own order, the last short one too, averaged by size."""
    meter = BatchAveragedECE(1, batch_size, bins)
    meter.add(confidence, correct)
    return meter.compute()["ece_batch_averaged"]


def adaptive_ece(confidence: np.ndarray, correct: np.ndarray, bins: int = 15) -> float:
    """ECE over bins of equal mass: the sorted confidences in `bins` parts whose sizes differ by one at most.

    Samples of one confidence share their accuracy, so that their order changes nothing where an edge cuts them.

    Source: Nixon et al. 2019, arXiv:1904.01685 (adaptive calibration error, here of the prediction alone).
    """
    if not len(confidence):
        raise MetricError("adaptive_ece: no samples; pass at least one.")
    values, place, count = np.unique(confidence.astype(np.float64), return_inverse=True, return_counts=True)
    gap = (np.bincount(place, weights=correct) / count - values)[np.sort(place)]
    parts = np.array_split(gap, min(bins, len(gap)))
    return float(sum(abs(part.sum()) for part in parts) / len(gap))


def expected_ece(confidence: np.ndarray, name: str, bins: int = 15, draws: int = DRAWS) -> float:
    """ECE that a perfectly calibrated model with these confidences would show: what of an ECE is sampling noise.

    Mean over `draws` sets of labels, in each of which sample i is right with probability confidence[i].

    Args:
        confidence: (N,) in [0, 1], in the set's order.
        name: of the set; the seed of the draws, the same for every run.
        bins: as in `ece`.
        draws: sets of labels.
    """
    if not len(confidence):
        raise MetricError("expected_ece: no samples; pass at least one.")
    rng = np.random.default_rng(int.from_bytes(hashlib.sha256(f"expected_ece/{name}".encode()).digest()[:8], "big"))
    kept, index = binned(confidence, bin_edges(bins))
    order = np.argsort(index, kind="stable")
    starts = np.flatnonzero(np.diff(index[order], prepend=-1))  # of each bin that holds a sample
    kept = kept[order]
    want = np.add.reduceat(kept.astype(np.float64), starts)
    total = 0.0
    for _ in range(draws):
        right = rng.random(len(kept), dtype=np.float32) < kept
        total += float(np.abs(np.add.reduceat(right.astype(np.int64), starts) - want).sum())
    return total / draws / len(kept)


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The temperature in TEMPERATURES that divides logits so that the likelihood of the labels is largest.

    The likelihood is concave in 1 / temperature, so there is one.

    Args:
        logits: (N, C), finite.
        labels: (N,) in [0, C).

    Raises:
        MetricError: no samples, or logits that are not finite.

    Source: Guo et al. 2017, arXiv:1706.04599, section 4.2.
    """
    from scipy.optimize import brentq

    if not len(labels) or not np.isfinite(logits).all():
        raise MetricError("fit_temperature: expected finite logits of at least one sample.")

    def slope(log_inverse: float) -> float:
        """Derivative of the mean negative log-likelihood with respect to 1 / temperature."""
        total = 0.0
        for start in range(0, len(labels), 4096):
            part, label = logits[start : start + 4096].astype(np.float64), labels[start : start + 4096]
            part -= part.max(axis=1, keepdims=True)
            weight = np.exp(part * np.exp(log_inverse))
            right = part[np.arange(len(label)), label]
            total += float(((weight * part).sum(axis=1) / weight.sum(axis=1) - right).sum())
        return total / len(labels)

    low, high = -np.log(TEMPERATURES[1]), -np.log(TEMPERATURES[0])
    if slope(high) <= 0:
        return TEMPERATURES[0]
    if slope(low) >= 0:
        return TEMPERATURES[1]
    return float(np.exp(-brentq(slope, low, high, xtol=1e-7)))


def scaled_nll(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(N,) float64 -log p(label) in nats after division of the logits by the temperature that `fit_temperature` finds
    on the same samples."""
    scaled = logits.astype(np.float64) / fit_temperature(logits, labels)
    scaled -= scaled.max(axis=1, keepdims=True)
    return np.log(np.exp(scaled).sum(axis=1)) - scaled[np.arange(len(labels)), labels]


def confidence_at(logits: np.ndarray, temperature: float) -> np.ndarray:
    """(N,) float64 largest probability of softmax(logits / temperature); the prediction stays the same."""
    scaled = logits.astype(np.float64) / temperature
    return 1 / np.exp(scaled - scaled.max(axis=1, keepdims=True)).sum(axis=1)
