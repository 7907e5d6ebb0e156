"""What is replayed from stored verdicts is what the engine decides, for any policy."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama3.safety.engine import PolicyEngine
from llama3.safety.guard import ACTIONS, Verdict, severity
from llama3.safety.policy import Leaf, Node, Policy, parse_policy, plain_policy
from llama3.safety.replay import StoredVerdict, bare, composed, has_failed, rank, with_block, without

SCORES = st.integers(0, 4).map(lambda k: k / 4)
SAID = st.builds(
    StoredVerdict,
    action=st.sampled_from(["allow", "flag", "review", "block"]),
    status=st.sampled_from(["ok", "ok", "ok", "error"]),
    categories=st.fixed_dictionaries({"a": SCORES}, optional={"b": SCORES}),
)
LEVELS = st.fixed_dictionaries({}, optional={"flag": SCORES, "block": SCORES}).filter(bool)
LEAVES = st.builds(
    Leaf,
    guard=st.just("g"),
    options=st.integers(0, 10**6).map(lambda k: {"k": k}),
    thresholds=st.dictionaries(st.sampled_from("ab"), LEVELS, max_size=2),
    on_error=st.sampled_from(["block", "review", "allow"]),
    timeout_ms=st.sampled_from([5000.0, 60_000.0]),
)


def nodes(children):
    def node(kind, items, k):
        return Node(kind, {"any": 1, "all": len(items), "first": 0, "k_of": 1 + k % len(items)}[kind], tuple(items))

    kinds = st.sampled_from(["any", "all", "first", "k_of"])
    return st.builds(node, kinds, st.lists(children, min_size=1, max_size=3), st.integers(0, 9))


TREES = st.recursive(LEAVES, nodes, max_leaves=4)


class Says:
    """A guard that says what it is given, or fails."""

    def __init__(self, said):
        self.said = said

    def open(self): ...

    def close(self): ...

    def check(self, x):
        if self.said.status != "ok":
            raise ValueError("planted")
        return Verdict(action=self.said.action, categories=dict(self.said.categories))


def decided(policy, said):
    """What the engine makes of what its guards say, in the order of the leaves."""
    built = iter(said)
    with PolicyEngine(policy, lambda name, options: Says(next(built))) as engine:
        return engine.decide("input", "text").action


def replayed(policy, said, off=()):
    leaves = [leaf for _, leaf in policy.leaves()]
    ranks = {id(leaf): np.array([rank(leaf, said[n])]) for n, leaf in enumerate(leaves) if n not in off}
    failed = {id(leaf): np.array([has_failed(leaf, said[n])]) for n, leaf in enumerate(leaves)}
    found = composed(policy.stages["input"], ranks, failed)
    return "allow" if found is None else ACTIONS[int(found[0])]


@settings(max_examples=60)
@given(TREES, st.data())
def test_a_replay_is_what_the_engine_decides(tree, data):
    policy = Policy({"input": tree})
    count = len(list(policy.leaves()))
    said = data.draw(st.lists(SAID, min_size=count, max_size=count))
    assert replayed(policy, said) == decided(policy, said)


@settings(max_examples=60)
@given(TREES, st.data())
def test_a_guard_that_is_off_is_not_there(tree, data):
    policy = Policy({"input": tree})
    count = len(list(policy.leaves()))
    said = data.draw(st.lists(SAID, min_size=count, max_size=count))
    off = data.draw(st.sets(st.integers(0, count - 1)))
    left = [one for n, one in enumerate(said) if n not in off]
    assert replayed(policy, said, off) == decided(without(policy, off), left)


@given(TREES)
def test_a_policy_is_written_as_a_config_has_it(tree):
    policy = Policy({"input": tree, "output": None})
    assert parse_policy(plain_policy(policy)) == policy


def test_levels_take_the_place_of_thresholds():
    first, second = Leaf("g", {"k": 1}), Leaf("g", {"k": 2}, {"b": {"flag": 0.1}})
    policy = Policy({"input": Node("any", 1, (first, second)), "output": None})
    changed = with_block(policy, {1: {"a": 0.7}})
    assert [leaf for _, leaf in changed.leaves()] == [first, replace(second, thresholds={"a": {"block": 0.7}})]
    assert bare(second).thresholds == {}
    said = StoredVerdict("allow", categories={"a": 0.7})
    assert rank(with_block(policy, {0: {"a": 0.7}}).stages["input"].children[0], said) == severity("block")
    assert rank(with_block(policy, {0: {"a": 0.71}}).stages["input"].children[0], said) == severity("allow")


@pytest.mark.parametrize("kind", ["any", "all", "k_of"])
def test_many_texts_are_composed_at_once(kind):
    rows = np.array(list(itertools.product(range(5), repeat=3))).T
    leaves = tuple(Leaf("g", {"k": n}) for n in range(3))
    k = {"any": 1, "all": 3, "k_of": 2}[kind]
    ranks = {id(leaf): row for leaf, row in zip(leaves, rows, strict=True)}
    sound = {id(leaf): np.zeros(rows.shape[1], np.bool_) for leaf in leaves}
    found = composed(Node(kind, k, leaves), ranks, sound)
    assert found.tolist() == [sorted(column, reverse=True)[k - 1] for column in rows.T.tolist()]
