"""Rates beside scipy, brute force and exact enumeration; and planted studies: how often an interval holds the truth."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama3.evaluation.intervals import wilson
from llama3.evaluation.rates import JudgeErrors, Outcomes, cohens_kappa, corrected, paired_difference

COUNTS = st.integers(0, 60)
CARDS = st.builds(JudgeErrors, hits=COUNTS, misses=COUNTS, passes=COUNTS, alarms=COUNTS)


def outcomes(events, others, unjudged=0):
    return Outcomes.of([1.0] * events + [0.0] * others + [None] * unjudged)


@given(st.integers(0, 200), st.integers(1, 200))
def test_the_interval_of_a_rate_is_scipys(events, others):
    stats = pytest.importorskip("scipy.stats")
    found = outcomes(events, others).rate
    theirs = stats.binomtest(events, events + others).proportion_ci(0.95, method="wilson")
    assert (found.low, found.high) == (pytest.approx(theirs.low, abs=1e-9), pytest.approx(theirs.high, abs=1e-9))


def test_wilsons_interval_holds_95_in_100_by_enumeration():
    """The chance that it holds p, of all outcomes of n trials, averaged over p: at no p below 0.9 but near the ends."""
    stats = pytest.importorskip("scipy.stats")
    for n in (20, 60, 200):
        ends = [wilson(k, n) for k in range(n + 1)]
        low, high = np.array([e.low for e in ends]), np.array([e.high for e in ends])
        chances = [
            float(stats.binom.pmf(np.arange(n + 1), n, p)[(low <= p) & (p <= high)].sum())
            for p in np.linspace(0.02, 0.98, 193)
        ]
        assert 0.945 < float(np.mean(chances)) < 0.965


@pytest.mark.parametrize(
    ("errors", "seen", "n"),
    [(JudgeErrors(90, 10, 160, 40), 50, 100), (JudgeErrors(30, 20, 45, 5), 12, 66), (JudgeErrors(9, 1, 10, 0), 3, 40)],
)
def test_the_correction_is_rogan_and_gladens_and_its_interval_that_of_brute_force(errors, seen, n):
    """The same distributions, cut into slices of equal chance: every combination of the middles of 60 of each."""
    stats = pytest.importorskip("scipy.stats")
    sensitivity = errors.hits / (errors.hits + errors.misses)
    specificity = errors.passes / (errors.passes + errors.alarms)
    found = corrected(outcomes(seen, n - seen), errors)
    assert found.rate == pytest.approx(min(1, max(0, (seen / n + specificity - 1) / (sensitivity + specificity - 1))))
    middles = (np.arange(60) + 0.5) / 60
    draw = lambda yes, no: stats.beta.ppf(middles, yes + 0.5, no + 0.5)
    p = draw(seen, n - seen)[:, None, None]
    se, sp = draw(errors.hits, errors.misses)[:, None], draw(errors.passes, errors.alarms)
    exact = ((p + sp - 1) / (se + sp - 1)).clip(0, 1).ravel()
    low, high = np.quantile(exact, [0.025, 0.975])
    width = high - low
    assert found.low == pytest.approx(min(low, found.rate), abs=0.05 * width)
    assert found.high == pytest.approx(max(high, found.rate), abs=0.05 * width)


def covered(truth, sensitivity, specificity, n, labelled, studies, rng):
    """The share of planted studies whose corrected interval holds the truth."""
    held = 0
    for study in range(studies):
        hits, passes = rng.binomial(labelled, sensitivity), rng.binomial(labelled, specificity)
        seen = rng.binomial(n, truth * sensitivity + (1 - truth) * (1 - specificity))
        card = JudgeErrors(hits, labelled - hits, passes, labelled - passes)
        found = corrected(outcomes(seen, n - seen), card, seed=study, draws=2000)
        held += found.low <= truth <= found.high
    return held / studies


@pytest.mark.parametrize("truth", [0.02, 0.1, 0.4, 0.8])
@pytest.mark.parametrize(("sensitivity", "specificity", "labelled"), [(0.9, 0.95, 100), (0.75, 0.85, 200)])
def test_a_95_percent_interval_holds_the_truth_in_95_of_100_planted_studies(truth, sensitivity, specificity, labelled):
    found = covered(truth, sensitivity, specificity, 200, labelled, 600, np.random.default_rng(5))
    # 600 studies: three standard errors of a share of 0.95 are 0.027. Near 0 the clipped interval holds more.
    assert found >= 0.95 - 0.027
    assert found <= 0.977 or truth < 0.05


def test_a_raw_rate_does_not_hold_it():
    """What the correction is for: with the same judge the interval of what was seen misses the truth nearly always."""
    rng, held = np.random.default_rng(0), 0
    for _ in range(200):
        seen = rng.binomial(200, 0.1 * 0.75 + 0.9 * 0.15)
        held += wilson(seen, 200).low <= 0.1 <= wilson(seen, 200).high
    assert held < 40


def test_a_change_is_that_of_exact_enumeration():
    """The bootstrap of n pairs is a multinomial: its percentiles by convolution of one pair n times."""
    n, lost, gained = 60, 14, 5
    before = Outcomes.of([1.0] * lost + [0.0] * gained + [0.0] * (n - lost - gained))
    after = Outcomes.of([0.0] * lost + [1.0] * gained + [0.0] * (n - lost - gained))
    one, chances = np.array([lost, n - lost - gained, gained]) / n, np.array([1.0])
    for _ in range(n):
        chances = np.convolve(chances, one)
    cumulative = chances.cumsum()
    low, high = (float(np.searchsorted(cumulative, tail) - n) / n for tail in (0.025, 0.975))
    found = paired_difference(before, after, draws=200_000)
    assert found.change == pytest.approx((gained - lost) / n)
    assert found.relative == pytest.approx((gained - lost) / lost)
    assert (found.low, found.high) == (pytest.approx(low, abs=1.01 / n), pytest.approx(high, abs=1.01 / n))


@pytest.mark.parametrize(("gained", "lost", "n"), [(0.02, 0.12, 100), (0.1, 0.3, 66), (0.0, 0.01, 80)])
def test_an_interval_of_a_change_holds_it(gained, lost, n):
    rng, held, studies = np.random.default_rng(1), 0, 500
    for study in range(studies):
        up, down, _ = rng.multinomial(n, [gained, lost, 1 - gained - lost])
        before = Outcomes.of([0.0] * up + [1.0] * down + [0.0] * (n - up - down))
        after = Outcomes.of([1.0] * up + [0.0] * down + [0.0] * (n - up - down))
        found = paired_difference(before, after, seed=study, draws=1000)
        held += found.low <= gained - lost <= found.high
    assert held / studies >= 0.92


def test_a_corrected_change_holds_the_true_one():
    """Guards that block half of the true violations and few others, a judge who errs alike on all."""
    rng, held, studies, n = np.random.default_rng(2), 0, 400, 200
    for study in range(studies):
        true = rng.random(n) < 0.4
        blocked = rng.random(n) < np.where(true, 0.5, 0.1)
        said = np.where(true, rng.random(n) < 0.85, rng.random(n) < 0.1)
        hits, passes = rng.binomial(150, 0.85), rng.binomial(150, 0.9)
        card = JudgeErrors(hits, 150 - hits, passes, 150 - passes)
        before = Outcomes.of(said.astype(float).tolist())
        found = paired_difference(before, before.known(blocked, False), card, seed=study, draws=1000)
        held += found.low <= -0.4 * 0.5 <= found.high
    assert held / studies >= 0.92


def test_nothing_changed_is_not_certain():
    same = outcomes(3, 57)
    found = paired_difference(same, same)
    assert found.change == 0
    assert found.low < -0.03
    assert found.high > 0.03


@settings(max_examples=60)
@given(COUNTS, COUNTS, st.integers(1, 20), CARDS)
def test_rows_that_nobody_judged_count_against_us(events, others, unjudged, card):
    n = events + others + unjudged
    found = outcomes(events, others, unjudged)
    assert found.unjudged == unjudged
    assert found.rate == wilson(events + unjudged, n)
    assert found.rate.rate >= outcomes(events, others + unjudged).rate.rate
    # No card takes them away: they are known to count.
    assert corrected(found, card, draws=200).high >= unjudged / n


@settings(max_examples=60)
@given(COUNTS, COUNTS, COUNTS, CARDS)
def test_a_corrected_rate_is_a_rate(events, others, blocked, card):
    found = outcomes(events, others + blocked)
    known = np.arange(events + others + blocked) >= events + others
    for rate in (corrected(found, card, draws=200), corrected(found.known(known, False), card, draws=200)):
        if rate.n:
            assert 0 <= rate.low <= rate.rate <= rate.high <= 1


@settings(max_examples=60)
@given(st.integers(1, 80), st.integers(0, 80))
def test_a_judge_who_never_errs_corrects_nothing(events, others):
    """What is left is Jeffreys' interval of the share, with the end of the estimate where that is 0 or 1."""
    stats = pytest.importorskip("scipy.stats")
    found = corrected(outcomes(events, others), JudgeErrors(10**9, 0, 10**9, 0), draws=8000)
    assert found.rate == pytest.approx(outcomes(events, others).rate.rate)
    low, high = stats.beta.ppf([0.025, 0.975], events + 0.5, others + 0.5)
    assert found.low == pytest.approx(low, abs=0.03)
    assert found.high == pytest.approx(1.0 if others == 0 else high, abs=0.03)


