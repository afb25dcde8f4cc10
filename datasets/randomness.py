"""Randomness that is a function of names and numbers, and of nothing else.

A sample's randomness may depend on (seed, epoch, sample id) only: never on the worker, on the batch it sits in, on the
machine or on a resume. So no generator carries state here: a 64-bit key per sample goes through the finaliser of
SplitMix64 (Steele, Lea and Flood, OOPSLA 2014), for a whole batch at once, in integer arithmetic.
"""

import hashlib

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def stable_key(*parts: str | int) -> int:
    """A 64-bit integer that names `parts`; the same on every machine (Python's own hash() is salted)."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def _mix(x: np.ndarray) -> np.ndarray:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def derive(key: int | np.ndarray, *numbers: np.ndarray | int) -> np.ndarray:
    """(B,) uint64 keys from a base key and one or more integers or (B,) integer arrays, in order."""
    out = np.atleast_1d(np.asarray(key, dtype=np.uint64))
    for number in numbers:
        out = _mix(out + _GOLDEN * (np.atleast_1d(np.asarray(number)).astype(np.uint64) + np.uint64(1)))
    return out


def uniforms(keys: np.ndarray, count: int) -> np.ndarray:
    """(B, count) float64 in [0, 1), with 53 random bits, from (B,) uint64 keys."""
    counters = _GOLDEN * np.arange(1, count + 1, dtype=np.uint64)
    bits = _mix(keys[:, None] + counters[None, :])
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def permutation(key: int, size: int) -> np.ndarray:
    """(size,) int64: a shuffle of 0..size-1 that is a function of the key."""
    return np.argsort(derive(key, np.arange(size)), kind="stable")
