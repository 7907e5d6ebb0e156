"""What a policy would have done with texts whose guards' verdicts are stored: other thresholds, or fewer guards,
without asking a guard or a model again.

A stored verdict is what a guard said by itself, before thresholds. A leaf that is switched off is taken out of its
node: of `all` the others must agree, `k_of` never needs more than are left, and a stage without guards allows. Actions
stand as their ranks in `ACTIONS`. Legend: T texts of one stage.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from llama3.safety.guard import Verdict, severity
from llama3.safety.policy import Leaf, Node, Policy

REVIEW = severity("review")
"""From this rank on a text does not pass."""


@dataclass(frozen=True, slots=True)
class StoredVerdict:
    """What a guard said of one text: its own action and scores, or why there is none (`status`)."""

    action: str
    status: str = "ok"
    p: float | None = None
    categories: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, verdict: Verdict) -> StoredVerdict:
        """From a verdict of a leaf without thresholds (`bare`)."""
        return cls(verdict.action, verdict.status, verdict.p, dict(verdict.categories))


def bare(leaf: Leaf) -> Leaf:
    """The leaf without thresholds: its guard's own action counts."""
    return replace(leaf, thresholds={})


def has_failed(leaf: Leaf, said: StoredVerdict) -> bool:
    """Whether the engine would have found no sound answer in it: a score that the leaf needs may be missing."""
    return said.status != "ok" or bool(leaf.thresholds.keys() - said.categories.keys())


def rank(leaf: Leaf, said: StoredVerdict) -> int:
    """The rank of the leaf's action, as the engine would have found it."""
    if has_failed(leaf, said):
        return severity(leaf.on_error)
    if not leaf.thresholds:
        return severity(said.action)  # type: ignore[arg-type]
    reached = [
        severity(action)  # type: ignore[arg-type]
        for category, levels in leaf.thresholds.items()
        for action, level in levels.items()
        if said.categories[category] >= level
    ]
    return max(reached, default=0)


def composed(
    tree: Leaf | Node | None, ranks: Mapping[int, np.ndarray], failed: Mapping[int, np.ndarray]
) -> np.ndarray | None:
    """The rank of a stage's action on each text [T], from those of its leaves by `id`; None where all are off. `failed`
    [T]: whether the guard of a leaf, by `id`, gave no sound answer."""
    found = None if tree is None else _composed(tree, ranks, failed)
    return None if found is None else found[0]


def _composed(
    tree: Leaf | Node, ranks: Mapping[int, np.ndarray], failed: Mapping[int, np.ndarray]
) -> tuple[np.ndarray, np.ndarray] | None:
    """The ranks [T], and whether one that was asked has failed [T]."""
    if isinstance(tree, Leaf):
        return (ranks[id(tree)], failed[id(tree)]) if id(tree) in ranks else None
    children = [found for child in tree.children if (found := _composed(child, ranks, failed)) is not None]
    if not children:
        return None
    if tree.kind == "first":
        return _first(children)
    ranks_CT, failed_CT = np.stack([child[0] for child in children]), np.stack([child[1] for child in children])
    k = len(children) if tree.kind == "all" else min(tree.k, len(children))
    kth_T: np.ndarray = np.sort(ranks_CT, 0)[::-1][k - 1]
    return kth_T, np.any(failed_CT, axis=0, keepdims=False)


def _first(children: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """As the engine asks: on with it after an `allow`, and after what objects because a guard failed."""
    worst_T, failed_T = np.zeros_like(children[0][0]), np.zeros_like(children[0][1])
    goes_on_T = np.ones_like(failed_T)
    for ranks_T, fails_T in children:
        worst_T = np.where(goes_on_T, np.maximum(worst_T, ranks_T), worst_T)
        failed_T = failed_T | (goes_on_T & fails_T)
        goes_on_T = goes_on_T & ((ranks_T == 0) | (fails_T & (ranks_T < severity("block"))))
    return worst_T, failed_T


def without(policy: Policy, off: Iterable[int]) -> Policy:
    """The policy without some leaves, by their numbers in `policy.leaves()`."""
    gone = set(off)
    removed = {id(leaf) for number, (_, leaf) in enumerate(policy.leaves()) if number in gone}
    return Policy({stage: _kept(tree, removed) for stage, tree in policy.stages.items()})


def _kept(tree: Leaf | Node | None, removed: set[int]) -> Leaf | Node | None:
    if tree is None or (isinstance(tree, Leaf) and id(tree) in removed):
        return None
    if isinstance(tree, Leaf):
        return tree
    children = tuple(kept for child in tree.children if (kept := _kept(child, removed)) is not None)
    if not children:
        return None
    k = len(children) if tree.kind == "all" else min(tree.k, len(children))
    return replace(tree, children=children, k=k)


def with_block(policy: Policy, levels: Mapping[int, Mapping[str, float]]) -> Policy:
    """The policy whose leaves, by their numbers, block at these scores of their categories and do nothing else."""
    changed = {
        id(leaf): {category: {"block": level} for category, level in levels[number].items()}
        for number, (_, leaf) in enumerate(policy.leaves())
        if number in levels
    }
    return Policy({stage: _changed(tree, changed) for stage, tree in policy.stages.items()})


def _changed(tree: Leaf | Node | None, changed: Mapping[int, Mapping[str, Any]]) -> Leaf | Node | None:
    if tree is None:
        return None
    if isinstance(tree, Leaf):
        return replace(tree, thresholds=changed[id(tree)]) if id(tree) in changed else tree
    children = [_changed(child, changed) for child in tree.children]
    return replace(tree, children=tuple(child for child in children if child is not None))


def scores(said: Sequence[StoredVerdict]) -> np.ndarray:
    """The largest score of a guard's categories on each text [T]; NaN where it has none or failed."""
    return np.array(
        [max(x.categories.values(), default=np.nan) if x.status == "ok" else np.nan for x in said], np.float64
    )
