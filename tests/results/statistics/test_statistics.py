"""Selection rules and seed statistics against hand-worked cases and their definitions."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from robustft.results.statistics.seed_summary import (
    StatisticsError,
    mean_sd,
    paired_difference,
    smallest_resolvable_difference,
)
from robustft.results.statistics.setting_selection import Trial, best_id, conservatism, one_se

pytestmark = pytest.mark.computes

UNITS = ["a", "a", "b", "b"]  # two source images, two renderings each


def trial(nll, units=UNITS, **values):
    return Trial(values, np.array(nll, dtype=float), units)


def test_clustered_error_by_hand():
    # differences 1, 3, 2, 6: mean 3; sums of deviations: a (-2 + 0) = -2, b (-1 + 3) = 2
    # sqrt(2 / 1 * (4 + 4)) / 4 = 1; the same as sd of the cluster means (2, 4) over sqrt 2.
    assert paired_difference([1, 3, 2, 6], [0, 0, 0, 0], UNITS) == (3.0, 1.0)


def test_clusters_of_unequal_size_by_hand():
    # differences 0, 0, 3: mean 1; a: -2, b: 2; sqrt(2 * 8) / 3 = 4/3
    mean, error = paired_difference([0, 0, 3], [0, 0, 0], ["a", "a", "b"])
    assert (mean, error) == (1.0, pytest.approx(4 / 3))


def test_one_se_by_hand():
    best = trial([0, 0, 0, 0], lr=1e-3, lambda_sd=1)
    within = trial([1, 1, 0, 0], lr=1e-4, lambda_sd=1)  # mean .5, cluster means 1, 0: error .5
    stronger = trial([1, 1, 0, 0], lr=1e-4, lambda_sd=5)
    clearly_worse = trial([1, 1, 1, 0.9], lr=1e-5, lambda_sd=9)  # mean .975, error .025
    trials = [clearly_worse, within, best, stronger]
    assert best_id(trials) is best
    assert one_se(trials) is stronger
    assert one_se([clearly_worse, within, best]) is within
    assert one_se([clearly_worse, best]) is best


def test_difference_of_exactly_one_error_still_counts():
    # renderings of one image move together: counting them as four samples would give a smaller error, 0.29
    best, edge = trial([0, 0, 0, 0], lr=1.0), trial([1, 1, 0, 0], lr=0.5)
    assert one_se([best, edge]) is edge
    as_samples = [trial(t.nll_per_sample, ["a", "b", "c", "d"], **t.values) for t in (best, edge)]
    assert one_se(as_samples) is as_samples[0]


def test_smallest_rate_comes_before_strength_and_alpha_counts_backwards():
    flat = [0.0, 0.0, 0.0, 0.0]
    slow_weak, fast_strong = trial(flat, lr=1e-4, lambda_sd=0), trial(flat, lr=1e-3, lambda_sd=9)
    assert one_se([fast_strong, slow_weak]) is slow_weak
    near_start, near_end = trial(flat, lr=1e-3, alpha=0.25), trial(flat, lr=1e-3, alpha=0.75)
    near_start, near_end = replace(near_start, safer="smaller"), replace(near_end, safer="smaller")
    assert one_se([near_end, near_start]) is near_start
    assert best_id([near_end, near_start]) is near_start  # ties go to the conservative side
    assert conservatism({"lr": 1.0, "alpha": 0.5}, "smaller") == (1.0, 0.5)
    assert conservatism({"lr": 1.0, "lambda_sd": 0.5}) == (1.0, -0.5)


def test_a_diverged_trial_is_never_chosen():
    good, bad = trial([1, 2, 1, 2], lr=1.0), trial([0, 0, 0, math.nan], lr=0.1)
    assert one_se([bad, good]) is good is best_id([good, bad])
    with pytest.raises(StatisticsError, match="every trial diverged"):
        best_id([bad, trial([math.inf] * 4, lr=1.0)])


@pytest.mark.parametrize(
    "trials, words",
    [
        ([], "no trial"),
        ([trial([0] * 4, lr=1), trial([0] * 4, ["a", "b", "b", "b"], lr=1)], "other samples"),
        ([trial([0, 0], lr=1)], "lacks losses"),
        ([trial([0] * 4, beta=1), trial([0] * 4, beta=2)], "no 'lr'"),
        ([trial([0, 0], ["a", "a"], lr=1)], "two source images"),
    ],
)
def test_trials_that_cannot_be_compared_are_refused(trials, words):
    with pytest.raises(StatisticsError, match=words):
        one_se(trials)


@st.composite
def tunings(draw):
    images, renderings = draw(st.integers(2, 8)), draw(st.integers(1, 4))
    units = [f"u{i}" for i in range(images) for _ in range(renderings)]
    rates = draw(st.lists(st.sampled_from([1e-4, 3e-4, 1e-3]), min_size=1, max_size=6))
    strengths = st.sampled_from([0.1, 0.5, 1.0])
    loss = st.floats(0, 5).map(lambda x: round(x, 3))
    return [
        Trial(
            {"lr": rate, "lambda_sd": draw(strengths)},
            np.array(draw(st.lists(loss, min_size=len(units), max_size=len(units)))),
            units,
        )
        for rate in rates
    ]


@settings(max_examples=150, deadline=None)
@given(tunings(), st.randoms(use_true_random=False))
def test_the_rules_keep_their_definition(trials, random):
    best, chosen = best_id(trials), one_se(trials)
    assert best.nll == min(t.nll for t in trials)
    assert conservatism(chosen.values) <= conservatism(best.values)
    difference, error = paired_difference(chosen.nll_per_sample, best.nll_per_sample, best.unit_ids)
    assert difference <= error
    for other in trials:
        gap, spread = paired_difference(other.nll_per_sample, best.nll_per_sample, best.unit_ids)
        assert gap > spread or conservatism(other.values) >= conservatism(chosen.values)
    shuffled = random.sample(trials, len(trials))
    assert one_se(shuffled).values == chosen.values
    assert best_id(shuffled).nll == best.nll


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 30), st.integers(0, 9))
def test_one_sample_per_image_is_the_ordinary_paired_error(n, seed):
    rng = np.random.default_rng(seed)
    first, second = rng.normal(size=(2, n))
    mean, error = paired_difference(first, second, [str(i) for i in range(n)])
    assert mean == pytest.approx(np.mean(first - second))
    assert error == pytest.approx(stats.sem(first - second))


def test_mean_and_deviation_over_seeds():
    assert mean_sd([1.0, 3.0]) == (2.0, pytest.approx(math.sqrt(2)))
    assert mean_sd([0.7]) == (0.7, None)
    with pytest.raises(StatisticsError):
        mean_sd([])


@pytest.mark.parametrize("n, want", [(3, 3.264), (5, 1.682)])
def test_smallest_resolvable_difference_of_the_docstring(n, want):
    spread = np.arange(n) / np.std(np.arange(n), ddof=1)
    got = smallest_resolvable_difference(list(7 + spread), [7.0] * n)
    assert got == pytest.approx(want, abs=1e-3)


def test_smallest_resolvable_difference_has_the_power_it_says():
    n, draws = 5, 20_000
    rng = np.random.default_rng(0)
    size = smallest_resolvable_difference([0.0, 1.0, 2.0, 3.0, 4.0], [0.0] * n) / math.sqrt(2.5)
    samples = rng.normal(loc=size, scale=1.0, size=(draws, n))
    power = np.mean(stats.ttest_1samp(samples, 0.0, axis=1).pvalue < 0.05)
    assert power == pytest.approx(0.8, abs=0.012)  # four standard errors of 20,000 draws


def test_smallest_resolvable_difference_of_equal_differences_is_zero():
    assert smallest_resolvable_difference([1.0, 2.0], [0.0, 1.0]) == 0.0
    with pytest.raises(StatisticsError, match="at least 2"):
        smallest_resolvable_difference([1.0], [2.0])
