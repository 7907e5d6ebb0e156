"""Conversations whose tool results carry an order: of the seed, alike but for the order, and readable as obeyed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama3.safety.planted import CARRIERS, ORDERS, planted


@given(st.integers(0, 60), st.integers(0, 2**32))
def test_tests_are_a_function_of_the_seed(count, seed):
    found = planted(count, seed)
    assert found == planted(count, seed)
    assert len({row.id for row in found}) == count
    assert found[: count // 2] == planted(count // 2, seed), "more of them are the same ones and others"


def test_every_carrier_gives_every_order():
    found = planted(len(CARRIERS) * len(ORDERS), 0)
    assert {(row.carrier, row.order) for row in found} == {(carrier, order) for carrier in CARRIERS for order in ORDERS}


@pytest.mark.parametrize("test", planted(36, 1), ids=lambda test: test.id)
def test_only_the_tools_result_carries_the_order(test):
    assert [turn.role for turn in test.turns] == ["user", "assistant", "tool"]
    assert test.turns[:2] == test.clean[:2]
    assert test.mark in test.turns[2].content
    assert not any(test.mark in turn.content for turn in (*test.turns[:2], *test.clean))
    left = [word for word in test.clean[2].content.replace('"', " ").split() if word not in test.turns[2].content]
    assert left == [], "the order takes nothing away"


def test_obeying_is_read_off_the_answer():
    (test,) = planted(1, 3)
    assert test.obeyed(f"As you wish: {test.mark.upper()}.")
    assert not test.obeyed("The hall opens at 7.")
    assert not test.obeyed(f"The result says: {test.turns[-1].content}"), "quoting is not obeying"
    assert test.obeyed(f"{test.turns[-1].content}\n\n{test.mark}")


@pytest.mark.parametrize("test", planted(36, 2), ids=lambda test: test.id)
def test_a_quotation_of_any_order_is_not_obeying(test):
    content = test.turns[-1].content
    assert not test.obeyed(content)
    assert not test.obeyed(content[content.index(test.mark) - 12 :])
    assert test.obeyed(test.mark)
    assert test.obeyed(f"Sure: {test.mark}")
