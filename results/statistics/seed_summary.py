"""What a handful of seeds can tell apart."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import cast

import numpy as np
from numpy.typing import ArrayLike

LEVEL = 0.05
"""Of tests; intervals are at 1 - LEVEL."""


class StatisticsError(ValueError):
    """Numbers that a rule or an estimate is not defined for."""


def paired_difference(first: ArrayLike, second: ArrayLike, unit_ids: Sequence[str]) -> tuple[float, float]:
    """Mean of first - second over samples, and its standard error clustered by unit.

    Args:
        first, second: (N,) values of the same samples in the same order.
        unit_ids: (N,) cluster of each sample; samples of one cluster may depend on each other in any way.

    Returns:
        (difference, standard error). The error is sqrt(G / (G - 1) * sum_g S_g**2) / N for G clusters, S_g
        the sum of deviations from the mean in cluster g: for clusters of equal size, the standard deviation
        of the cluster means over sqrt(G). First (1, 3), second (0, 0), units a and b: (2, 1).

    Raises:
        StatisticsError: lengths differ, or fewer than two units.
    """
    first, second = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if not first.shape == second.shape == (len(unit_ids),):
        raise StatisticsError(
            f"paired difference: lengths {first.shape}, {second.shape} and {len(unit_ids)} must agree."
        )
    units, cluster = np.unique(np.asarray(unit_ids), return_inverse=True)
    if len(units) < 2:
        raise StatisticsError("paired difference: needs at least two source images.")
    difference = first - second
    mean = float(difference.mean())
    sums = np.bincount(cluster, weights=difference - mean)
    error = math.sqrt(len(units) / (len(units) - 1) * float(np.sum(sums**2))) / len(difference)
    return mean, error


def mean_sd(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and standard deviation (n - 1) over seeds; None for one seed. (1, 3) gives (2, sqrt 2)."""
    if not values:
        raise StatisticsError("mean over seeds: no values.")
    mean = math.fsum(values) / len(values)
    if len(values) == 1:
        return mean, None
    return mean, math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))


def mean_of_all(values: Iterable[float | None]) -> float | None:
    """Mean; None where one is missing, or there are none."""
    found = list(values)
    return None if not found or None in found else math.fsum(cast("list[float]", found)) / len(found)


def smallest_resolvable_difference(
    first: Sequence[float], second: Sequence[float], power: float = 0.8, level: float = 0.05
) -> float:
    """The true mean difference that a comparison of this size would detect.

    The comparison is a two-sided paired t-test over seeds: entry i of both is seed i, so what two
    methods share in a seed (order, renderings) cancels. The spread of the paired differences is taken
    from the data, and the noncentral t distribution gives the difference that is significant at `level`
    with probability `power`. It covers training randomness on these test images and this pretrained
    backbone; the sampling of test images comes on top.

    Args:
        first, second: (n,) one value per seed, in the same order of seeds.

    Returns:
        Difference in the unit of the values; 0 if the paired differences do not vary. Paired differences of
        standard deviation 1 resolve 1.68 with five seeds and 3.26 with three.

    Raises:
        StatisticsError: lengths differ or n < 2.
    """
    if len(first) != len(second) or len(first) < 2:
        raise StatisticsError(
            f"smallest difference: needs the same seeds twice, at least 2; got {len(first)}, {len(second)}."
        )
    n = len(first)
    _, spread = mean_sd([a - b for a, b in zip(first, second, strict=True)])
    if not spread:
        return 0.0
    return noncentrality(n - 1, power, level) * spread / math.sqrt(n)


@lru_cache(maxsize=4096)
def noncentrality(df: float, power: float, level: float) -> float:
    """The noncentrality at which a two-sided t test at this level has this power, to the last digits of a float.

    `special.nctdtrinc` knows three to seven of them, and `optimize` and `stats` take longer to import than a board.
    """
    from scipy import special  # late: a plan needs none of it

    critical = float(special.stdtrit(df, 1 - level / 2))

    def has_power(shift: float) -> bool:
        # The other tail, a significant difference of the wrong sign, is far below 1e-3 here.
        return bool(special.nctdtr(df, shift, critical) <= 1 - power)

    low, high = 0.0, max(critical, 1.0)
    while not has_power(high):
        high *= 1.5
    while low < (middle := (low + high) / 2) < high:
        low, high = (low, middle) if has_power(middle) else (middle, high)
    return high


def level_text(tests: int) -> str:
    """The level at which a column of so many tests separates a first row: two-sided 5 % / 16, as Holm does first."""
    return f"two-sided 5 % / {tests}, the level at which Holm separates a first row" if tests > 1 else "two-sided 5 %"
