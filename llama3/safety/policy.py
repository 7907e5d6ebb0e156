"""The guard policy: a tree per stage, read from the config and checked before anything starts.

    input:
      any:
        - prompt_injection                                  # short for {guard: prompt_injection}
        - {guard: {name: acme_words, words: [secret]}}        # a guard with options of its own, as all plugins have
        - {guard: acme_toxicity, thresholds: {hate: {flag: 0.5, block: 0.9}}, timeout_ms: 200}
    output: {k_of: {k: 2, of: [a, b, c]}}

A node's action is the k-th most severe among its children: `any` is k = 1, `all` is k = n. `first` asks one after
the other and stops at the first that does not allow.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, get_args

from pydantic import TypeAdapter, ValidationError

from llama3.config.schema import GuardSlot, Slot
from llama3.errors import ConfigError, Problem
from llama3.plugins.specs import GuardStage
from llama3.safety.guard import Action

STAGES: tuple[str, ...] = get_args(GuardStage)
_LEAF_KEYS = {"guard", "thresholds", "on_error", "advisory", "timeout_ms"}
_GUARD: TypeAdapter[Slot] = TypeAdapter(GuardSlot)


@dataclass(frozen=True, slots=True)
class Leaf:
    """One guard. A category's score at or above `block` (or `flag`) gives that action; without thresholds the
    guard's own action counts. `on_error` is the action when the guard fails."""

    guard: str
    options: Mapping[str, Any] = field(default_factory=dict)
    thresholds: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    on_error: Action = "block"
    timeout_ms: float = 5000.0


@dataclass(frozen=True, slots=True)
class Node:
    """`k` children must agree; `k` is 0 for `first`."""

    kind: str
    k: int
    children: tuple[Leaf | Node, ...]


@dataclass(frozen=True, slots=True)
class Policy:
    """The tree of each declared stage; a stage declared `unguarded: true` has none."""

    stages: Mapping[str, Leaf | Node | None]

    def leaves(self) -> Iterator[tuple[str, Leaf]]:
        """Every (stage, leaf) of the policy, in the order of the config."""
        for stage, tree in self.stages.items():
            yield from ((stage, leaf) for leaf in _leaves(tree))


def _leaves(tree: Leaf | Node | None) -> Iterator[Leaf]:
    if isinstance(tree, Leaf):
        yield tree
    elif tree is not None:
        for child in tree.children:
            yield from _leaves(child)


def parse_policy(raw: Mapping[str, Any], where: str = "safety.policy") -> Policy:
    """Build the policy from plain data.

    Raises:
        ConfigError: with every problem found (unknown stage or key, empty tree, bad threshold ...).
    """
    problems: list[Problem] = []
    stages: dict[str, Leaf | Node | None] = {}
    for stage, tree in raw.items():
        path = f"{where}.{stage}"
        if stage not in STAGES:
            problems.append(_problem("L3-SAF-001", path, f"unknown stage {stage!r}", f"use one of {', '.join(STAGES)}"))
        elif tree == {"unguarded": True}:
            stages[stage] = None
        else:
            stages[stage] = _parse(tree, path, problems)
    if problems:
        raise ConfigError(problems)
    return Policy(stages)


def _parse(tree: Any, path: str, problems: list[Problem]) -> Leaf | Node | None:
    if isinstance(tree, str):
        return Leaf(tree)
    if not isinstance(tree, Mapping) or not tree:
        fix = "name a guard, or write {unguarded: true} to leave the stage open"
        problems.append(_problem("L3-SAF-002", path, "the stage has no guard", fix))
        return None
    if "guard" in tree:
        return _parse_leaf(tree, path, problems)
    if len(tree) != 1 or next(iter(tree)) not in ("any", "all", "k_of", "first"):
        fix = "a leaf has `guard`; a node is one of any, all, k_of, first"
        problems.append(_problem("L3-SAF-003", path, f"cannot read {dict(tree)!r}", fix))
        return None
    ((kind, body),) = tree.items()
    return _parse_node(kind, body, f"{path}.{kind}", problems)


def _parse_node(kind: str, body: Any, path: str, problems: list[Problem]) -> Node | None:
    k, items = (body.get("k"), body.get("of")) if kind == "k_of" and isinstance(body, Mapping) else (None, body)
    if not isinstance(items, list) or not items:
        problems.append(_problem("L3-SAF-004", path, "no guards listed", "list at least one guard"))
        return None
    children = tuple(_parse(item, f"{path}[{i}]", problems) for i, item in enumerate(items))
    k = {"any": 1, "all": len(items), "first": 0, "k_of": k}[kind]
    if not isinstance(k, int) or not (0 < k <= len(items) or kind == "first"):
        problems.append(_problem("L3-SAF-005", path, f"k is {k!r}", f"give a whole number from 1 to {len(items)}"))
        return None
    return Node(kind, k, tuple(child for child in children if child is not None))


def _parse_leaf(tree: Mapping[str, Any], path: str, problems: list[Problem]) -> Leaf:
    for key in tree.keys() - _LEAF_KEYS:
        fix = f"use {', '.join(sorted(_LEAF_KEYS))}"
        if key == "options":
            fix = "write them beside the guard's name: {guard: {name: NAME, option: value}}"
        problems.append(_problem("L3-SAF-006", path, f"unknown key {key!r}", fix))
    guard = _parse_guard(tree["guard"], f"{path}.guard", problems)
    on_error = tree.get("on_error", "block")
    if on_error not in ("block", "review", "allow"):
        problems.append(_problem("L3-SAF-007", path, f"on_error is {on_error!r}", "use block, review or allow"))
    if on_error == "allow" and tree.get("advisory") is not True:
        fix = "add `advisory: true` if a failing guard may really let text through"
        problems.append(_problem("L3-SAF-008", path, "on_error: allow makes the guard fail open", fix))
    thresholds = tree.get("thresholds", {})
    for category, levels in thresholds.items():
        good = isinstance(levels, Mapping) and levels and set(levels) <= {"flag", "block"}
        if not good or not all(_is_probability(v) for v in levels.values()):
            fix = "write {flag: P, block: P} with 0 <= P <= 1"
            problems.append(_problem("L3-SAF-009", f"{path}.thresholds.{category}", f"bad levels {levels!r}", fix))
    return Leaf(
        guard=guard.name,
        options=guard.options,
        thresholds=thresholds,
        on_error=on_error,
        timeout_ms=float(tree.get("timeout_ms", 5000.0)),
    )


def _parse_guard(value: Any, path: str, problems: list[Problem]) -> Slot:
    try:
        return _GUARD.validate_python(value)
    except ValidationError:
        problems.append(_problem("L3-SAF-010", path, f"{value!r} names no guard", "write NAME or {name: NAME, ...}"))
        return Slot(name="")


def _is_probability(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value) and 0 <= value <= 1


def _problem(code: str, where: str, what: str, fix: str) -> Problem:
    return Problem(code=code, where=where, what=what, fix=fix)
