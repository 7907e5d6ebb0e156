"""One guard alone, by its slot: what it says of texts, without a policy around it."""

from __future__ import annotations

from collections.abc import Sequence

from llama3.config.crosscheck import misplaced
from llama3.config.slot_types import GuardSlot
from llama3.errors import ConfigError
from llama3.plugins.registry import discover
from llama3.plugins.specs import GuardStage
from llama3.safety.engine import PolicyEngine, guard_input
from llama3.safety.guard import Turn, Verdict
from llama3.safety.policy import Leaf, Policy


def one_guard(slot: GuardSlot, stage: GuardStage = "output") -> PolicyEngine:
    """An engine in which the guard stands alone at a stage; a context manager. Raises ConfigError where it does not
    stand there."""
    registry = discover()
    if problems := list(misplaced(slot.name, stage, registry, "guard")):
        raise ConfigError.of(problems)
    policy = Policy({stage: Leaf(slot.name, slot.options)})
    return PolicyEngine(policy, lambda name, options: registry.build("guards", name, options))


def guard_verdicts(slot: GuardSlot, texts: Sequence[str], questions: Sequence[str]) -> list[Verdict]:
    """What a guard says of each answer, with what was asked before it. A guard that fails says so (`status`). Raises as
    opening it does."""
    with one_guard(slot) as engine:
        asked = zip(texts, questions, strict=True)
        inputs = [guard_input("output", text, [Turn("user", question)]) for text, question in asked]
        return [decision.verdicts[0] for decision in engine.judge_all(inputs)]
