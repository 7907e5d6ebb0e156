"""The queue that engine and guards share out by: nothing is lost, and nobody waits behind all that another asked."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama3.fair_queue import FairQueue

PUSHES = st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 5)), max_size=20)


@given(PUSHES, st.lists(st.integers(1, 9), min_size=1))
def test_all_that_waits_comes_once_and_in_order(pushes, costs):
    queue, sent = FairQueue(), []
    for tenant, count in pushes:
        items = [(tenant, len(sent) + n) for n in range(count)]
        queue.push(tenant, items)
        sent += items
    found = []
    while queue:
        found.append(queue.pop())
        queue.charge(found[-1][0], costs[len(found) % len(costs)])
    assert sorted(found) == sorted(sent)
    for tenant in "abc":
        assert [item for item in found if item[0] == tenant] == [item for item in sent if item[0] == tenant]


@given(st.integers(2, 50), st.integers(1, 20))
def test_tenants_that_wait_get_the_same_whatever_one_of_them_asked(flood, cost):
    queue = FairQueue()
    queue.push("greedy", ["greedy"] * flood)
    for _ in range(flood // 2):
        queue.charge(queue.pop(), cost)
    queue.push("modest", ["modest"] * (flood // 2))
    given_ = Counter()
    while len(queue) and queue.waiting("modest"):
        tenant = queue.pop()
        queue.charge(tenant, cost)
        given_[tenant] += 1
    assert abs(given_["greedy"] - given_["modest"]) <= 1


def test_what_was_not_used_is_not_saved_up():
    queue = FairQueue()
    for _ in range(100):
        queue.push("busy", ["busy"])
        queue.charge(queue.pop(), 1)
    queue.push("busy", ["busy"] * 10)
    queue.push("back", ["back"] * 10)
    first = []
    for _ in range(10):
        first.append(queue.pop())
        queue.charge(first[-1], 1)
    assert Counter(first) == {"busy": 5, "back": 5}


def test_what_is_removed_does_not_come():
    queue = FairQueue()
    queue.push("a", [1, 2])
    assert queue.remove("a", 1)
    assert not queue.remove("a", 1)
    assert not queue.remove("b", 2)
    assert (len(queue), queue.waiting("a"), queue.pop()) == (1, 1, 2)
    with pytest.raises(IndexError):
        queue.pop()
