"""How often the audit is wrong: what passes that lost its margin, through `compare` itself; and families of a suite."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest

from llama3.evaluation import intervals
from llama3.evaluation.audit import AuditOptions, Suite, compare
from llama3.evaluation.audit_errors import passes_by_chance
from llama3.evaluation.intervals import enough_trials, paired_trials, studentised

PROMISED, USEFUL = 0.03, 0.01


def options(**changes):
    base = {"margin": 0.1, "relative_margin": 0.05, "margins": {}, "must_improve": [], "seed": 0}
    return AuditOptions(suites=["s"], **{**base, **changes})


def suite(scores, better="higher", weights=None, families=None):
    rows = {str(i): {"prompt": str(i), "score": float(score)} for i, score in enumerate(scores)}
    for row, weight in zip(rows.values(), () if weights is None else weights, strict=False):
        row["weight"] = float(weight)
    for row, family in zip(rows.values(), families or (), strict=False):
        row["family"] = family
    return Suite(better, rows)


def passes(lost, n, margin):
    after = suite([0] * lost + [1] * (n - lost))
    return compare("s", suite([1] * n), after, options(margin=margin))["passed"]


@pytest.mark.parametrize("margin", [0.05, 0.1, 0.25])
@pytest.mark.parametrize("n", [30, 36, 59, 80, 101, 240, 357, 1000])
def test_a_loss_of_the_margin_seldom_passes(n, margin):
    low, high = -1, math.ceil(n * margin)  # the most lost items that pass lie between
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if passes(middle, n, margin) else (low, middle)
    chance = sum(math.comb(n, k) * margin**k * (1 - margin) ** (n - k) for k in range(low + 1))
    assert chance <= PROMISED
    assert n < 240 or chance >= USEFUL


@pytest.mark.parametrize("noise", [0.01, 0.1, 0.3])
@pytest.mark.parametrize("n", [36, 100, 240])
def test_nor_does_it_where_items_come_and_go_by_chance(n, noise):
    chance = passes_by_chance(n, 0.1, noise)
    assert chance <= PROMISED
    assert n < 240 or chance >= USEFUL


def test_chances_are_those_of_drawn_suites():
    rng, n, margin, noise = np.random.default_rng(0), 60, 0.2, 0.1
    drawn = rng.multinomial(n, [margin + noise, noise, 1 - margin - 2 * noise], size=20_000)
    found = np.mean([paired_trials(int(lost), int(gained), n)[0] > -margin for lost, gained, _ in drawn])
    assert passes_by_chance(n, margin, noise) == pytest.approx(found, abs=0.004)


@pytest.mark.parametrize(("lost", "gained", "n"), [(0, 0, 36), (1, 0, 36), (7, 4, 60), (0, 12, 40), (20, 20, 40)])
def test_the_paired_interval_is_that_of_dirichlet_draws(lost, gained, n):
    draws = np.random.default_rng(0).standard_gamma([lost + 1, gained, n - lost - gained], size=(200_000, 3))
    losses = (draws[:, 0] - draws[:, 1]) / draws.sum(1)
    low, high = paired_trials(lost, gained, n)
    assert low == pytest.approx(-np.quantile(losses, 0.975), abs=0.003)
    assert (low, high) == tuple(-end for end in reversed(paired_trials(gained, lost, n)))


def test_nothing_gained_is_clopper_and_pearson():
    low, _ = paired_trials(1, 0, 36)
    assert 36 * -low * (1 + low) ** 35 + (1 + low) ** 36 == pytest.approx(0.025, rel=1e-6)
    assert paired_trials(0, 0, 200) == (pytest.approx(0.025 ** (1 / 200) - 1), pytest.approx(1 - 0.025 ** (1 / 200)))


@pytest.mark.parametrize("kind", ["normal", "skewed"])
@pytest.mark.parametrize("n", [10, 20, 30, 60, 240])
def test_a_cost_that_rose_by_its_margin_seldom_passes(monkeypatch, n, kind):
    """600 audits each; three standard errors of such a count are allowed."""
    monkeypatch.setattr(intervals, "RESAMPLES", 1000)
    rng, trials, passed = np.random.default_rng(n), 600, 0
    for seed in range(trials):
        old = rng.lognormal(7, 0.7, n) * rng.normal(1, 0.1, n).clip(0.5)
        more = rng.normal(0.05, 0.06, n) if kind == "normal" else rng.exponential(0.05, n)
        passed += studentised(-more * old, old, seed)[0] > -0.05
    error = math.sqrt(PROMISED * (1 - PROMISED) / trials)
    assert passed / trials <= PROMISED + 3 * error
    assert n < 240 or passed / trials >= USEFUL - 3 * math.sqrt(USEFUL / trials)


def test_a_studentised_interval_of_many_items_is_the_normal_one():
    values = np.random.default_rng(3).normal(0.2, 1, 2000)
    low, high = studentised(values, np.ones(2000))
    half = NormalDist().inv_cdf(1 - intervals.BOOTSTRAP_TAIL) * values.std() / math.sqrt(2000)
    assert (low, high) == (
        pytest.approx(values.mean() - half, abs=0.05 * half),
        pytest.approx(values.mean() + half, abs=0.05 * half),
    )


def test_above_means_above():
    # All documents cost exactly the margin more: no spread, and the interval's end is the margin itself.
    found = compare("s", suite([64.0] * 40, "lower"), suite([80.0] * 40, "lower"), options(relative_margin=0.25))
    assert found["paired_low"] == -0.25
    assert not found["passed"]


def test_a_share_that_few_tasks_changed_is_judged_by_their_number():
    """pass@k has scores between 0 and 1; where two of 120 tasks move, resamples often hold neither."""
    before, after = [0.5] * 120, [0.4, 0.4, *[0.5] * 118]
    found = compare("s", suite(before), suite(after), options())
    assert found["passed"]
    assert found["paired_low"] == pytest.approx(paired_trials(2, 0, 120)[0])
    worse = [0.0] * 20 + [0.5] * 100
    assert not compare("s", suite(before), suite(worse), options())["passed"]


def test_a_family_that_was_lost_is_not_hidden_by_gains():
    before, after = [1] * 30 + [0] * 210, [0] * 30 + [1] * 75 + [0] * 135
    families = [f"f{i // 30}" for i in range(240)]
    found = compare("s", suite(before, families=families), suite(after, families=families), options(must_improve=["s"]))
    assert found["paired_low"] > 0
    assert not found["passed"]
    assert "the family f0 lost 100.0 pt" in found["why"]
    assert found["families"].keys() == set(families)
    assert found["families"]["f0"]["change"] == -1


def test_families_may_waver():
    rng = np.random.default_rng(0)
    families = [f"f{i // 30}" for i in range(240)]
    failed = 0
    for _ in range(200):
        before, after = (rng.random(240) < 0.5).astype(float), None
        flipped = rng.random(240) < 0.1
        after = np.where(flipped, 1 - before, before)
        row = compare("s", suite(before, families=families), suite(after, families=families), options(margin=0.4))
        failed += not row["passed"]
    assert failed == 0


def test_a_family_of_documents_counts_too():
    families = ["code"] * 20 + ["prose"] * 100
    before = [1000.0] * 120
    after = [*np.linspace(1180, 1220, 20), *np.linspace(960, 980, 100)]
    found = compare("s", suite(before, "lower", families=families), suite(after, "lower", families=families), options())
    assert found["paired_low"] > -0.05
    assert "the family code lost 20.0 %" in found["why"]
    assert enough_trials(0.1) == 36
