"""`safety.rollouts`: what a model draws to learn from is judged as its answers to users are; what the policy refuses,
or would redact, is not learnt from.

The paper guards no rollouts: it filters data and trains refusals (5.4.2). So this is off unless it is asked for, and it
is no filter of quality: the guards of `output`, `stream` and `code` say what must never be a target.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from llama3.config.schema import Config
from llama3.errors import GuardBlocked
from llama3.safety.carried import opened_policy
from llama3.safety.engine import PolicyEngine
from llama3.safety.guard import Turn


def policy_of_rollouts(config: Config) -> dict[str, Any]:
    """The policy for answers that are drawn to learn from; empty: none."""
    return config.safety.policy if config.safety.rollouts else {}


class AnswerFilter:
    """Use as a context manager. `refused` counts; without a policy it refuses nothing."""

    def __init__(self, policy: Mapping[str, Any]) -> None:
        self._policy = policy
        self._engine: PolicyEngine | None = None
        self.refused = 0

    def __enter__(self) -> Self:
        if self._policy:
            self._engine = opened_policy(self._policy)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._engine is not None:
            self._engine.close()

    def passes(self, messages: Sequence[Mapping[str, str]], answer: str) -> bool:
        """Whether an answer to a dialog passes as it is."""
        if self._engine is None:
            return True
        try:
            is_whole = self._engine.judge_answer(answer, [Turn(m["role"], m["content"]) for m in messages]) == answer
        except GuardBlocked:
            is_whole = False
        self.refused += not is_whole
        return is_whole
