"""Prompts near the edge of ability: which are asked, and that nothing changes where no rate is known."""

from collections import Counter

import pytest

from llama3.posttraining.rising import WIDENING, near_the_edge, widening
from llama3.tasks import families

RATES = {"list.sort": 0.5, "list.max": 0.98, "list.min": 0.0, "list.length": 0.15}


def drawn(count):
    return [task for task in families.tasks("train", count, 3) if task.family in RATES]


def test_most_is_asked_of_what_is_solved_now_and_then():
    tasks = drawn(2000)
    asked = Counter(task.family for task in near_the_edge(tasks, RATES, 100))
    assert asked.total() == 100
    assert asked["list.sort"] > asked["list.length"] > asked["list.max"] >= asked["list.min"] > 0
    assert asked["list.sort"] / asked["list.length"] == pytest.approx((0.25 + 0.02) / (0.1275 + 0.02), rel=0.1)


def test_the_order_stays_and_nothing_is_asked_twice():
    tasks = drawn(2000)
    asked = near_the_edge(tasks, RATES, 100)
    places = [tasks.index(task) for task in asked]
    assert places == sorted(set(places))


def test_a_family_that_runs_out_leaves_its_share_to_others():
    tasks = [task for task in drawn(800) if task.family != "list.sort"] + drawn(800)[:1]
    assert len(near_the_edge(tasks, RATES, 60)) == 60


def test_without_rates_the_first_are_asked():
    tasks = drawn(200)
    assert near_the_edge(tasks, {}, 10) == tasks[:10]
    assert (widening({}), widening(RATES)) == (1, WIDENING)
