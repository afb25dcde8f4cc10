"""Calibration beyond the global ECE: its sampling noise, temperature scaling, and two other estimators.

All take what a file of predictions keeps of each sample, the confidence and whether the prediction is right, so that
each can be computed again without the model.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from .metrics import UNIT, BatchAveragedECE, Bins, MetricError, bin_edges, binned

DRAWS = 200
"""Sets of labels that `expected_ece` draws."""
KEPT = 2**19
"""Random numbers of those draws that are kept for the next run on a set, 2 MiB, of 16 sets at most."""
TEMPERATURES = (0.01, 100.0)
"""Where a temperature is looked for; logits that separate all labels would want 0."""
NARROWEST = 0.001
"""Width of the kernel of `smooth_ece`, at least."""


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
    gap = np.repeat(np.bincount(place, weights=correct) / count - values, count)
    parts = np.array_split(gap, min(bins, len(gap)))
    return float(sum(abs(part.sum()) for part in parts) / len(gap))


def mce(confidence: np.ndarray, correct: np.ndarray, bins: int = 15) -> float:
    """The largest |accuracy - confidence| of any bin of `ece` that holds a sample, however few.

    Source: Naeini et al. 2015, AAAI (maximum calibration error).
    """
    return float(_gaps(confidence, correct, bins)[0].max())


def debiased_ece(confidence: np.ndarray, correct: np.ndarray, bins: int = 15) -> float:
    """Root of the debiased squared calibration error over the bins of `ece`, 0 where that is below 0.

    Of each bin's squared gap the variance of its accuracy is taken off, accuracy (1 - accuracy) / (n - 1), so that on
    average more bins or fewer samples make it no larger; a bin of one sample counts as 0. It is of squares (L2), so
    that without the correction it would be at least the ECE.

    Source: Kumar et al. 2019, arXiv:1909.10155, section 5.
    """
    gap, accuracy, count = _gaps(confidence, correct, bins)
    several = count > 1
    squares = gap**2 - accuracy * (1 - accuracy) / np.maximum(count - 1, 1)
    return float(np.sqrt(max(0.0, (np.where(several, squares, 0) * count).sum() / count.sum())))


def _gaps(confidence: np.ndarray, correct: np.ndarray, bins: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """|accuracy - confidence|, accuracy and count of each bin that holds a sample."""
    if not len(confidence) or not np.isfinite(confidence).all():
        raise MetricError("calibration: expected finite confidences of at least one sample; evaluate it again.")
    counted = Bins(bins)
    counted.add(confidence, correct)
    used = counted.count > 0
    count, total = counted.count[used], np.array([total / UNIT for total in counted.confidence])[used]
    return np.abs(counted.correct[used] - total) / count, counted.correct[used] / count, count


def smooth_ece(confidence: np.ndarray, correct: np.ndarray) -> float:
    """smECE: |confidence - accuracy| smoothed by a reflected Gaussian whose width is the error that comes out.

    The mean over samples' density of the absolute smoothed residual; the width is the smallest that a bisection of
    ten steps from 1 finds to be no less than the error at it, and at least NARROWEST. No bins, and continuous in the
    confidences.

    Residuals are shared between the two points beside them on a mesh of 1,001 points, or ten a width where that is
    more, and read at 200, or ten a width. The density has 1e-4 added to it, and the kernel ends half the interval away.

    Source: Blasiok & Nakkiran 2023, arXiv:2309.12236, with the numerics of its package, relplot 1.0.3.

    Raises:
        MetricError: no samples, or a confidence that is not finite.
    """
    if not len(confidence) or not np.isfinite(confidence).all():
        raise MetricError("smooth_ece: expected finite confidences of at least one sample; evaluate it again.")
    at = np.minimum(confidence.astype(np.float64), 1.0)
    weights = np.stack([at - correct, np.ones(len(at))])
    spectra: dict[int, np.ndarray] = {}  # number of points -> of what lies on that mesh, which most widths share

    def spectrum(points: int) -> np.ndarray:
        low = np.clip((at * (points - 1)).astype(np.int64), 0, points - 2)
        share = at * (points - 1) - low
        both = np.concatenate([low, low + 1])
        values = np.stack([
            np.bincount(both, weights=np.concatenate([(1 - share) * each, share * each]), minlength=points)
            for each in weights
        ])  # fmt: skip
        mirrored = np.concatenate([values[:, :0:-1], values, values[:, -2::-1]], axis=1)
        return _transformed(mirrored, points)

    def smoothed(width: float) -> float:
        kernel = _kernel(width)
        points = len(kernel.mesh)
        if points not in spectra:
            spectra[points] = spectrum(points)
        smooth = _convolved(spectra[points], kernel.spectrum, 3 * points - 2, points)
        smooth = smooth[:, points // 2 : points // 2 + points]
        residual, density = (np.interp(kernel.read, kernel.mesh, line) for line in smooth)
        return float(np.abs(residual).sum() / (density + 1e-4).sum())

    wide, narrow = 1.0, 0.0
    error = smoothed(wide)
    if error > wide:
        return error
    for _ in range(10):
        middle = (wide + narrow) / 2
        found = smoothed(middle) if middle >= NARROWEST else np.inf
        if middle < found:
            narrow = middle
        else:
            wide, error = middle, found
    return error


@dataclass(frozen=True)
class _Kernel:
    """What `smooth_ece` needs of a width.

    Attributes:
        mesh, read: the points between which residuals are shared, and those where they are read.
        spectrum: of the kernel, as `_convolved` wants it beside the mirrored mesh.
    """

    mesh: np.ndarray
    read: np.ndarray
    spectrum: np.ndarray


@lru_cache(maxsize=64)
def _kernel(width: float) -> _Kernel:
    """The first widths of a bisection are those of every set, and its last ones those of sets alike."""
    points = max(2000, round(20 / width)) // 2 + 1
    away = np.linspace(0, 1, points) - 0.5
    kernel = np.exp(-(away**2) / (2 * width**2)) / (np.sqrt(2 * np.pi) * width)
    read = np.linspace(0, 1, max(round(10 / width), 200))
    return _Kernel(np.linspace(0, 1, points), read, _transformed(kernel, 3 * points - 2))


def _transformed(values: np.ndarray, other: int) -> np.ndarray:
    """Spectrum of the last axis, (..., N), for its convolution with `other` values."""
    from scipy import fft

    return fft.rfft(values, fft.next_fast_len(values.shape[-1] + other - 1, True))


def _convolved(lines: np.ndarray, kernel: np.ndarray, length: int, width: int) -> np.ndarray:
    """(K, N - M + 1) convolution of each of K lines with a kernel, where it lies on the line as a whole.

    The bits of scipy.signal's `fftconvolve(..., "valid")`, whose import takes longer than the evaluation of a set.

    Args:
        lines, kernel: as `_transformed` gives them, of (K, N) and of (M,).
        length, width: N and M.
    """
    from scipy import fft

    size = fft.next_fast_len(length + width - 1, True)
    return fft.irfft(lines * kernel, size)[:, width - 1 : length]


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
    kept, index = binned(confidence, bin_edges(bins))
    order = np.argsort(index, kind="stable")
    starts = np.flatnonzero(np.diff(index[order], prepend=-1))  # of each bin that holds a sample
    kept = kept[order]
    want = np.add.reduceat(kept.astype(np.float64), starts)
    total = 0.0
    for numbers in _numbers(name, len(kept), draws):
        right = np.add.reduceat((numbers < kept).view(np.uint8), starts, axis=1, dtype=np.int32)
        for gap in np.abs(right - want).sum(axis=1).tolist():  # one after the other: their order decides the last bits
            total += gap
    return total / draws / len(kept)


def _numbers(name: str, count: int, draws: int) -> Iterable[np.ndarray]:
    """`draws` rows of `count` float32 random numbers, a function of the set's name, in blocks of rows.

    Those of a set of usual size are kept: every run on the set is scored with the same.
    """
    if draws * count <= KEPT:
        return [_kept_numbers(name, count, draws)]
    rng = _draws_of(name)
    return (rng.random((1, count), dtype=np.float32) for _ in range(draws))


@lru_cache(maxsize=16)
def _kept_numbers(name: str, count: int, draws: int) -> np.ndarray:
    return _draws_of(name).random((draws, count), dtype=np.float32)


def _draws_of(name: str) -> np.random.Generator:
    seed = hashlib.sha256(f"expected_ece/{name}".encode()).digest()[:8]
    return np.random.default_rng(int.from_bytes(seed, "big"))


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
