"""Per-sample outcomes in few bytes, rounded so that what is computed of a whole set holds.

A probability keeps nine bits of its distance to 0 or to 1, whichever is nearer: a step is at most 1/256 of that
distance, so that small probabilities and confidences near 1 stay apart. Of the two steps around a number the one is
taken that cancels what the samples before it were rounded by, and never one beyond an edge of a bin. The sums that
metrics are made of thereby move by less than one step, however many samples there are: the confidence in a bin (ECE),
the negative log-likelihood and the Brier score of a set. Rounding what was rounded changes nothing.

Decoding takes nothing but comparisons, shifts, and single additions and products in float64: the same everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..metrics.metrics import bin_edges

COLUMNS = ("wrong", "prediction", "confidence", "p_label", "sum_p2", "confidence_scaled")
"""What `encode` gives: which samples are wrong, one bit each; prediction and p_label of those alone (a right sample's
are its label and its confidence); the others of every sample. Two-byte numbers lie as all low bytes, then all high."""
_SHIFT = 15
"""Bits that a float32 of nine significant bits does without."""
_HALF = 0x3F000000 >> _SHIFT  # code of 1/2; 1 is twice that
_STEPS = 64
"""In 1: of sum_p2 above what confidence and p_label make of it, and of confidence_scaled beside confidence."""
_EDGES = np.union1d(bin_edges(10), bin_edges(15))


def encode(columns: Mapping[str, np.ndarray], sets: np.ndarray) -> dict[str, bytes]:
    """Bytes of one run's samples, by the names of COLUMNS.

    Args:
        columns: label, prediction, confidence and p_label of N samples, and sum_p2 and confidence_scaled if it has
            them, as `predictions.read` gives them.
        sets: (N,) which set a sample is of: rounding is balanced within one.
    """
    _, of_set = np.unique(sets.astype(str), return_inverse=True)
    wrong = columns["prediction"] != columns["label"]
    true = np.minimum(columns["confidence"].astype(np.float32), np.float32(1))
    low, high = _around(true)
    fits = [_place(_value(code), _EDGES) == _place(true, _EDGES) for code in (low, high)]
    place, both = np.zeros(len(true), dtype=np.int64), [fit.copy() for fit in fits]
    for index in range(int(of_set.max(initial=-1)) + 1):
        rows = of_set == index
        edges = np.union1d(_EDGES, _equal_masses(true[rows]))
        place[rows] = _place(true[rows], edges)
        for fit, code in zip(both, (low, high), strict=True):
            fit[rows] = _place(_value(code[rows]), edges) == place[rows]
    some = both[0] | both[1]  # else two bins of equal mass begin in one step, and only those of equal width are kept
    low, high = _inside(low, high, *(np.where(some, b, f) for b, f in zip(both, fits, strict=True)))
    codes = _balanced(true, low, _value(low), high, _value(high), of_set * (int(place.max(initial=0)) + 1) + place)
    confidence = _value(codes)
    coded = {
        "wrong": np.packbits(wrong).tobytes(),
        "prediction": _planes(columns["prediction"][wrong]),
        "confidence": _planes(codes),
    }
    # The likelihood: right samples are rounded already, and wrong ones make up for it.
    p_label = np.minimum(columns["p_label"].astype(np.float32), np.float32(1))
    low, high = (np.where(wrong, ends, codes) for ends in _around(p_label))
    known = p_label > 0
    nll = [-np.log(np.where(known, p, 1), dtype=np.float64) for p in (p_label, _value(low), _value(high))]
    codes = _balanced(nll[0], low, nll[1], high, nll[2], of_set)
    coded["p_label"] = _planes(codes[wrong])
    kept = _value(codes)
    if "sum_p2" in columns:
        least = _least(confidence, kept, wrong)
        # Moved with p_label, so that the Brier score is the one that holds.
        target = columns["sum_p2"].astype(np.float64) + 2 * (kept.astype(np.float64) - p_label)
        most = np.floor((1 - least) * _STEPS)
        low = np.clip(np.floor((target - least) * _STEPS + 1e-4), 0, most)
        high = np.clip(low + 1, 0, most)
        codes = _balanced(target, low, least + low / _STEPS, high, least + high / _STEPS, of_set)
        coded["sum_p2"] = codes.astype(np.int8).tobytes()
    if "confidence_scaled" in columns:
        scaled = np.minimum(columns["confidence_scaled"].astype(np.float32), np.float32(1))
        edges = bin_edges(15)
        place = _place(scaled, edges)
        away = scaled.astype(np.float64) - confidence
        step = _step(confidence, away > 0)
        low = np.floor(np.divide(away, step, out=np.zeros_like(away), where=step > 0) + 1e-4)
        low, high = _inside(
            low,
            low + 1,
            _place(_beside(confidence, low), edges) == place,
            _place(_beside(confidence, low + 1), edges) == place,
        )
        groups = of_set * len(edges) + place
        codes = _balanced(scaled, low, _beside(confidence, low), high, _beside(confidence, high), groups)
        coded["confidence_scaled"] = codes.astype(np.int8).tobytes()
    return coded


def decode(coded: Mapping[str, bytes | None], labels: np.ndarray) -> dict[str, np.ndarray]:
    """prediction, confidence, p_label, and sum_p2 and confidence_scaled where they are kept, as float32.

    Raises:
        ValueError: there are not as many numbers as labels.
    """
    bits = np.frombuffer(coded["wrong"] or b"", np.uint8)
    if len(bits) != -(-len(labels) // 8):
        raise ValueError(f"{8 * len(bits)} bits for {len(labels)} samples")
    wrong = np.unpackbits(bits, count=len(labels)).astype(bool)
    confidence = _value(_numbers(coded["confidence"], len(labels)))
    prediction, p_label = labels.astype(np.int32), confidence.copy()
    prediction[wrong] = _numbers(coded["prediction"], wrong.sum())
    p_label[wrong] = _value(_numbers(coded["p_label"], wrong.sum()))
    columns = {"prediction": prediction, "confidence": confidence, "p_label": p_label}
    if (steps := coded.get("sum_p2")) is not None:
        least = _least(confidence, p_label, wrong)
        columns["sum_p2"] = (least + np.frombuffer(steps, np.int8) / _STEPS).astype(np.float32)
    if (steps := coded.get("confidence_scaled")) is not None:
        columns["confidence_scaled"] = _beside(confidence, np.frombuffer(steps, np.int8))
    return columns


def _value(codes: np.ndarray) -> np.ndarray:
    """Float32 of a code: as float32's own first bits up to 1/2, and mirrored above."""
    codes = np.asarray(codes, dtype=np.int64)
    near = (np.minimum(codes, 2 * _HALF - codes) << _SHIFT).astype(np.uint32).view(np.float32)
    return np.where(codes <= _HALF, near, np.float32(1) - near)


