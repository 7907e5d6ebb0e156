"""The size that is cheapest over its life."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from planted import CHINCHILLA

from llama3.errors import ConfigError
from llama3.scaling.lifetime import cheapest, compare, compute_optimal, lifetime, lifetime_of
from llama3.scaling.loss_law import LossLaw

BUDGETS = st.floats(19, 25).map(lambda power: 10.0**power)
SERVED = st.floats(6, 15).map(lambda power: 10.0**power)


@given(BUDGETS)
def test_with_nothing_to_serve_it_is_the_compute_optimal_model(budget):
    parameters, tokens = CHINCHILLA.optimum(budget)
    best = cheapest(CHINCHILLA, loss=CHINCHILLA(parameters, tokens), serve_tokens=0)
    assert best.parameters == pytest.approx(parameters, rel=1e-3)
    assert best.cost == pytest.approx(budget, rel=1e-9)


@given(BUDGETS, SERVED)
def test_it_is_the_lowest_of_all_sizes(budget, served):
    loss = CHINCHILLA(*CHINCHILLA.optimum(budget))
    best = cheapest(CHINCHILLA, loss=loss, serve_tokens=served)
    assert CHINCHILLA(best.parameters, best.tokens) == pytest.approx(loss, rel=1e-6)
    for ratio in (0.5, 0.8, 0.95, 1.05, 1.3, 3):
        assert lifetime(CHINCHILLA, best.parameters * ratio, loss=loss, serve_tokens=served).cost >= best.cost


@given(BUDGETS, SERVED, st.floats(1.5, 100))
def test_the_more_is_served_the_smaller_and_the_longer_trained(budget, served, more):
    loss = CHINCHILLA(*CHINCHILLA.optimum(budget))
    few, many = (cheapest(CHINCHILLA, loss=loss, serve_tokens=s) for s in (served, served * more))
    assert many.parameters <= few.parameters * (1 + 1e-6)
    assert many.tokens >= few.tokens * (1 - 1e-6)
    assert many.parameters <= compute_optimal(CHINCHILLA, loss)[0] * (1 + 1e-6)
    dear = cheapest(CHINCHILLA, loss=loss, serve_tokens=served, serve_price=more)
    assert dear.parameters == pytest.approx(many.parameters, rel=1e-4), "twice the price is twice the tokens"


@given(BUDGETS)
def test_compute_optimal_of_a_loss_and_of_a_budget_are_one(budget):
    best = CHINCHILLA.optimum(budget)
    assert compute_optimal(CHINCHILLA, CHINCHILLA(*best)) == pytest.approx(best, rel=1e-6)


def test_the_overtraining_argument_as_a_number():
    """At the published coefficients of Hoffmann et al.: a trillion served tokens, the loss of 1e22 FLOPs."""
    found = compare(CHINCHILLA, 1e22, 1e12)
    assert found["saved"] == pytest.approx(0.157, abs=0.001)
    assert found["cheapest"]["parameters"] < 0.6 * found["compute_optimal"]["parameters"]
    assert found["cheapest"]["tokens_per_parameter"] > 3 * found["compute_optimal"]["tokens_per_parameter"]
    assert found["compute_optimal"]["serving_flops"] == pytest.approx(2 * found["compute_optimal"]["parameters"] * 1e12)


@pytest.mark.parametrize("loss", [1.69, 1.0, -1.0])
def test_a_loss_that_no_model_reaches_is_refused(loss):
    with pytest.raises(ConfigError, match="L3-SCL-010"):
        cheapest(CHINCHILLA, loss=loss, serve_tokens=1e9)


@pytest.mark.parametrize("amount", [-1.0, math.nan, math.inf])
def test_odd_amounts_are_refused(amount):
    for name in ("serve_tokens", "serve_price"):
        with pytest.raises(ConfigError, match="L3-SCL-011"):
            cheapest(CHINCHILLA, **{"loss": 2.0, "serve_tokens": 1e9, name: amount})


@pytest.mark.parametrize("budget", [0.0, -1.0, math.nan, math.inf])
def test_a_budget_that_is_none_is_refused(budget):
    with pytest.raises(ConfigError, match="L3-SCL-011"):
        compare(CHINCHILLA, budget, 1e9)


def fits_of(law: LossLaw, words: str = "", most: float = 1e9) -> dict:
    """What `lifetime_of` reads of a study."""
    spans = {"parameters": [1e6, most], "tokens": [1e6, 1e12], "tokens_per_parameter": [1, 100]}
    return {"loss_law": {**law.to_json(), "words": words}, "forecast": {"flops": 1e22}, "measured": spans}


def test_by_a_study_it_says_what_goes_beyond_what_was_measured():
    found = lifetime_of(fits_of(CHINCHILLA), 1e12)
    assert {name: found[name] for name in ("budget", "saved")} == {
        name: compare(CHINCHILLA, 1e22, 1e12)[name] for name in ("budget", "saved")
    }
    assert [line.split(",")[0].split(" ", 2)[2] for line in found["words"]] == ["parameters", "tokens per parameter"]
    assert lifetime_of(fits_of(CHINCHILLA, most=1e12), 0)["words"] == []


@pytest.mark.parametrize("fits", [{"loss_law": None}, fits_of(CHINCHILLA, words="useless: ...")])
def test_without_a_law_there_is_no_answer(fits):
    with pytest.raises(ConfigError, match="L3-SCL-013"):
        lifetime_of(fits, 1e12)


def test_too_small_a_model_never_gets_there():
    assert lifetime(CHINCHILLA, 1e6, loss=2.0, serve_tokens=0).cost == math.inf
