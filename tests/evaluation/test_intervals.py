"""Bootstrap intervals against scipy's and against cases with a known answer."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama3.evaluation.intervals import bootstrap, enough_trials, ratio, wilson


def mean(sums_B2):
    return sums_B2[:, 0] / sums_B2[:, 1]


def test_the_interval_is_scipys():
    scipy_stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(0)
    weights = rng.integers(100, 5000, 60).astype(float)
    scores = weights * rng.normal(1.5, 0.3, 60)
    found = ratio(scores, weights)
    theirs = scipy_stats.bootstrap(
        (scores, weights),
        lambda s, w, axis: s.sum(axis) / w.sum(axis),
        paired=True,
        vectorized=True,
        n_resamples=10_000,
        method="percentile",
        rng=np.random.default_rng(1),
    ).confidence_interval
    width = theirs.high - theirs.low
    assert found.rate == scores.sum() / weights.sum()
    assert abs(found.low - theirs.low) < 0.05 * width
    assert abs(found.high - theirs.high) < 0.05 * width


def test_a_large_sample_gives_the_normal_interval():
    values = np.random.default_rng(3).normal(0, 1, 1000)
    low, high = bootstrap(np.stack([values, np.ones(1000)], 1), mean)
    half = 1.96 * values.std() / math.sqrt(1000)
    assert low == pytest.approx(values.mean() - half, abs=0.03 * half)
    assert high == pytest.approx(values.mean() + half, abs=0.03 * half)


def test_the_seed_decides():
    columns = np.stack([np.random.default_rng(0).normal(size=50), np.ones(50)], 1)
    assert bootstrap(columns, mean, 1) == bootstrap(columns, mean, 1) != bootstrap(columns, mean, 2)


def test_pairs_stay_together():
    # Two columns that differ by a constant: however items are drawn, the difference of their means is that constant.
    before = np.random.default_rng(0).normal(size=40)
    columns = np.stack([before, before + 0.25, np.ones(40)], 1)
    low, high = bootstrap(columns, lambda sums: (sums[:, 1] - sums[:, 0]) / sums[:, 2])
    assert (low, high) == (pytest.approx(0.25), pytest.approx(0.25))


def test_trials_have_wilsons_interval():
    assert ratio(np.array([1.0, 0, 1, 1]), np.ones(4)) == wilson(3, 4)


@given(st.floats(0.01, 0.9))
def test_enough_trials_is_the_rule_of_three(margin):
    n = enough_trials(margin)
    assert (1 - margin) ** n <= 0.025 * (1 + 1e-9)
    assert (1 - margin) ** (n - 1) > 0.025 * (1 - 1e-9)


def test_the_number_of_trials_for_five_points():
    assert enough_trials(0.05) == 72
