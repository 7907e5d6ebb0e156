"""Conversations before a guard: every message that somebody else wrote is judged, once.

A conversation is asked about again with each answer, grown by two messages. A message with all those before it stands
for what was decided of it, so that it is judged again only where something before it was changed.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence

from llama3.plugins.specs import GuardStage
from llama3.safety.decision import Decision
from llama3.safety.engine import PolicyEngine, run_here
from llama3.safety.guard import Turn

STAGES: dict[str, GuardStage] = {"tool": "tool_result", "ipython": "tool_result"}
"""The stage at which a message of this role enters; those of other roles but the model's own enter at `input`."""
OWN = "assistant"
"""What the model wrote was judged when it was written."""
REMEMBERED = 4096
"""Decisions that are kept."""


class DialogGuard:
    """Judges conversations by the policy of an engine."""

    def __init__(self, engine: PolicyEngine) -> None:
        self.engine = engine
        self._decisions: OrderedDict[bytes, Decision] = OrderedDict()

    def admit(self, turns: Sequence[Turn]) -> list[Turn]:
        """The synchronous form of `aadmit`."""
        return run_here(self.aadmit(turns))

    async def aadmit(self, turns: Sequence[Turn], request_id: str = "", tenant: str = "") -> list[Turn]:
        """The messages as the model may see them: what guards redact is replaced. Raises GuardBlocked, and what
        `PolicyEngine.adecide` raises.

        A guard sees those before a message as they were admitted.
        """
        admitted: list[Turn] = []
        known = hashlib.blake2b(digest_size=16)
        for turn in turns:
            known.update(repr((turn.role, turn.content)).encode())
            if turn.role == OWN:
                admitted.append(turn)
                continue
            decision = self._decisions.get(key := known.digest())
            if decision is None:
                stage = STAGES.get(turn.role, "input")
                decision = await self.engine.adecide(stage, turn.content, admitted, request_id, tenant)
                self._remember(key, decision)
            decision.raise_if_blocked()
            admitted.append(Turn(turn.role, decision.text))
        return admitted

    def _remember(self, key: bytes, decision: Decision) -> None:
        """What a guard that failed led to holds for this time only."""
        if any(verdict.status != "ok" for verdict in decision.verdicts):
            return
        self._decisions[key] = decision
        if len(self._decisions) > REMEMBERED:
            self._decisions.popitem(last=False)