def _around(p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The codes below and above a probability; both the same where it has a code. Only 0 is rounded to 0."""
    upper = p > 0.5
    bits = np.where(upper, np.float32(1) - p, p).astype(np.float32).view(np.uint32).astype(np.int64)
    first, rest = bits >> _SHIFT, (bits & ((1 << _SHIFT) - 1)) > 0
    low = np.where(upper, 2 * _HALF - first - rest, first)
    high = low + rest
    return np.where((low == 0) & (p > 0), high, low), high


def _inside(
    low: np.ndarray, high: np.ndarray, low_fits: np.ndarray, high_fits: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    return np.where(low_fits | ~high_fits, low, high), np.where(high_fits | ~low_fits, high, low)


def _balanced(
    target: np.ndarray,
    low: np.ndarray,
    low_value: np.ndarray,
    high: np.ndarray,
    high_value: np.ndarray,
    groups: np.ndarray,
) -> np.ndarray:
    """Of two codes each the one that cancels what the samples of its group were rounded by before it."""
    owed = [0.0] * (int(groups.max(initial=0)) + 1)
    taken = np.zeros(len(target), dtype=bool)
    every = (np.asarray(values).tolist() for values in (target, low_value, high_value, groups))
    for i, (want, below, above, group) in enumerate(zip(*every, strict=True)):
        want += owed[group]
        up = abs(above - want) < abs(below - want)
        taken[i] = up
        owed[group] = want - (above if up else below)
    return np.where(taken, high, low).astype(np.int64)


def _equal_masses(confidence: np.ndarray, bins: int = 15) -> np.ndarray:
    """The confidences with which the bins of `calibration.adaptive_ece` begin, where no two samples with one do."""
    ordered = np.sort(confidence)
    starts = np.cumsum([len(part) for part in np.array_split(ordered, min(bins, len(ordered)))])[:-1]
    return ordered[starts][ordered[starts - 1] < ordered[starts]]


def _place(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    return np.searchsorted(edges, values, side="right") - 1


def _least(confidence: np.ndarray, p_label: np.ndarray, wrong: np.ndarray) -> np.ndarray:
    """What the known probabilities add to the sum of all squares."""
    known, label = confidence.astype(np.float64), p_label.astype(np.float64)
    return known * known + np.where(wrong, label * label, 0)


def _beside(confidence: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """The number so many steps from a confidence; towards 0 or 1 a step is no more than a part of what is left."""
    return np.clip(confidence + steps * _step(confidence, steps > 0), 0, 1).astype(np.float32)


def _step(confidence: np.ndarray, upwards: np.ndarray) -> np.ndarray:
    known = confidence.astype(np.float64)
    return np.minimum(np.where(upwards, (1 - known) / 4, known / 16), 1 / _STEPS)


def _planes(numbers: np.ndarray) -> bytes:
    return np.ascontiguousarray(numbers.astype("<u2").view(np.uint8).reshape(-1, 2).T).tobytes()


def _numbers(planes: bytes | None, count: int) -> np.ndarray:
    found = np.frombuffer(planes or b"", np.uint8).reshape(2, -1)
    if found.shape[1] != count:
        raise ValueError(f"{found.shape[1]} numbers for {count} samples")
    return np.ascontiguousarray(found.T).view("<u2").ravel()
