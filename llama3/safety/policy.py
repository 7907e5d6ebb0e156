"""The guard policy: a tree per stage, read from the config and checked before anything starts.

    input:
      any:
        - prompt_injection                                  # short for {guard: prompt_injection}
        - {guard: {name: acme_words, words: [secret]}}        # a guard with options of its own, as all plugins have
        - {guard: acme_toxicity, thresholds: {hate: {flag: 0.5, block: 0.9}}, timeout_ms: 200}
    output: {k_of: {k: 2, of: [a, b, c]}}

A node's action is the k-th most severe among its children: `any` is k = 1, `all` is k = n. `first` asks one after
the other and stops at the first that does not allow; where that is because a guard failed, it goes on, and the severest
counts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, get_args

from pydantic import TypeAdapter, ValidationError

from llama3.config.slot_types import GuardSlot, Slot
from llama3.errors import ConfigError, Problem
from llama3.plugins.specs import GuardStage
from llama3.safety.guard import Action

UNKNOWN_STAGE = ConfigError.declare("L3-SAF-001", "unknown stage {stage!r}", fix="use one of {stages}")
NO_GUARD = ConfigError.declare(
    "L3-SAF-002",
    "the stage has no guard",
    fix="name a guard, or write {{unguarded: true}} to leave the stage open",
)
UNREADABLE = ConfigError.declare(
    "L3-SAF-003", "cannot read {tree!r}", fix="a leaf has `guard`; a node is one of any, all, k_of, first"
)
EMPTY_NODE = ConfigError.declare("L3-SAF-004", "no guards listed", fix="list at least one guard")
BAD_K = ConfigError.declare("L3-SAF-005", "k is {k!r}", fix="give a whole number from 1 to {guards}")
UNKNOWN_KEY = ConfigError.declare(
    "L3-SAF-006",
    "unknown key {key!r}",
    fix="use {known}; a guard's options stand beside its name: {{guard: {{name: NAME, option: value}}}}",
)
BAD_ON_ERROR = ConfigError.declare("L3-SAF-007", "on_error is {value!r}", fix="use block, review or allow")
FAILS_OPEN = ConfigError.declare(
    "L3-SAF-008",
    "on_error: allow makes the guard fail open",
    fix="add `advisory: true` if a failing guard may really let text through",
)
BAD_LEVELS = ConfigError.declare(
    "L3-SAF-009", "bad levels {levels!r}", fix="write {{flag: P, block: P}} with 0 <= P <= 1"
)
NAMES_NO_GUARD = ConfigError.declare("L3-SAF-010", "{value!r} names no guard", fix="write NAME or {{name: NAME, ...}}")

NO_POLICY = ConfigError.declare(
    "L3-SAF-011",
    "a policy is a mapping of stages to guards, this is {found}",
    fix="write {{STAGE: GUARD}}, a guard by its name",
)
BAD_TIMEOUT = ConfigError.declare(
    "L3-SAF-012", "timeout_ms is {value!r}", fix="give a number above 0 and at most {most}"
)
TOO_DEEP = ConfigError.declare("L3-SAF-013", "nodes stand in each other more than {most} deep", fix="write it flatter")

STAGES: tuple[str, ...] = get_args(GuardStage)
DEEPEST = 32
"""Nodes that may stand in each other."""
LONGEST_MS = 3_600_000
"""The longest that a guard may be waited for."""
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

    def tree(self, stage: str) -> Leaf | Node | None:
        """What judges at a stage. Tool results of which a policy says nothing are judged as what a user says."""
        return self.stages.get("input" if stage == "tool_result" and stage not in self.stages else stage)

    def leaves(self) -> Iterator[tuple[str, Leaf]]:
        """Every (stage, leaf) of the policy, in the order of the config."""
        for stage, tree in self.stages.items():
            yield from ((stage, leaf) for leaf in leaves_of(tree))


def leaves_of(tree: Leaf | Node | None) -> Iterator[Leaf]:
    """The leaves of a tree, in the order of the config."""
    if isinstance(tree, Leaf):
        yield tree
    elif tree is not None:
        for child in tree.children:
            yield from leaves_of(child)


def parse_policy(raw: Mapping[str, Any], where: str = "safety.policy") -> Policy:
    """Build the policy from plain data.

    Raises:
        ConfigError: with every problem found (unknown stage or key, empty tree, bad threshold ...).
    """
    if not isinstance(raw, Mapping):
        raise NO_POLICY(where, found=f"of the type {type(raw).__name__}")
    problems: list[Problem] = []
    stages: dict[str, Leaf | Node | None] = {}
    for stage, tree in raw.items():
        path = f"{where}.{stage}"
        if stage not in STAGES:
            problems.append(UNKNOWN_STAGE.problem(path, stage=stage, stages=list(STAGES)))
        elif isinstance(tree, Mapping) and set(tree) == {"unguarded"} and tree["unguarded"] is True:
            stages[stage] = None
        else:
            stages[stage] = _parse(tree, path, problems, DEEPEST)
    if problems:
        raise ConfigError.of(problems)
    return Policy(stages)


def _parse(tree: Any, path: str, problems: list[Problem], room: int) -> Leaf | Node | None:
    if isinstance(tree, str):
        return Leaf(tree)
    if not isinstance(tree, Mapping) or not tree:
        problems.append(NO_GUARD.problem(path))
        return None
    if not room:
        problems.append(TOO_DEEP.problem("safety.policy", most=DEEPEST))
        return None
    if "guard" in tree:
        return _parse_leaf(tree, path, problems)
    if len(tree) != 1 or next(iter(tree)) not in ("any", "all", "k_of", "first"):
        problems.append(UNREADABLE.problem(path, tree=sorted(map(str, tree))[:8]))
        return None
    ((kind, body),) = tree.items()
    return _parse_node(kind, body, f"{path}.{kind}", problems, room)


def _parse_node(kind: str, body: Any, path: str, problems: list[Problem], room: int) -> Node | None:
    k, items = (body.get("k"), body.get("of")) if kind == "k_of" and isinstance(body, Mapping) else (None, body)
    if not isinstance(items, list) or not items:
        problems.append(EMPTY_NODE.problem(path))
        return None
    children = tuple(_parse(item, f"{path}[{i}]", problems, room - 1) for i, item in enumerate(items))
    k = {"any": 1, "all": len(items), "first": 0, "k_of": k}[kind]
    if not isinstance(k, int) or isinstance(k, bool) or not (0 < k <= len(items) or kind == "first"):
        problems.append(BAD_K.problem(path, k=k, guards=len(items)))
        return None
    return Node(kind, k, tuple(child for child in children if child is not None))


def _parse_leaf(tree: Mapping[str, Any], path: str, problems: list[Problem]) -> Leaf:
    for key in sorted(map(str, tree.keys() - _LEAF_KEYS)):
        problems.append(UNKNOWN_KEY.problem(path, key=key, known=sorted(_LEAF_KEYS)))
    guard = _parse_guard(tree["guard"], f"{path}.guard", problems)
    on_error = tree.get("on_error", "block")
    if on_error not in ("block", "review", "allow"):
        problems.append(BAD_ON_ERROR.problem(path, value=on_error))
    if on_error == "allow" and tree.get("advisory") is not True:
        problems.append(FAILS_OPEN.problem(path))
    thresholds = tree.get("thresholds", {})
    if not isinstance(thresholds, Mapping):
        problems.append(BAD_LEVELS.problem(f"{path}.thresholds", levels=thresholds))
        thresholds = {}
    for category, levels in thresholds.items():
        good = isinstance(levels, Mapping) and levels and set(levels) <= {"flag", "block"}
        if not good or not all(_is_probability(v) for v in levels.values()):
            problems.append(BAD_LEVELS.problem(f"{path}.thresholds.{category}", levels=levels))
    return Leaf(
        guard=guard.name,
        options=guard.options,
        thresholds=thresholds,
        on_error=on_error,
        timeout_ms=_parse_timeout(tree.get("timeout_ms", 5000.0), path, problems),
    )


def _parse_timeout(value: Any, path: str, problems: list[Problem]) -> float:
    if _is_number(value) and 0 < value <= LONGEST_MS:
        return float(value)
    problems.append(BAD_TIMEOUT.problem(f"{path}.timeout_ms", value=value, most=LONGEST_MS))
    return 1.0


def _parse_guard(value: Any, path: str, problems: list[Problem]) -> Slot:
    try:
        return _GUARD.validate_python(value)
    except ValidationError:
        problems.append(NAMES_NO_GUARD.problem(path, value=value))
        return Slot(name="")


def _is_probability(value: Any) -> bool:
    return _is_number(value) and 0 <= value <= 1


def _is_number(value: Any) -> bool:
    """A finite number; True and False are none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and -math.inf < value < math.inf


def plain_policy(policy: Policy) -> dict[str, Any]:
    """The policy as a config writes it."""
    return {stage: {"unguarded": True} if tree is None else _plain(tree) for stage, tree in policy.stages.items()}


def _plain(tree: Leaf | Node) -> dict[str, Any]:
    if isinstance(tree, Node):
        children = [_plain(child) for child in tree.children]
        return {"k_of": {"k": tree.k, "of": children}} if tree.kind == "k_of" else {tree.kind: children}
    defaults = Leaf(tree.guard)
    written: dict[str, Any] = {"guard": {"name": tree.guard, **tree.options} if tree.options else tree.guard}
    if tree.thresholds:
        written["thresholds"] = {category: dict(levels) for category, levels in tree.thresholds.items()}
    if tree.on_error != defaults.on_error:
        written["on_error"] = tree.on_error
    if tree.on_error == "allow":
        written["advisory"] = True
    if tree.timeout_ms != defaults.timeout_ms:
        written["timeout_ms"] = tree.timeout_ms
    return written