@pytest.mark.parametrize("card", [JudgeErrors(5, 5, 5, 5), JudgeErrors(0, 0, 9, 1), JudgeErrors(1, 9, 1, 9)])
def test_a_judge_who_tells_nothing_leaves_everything_possible(card):
    found = corrected(outcomes(20, 20), card)
    assert (found.rate, found.low, found.high) == (0.5, 0, 1)
    change = paired_difference(outcomes(20, 20), outcomes(0, 40), card)
    assert (change.low, change.high) == (-1, 1)


def test_more_labels_make_it_narrower():
    few, many = JudgeErrors(18, 2, 19, 1), JudgeErrors(900, 100, 950, 50)
    widths = [rate.high - rate.low for rate in (corrected(outcomes(30, 70), card) for card in (few, many))]
    assert widths[0] > widths[1] > outcomes(30, 70).rate.high - outcomes(30, 70).rate.low


def test_the_seed_decides():
    card, rows = JudgeErrors(18, 2, 19, 1), outcomes(30, 70)
    assert corrected(rows, card, 1) == corrected(rows, card, 1) != corrected(rows, card, 2)
    assert paired_difference(rows, outcomes(10, 90), None, 1) == paired_difference(rows, outcomes(10, 90), None, 1)


def test_what_is_blocked_needs_no_judge():
    rows = outcomes(40, 60)
    every = np.ones(100, bool)
    card = JudgeErrors(18, 2, 19, 1)
    assert corrected(rows.known(every, False), card).rate == 0
    assert corrected(rows.known(every, True), card).rate == 1


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=40))
def test_kappa_is_agreement_beyond_chance(pairs):
    """By its definition, over all pairs of one rater's label and another's."""
    errors = JudgeErrors(
        hits=pairs.count((True, True)), misses=pairs.count((False, True)),
        passes=pairs.count((False, False)), alarms=pairs.count((True, False)),
    )  # fmt: skip
    observed = sum(a == b for a, b in pairs) / len(pairs)
    chance = sum(a == b for (a, _), (_, b) in itertools.product(pairs, pairs)) / len(pairs) ** 2
    expected = 1.0 if math.isclose(chance, 1) else (observed - chance) / (1 - chance)
    assert cohens_kappa(errors, draws=50).rate == pytest.approx(expected)


def test_kappa_of_a_textbook():
    found = cohens_kappa(JudgeErrors(hits=20, misses=10, passes=15, alarms=5))
    assert found.rate == pytest.approx(0.4)
    assert found.low < 0.4 < found.high


def test_rows_of_two_lengths_are_no_pairs():
    with pytest.raises(ValueError, match="3 rows before, 2 after"):
        paired_difference(outcomes(1, 2), outcomes(1, 1))
