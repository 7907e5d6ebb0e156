"""The target: a model behind its policy, with whom several conversations are held at once."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from llama3.errors import DataError, GuardBlocked
from llama3.evaluation.answers import drawn_of
from llama3.redteam.attack import Attack
from llama3.redteam.journal import NO_FORM, NO_ROOM
from llama3.safety.dialog import OWN, STAGES
from llama3.safety.engine import PolicyEngine, run_here
from llama3.safety.guard import Turn, Verdict, severity
from llama3.tokenizer.chat import Message, Role, render

if TYPE_CHECKING:
    from llama3.inference.llama import Llama


@dataclass
class Held:
    """A conversation: what was said (`turns`, the attack's and the target's own), what the model saw of it (without
    what guards redact), the last answer that came through, and the guards that stopped it, where one did."""

    attack: Attack
    turns: list[Turn] = field(default_factory=list)
    seen: list[Turn] = field(default_factory=list)
    answer: str = ""
    caught: list[Mapping[str, Any]] = field(default_factory=list)
    messages: int = 0
    """Messages that were put to the target, answered or stopped."""
    unanswered: str = ""
    """Why the target cannot be asked: NO_FORM or NO_ROOM."""

    @property
    def over(self) -> bool:
        return bool(self.unanswered or self.caught)


class GuardedModel:
    """Answers greedily; every guard of the policy stands where it does in `llama3 chat`: before each message that is
    not the model's own, and after each answer."""

    def __init__(self, model: Llama, guards: PolicyEngine, max_tokens: int) -> None:
        self.model, self.guards, self.max_tokens = model, guards, max_tokens
        self.seconds = defaultdict[str, float](float)
        self.answers = 0

    def hold(self, attacks: Sequence[Attack]) -> list[Held]:
        """The conversations that the attacks lead to, step by step and all at once. What earlier calls left in the
        engine's cache is forgotten, so that the answers depend on the attacks alone."""
        self.model.engine.reset()
        held = [Held(attack) for attack in attacks]
        for step in range(max((len(attack.steps) for attack in attacks), default=0)):
            live = [one for one in held if step < len(one.attack.steps) and not one.over]
            self._guarded(self._put(one, one.attack.steps[step]) for one in live)
            for one in live:
                one.unanswered = "" if one.over else self._hindered(one.seen)
            asked = [one for one in live if not one.over]
            answers = self._answers(asked)
            self._guarded(self._take(one, answer) for one, answer in zip(asked, answers, strict=True))
        return held

    def _guarded(self, work: Iterable[Coroutine[Any, Any, None]]) -> None:
        """What is to be judged of all conversations, side by side: a guard may take several texts at once."""

        async def judged() -> None:
            await asyncio.gather(*work)

        began = time.monotonic()
        run_here(judged())
        self.seconds["guards"] += time.monotonic() - began

    async def _put(self, one: Held, turns: Sequence[Turn]) -> None:
        one.messages += 1
        for turn in turns:
            one.turns.append(turn)
            text = turn.content if turn.role == OWN else await self._admitted(turn, one)
            one.seen.append(Turn(turn.role, text))
            if one.over:
                return

    async def _admitted(self, turn: Turn, one: Held) -> str:
        """What the model sees of a message."""
        stage = STAGES.get(turn.role, "input")
        decision = await self.guards.adecide(stage, turn.content, one.seen)
        if decision.blocked:
            one.caught = _stopping(stage, decision.verdicts)
        return decision.text

    def _answers(self, asked: Sequence[Held]) -> list[str]:
        began = time.monotonic()
        dialogs = [[{"role": turn.role, "content": turn.content} for turn in one.seen] for one in asked]
        found = drawn_of(self.model, dialogs, max_tokens=self.max_tokens, temperature=0.0)
        self.seconds["target"] += time.monotonic() - began
        self.answers += len(asked)
        return [first for (first,) in found]

    def _hindered(self, turns: Sequence[Turn]) -> str:
        """Why the model cannot answer the turns, or nothing."""
        messages = [Message(cast(Role, turn.role), turn.content) for turn in turns]
        try:
            prompt = render(self.model.tokenizer, messages, generation_prompt=True).ids
        except DataError:
            return NO_FORM
        return "" if len(prompt) < self.model.engine.pool.max_tokens else NO_ROOM

    async def _take(self, one: Held, answer: str) -> None:
        """The answer as it is passed on, or what stopped it."""
        try:
            passed = await self.guards.ajudge_answer(answer, one.seen)
        except GuardBlocked as error:
            one.caught = await self._blamed(error, answer, one.seen)
        else:
            one.answer = passed
            one.turns.append(Turn(OWN, passed))
            one.seen.append(Turn(OWN, passed))

    async def _blamed(self, error: GuardBlocked, answer: str, seen: Sequence[Turn]) -> list[Mapping[str, Any]]:
        """The guards that stopped an answer. Where they were shown a part of it, those of the stage that gave a reason
        are named."""
        (problem,) = error.problems
        stage = problem.where.removesuffix(" guard")
        if found := _stopping(stage, (await self.guards.adecide(stage, answer, seen)).verdicts):
            return found
        names = [name for name in self.guards.guards(stage) if f"{name}: " in problem.why] or [problem.code]
        return [{"guard": f"{stage}/{name}", "action": "block", "status": "ok"} for name in names]


def _stopping(stage: str, verdicts: Sequence[Verdict]) -> list[Mapping[str, Any]]:
    """What an attempt's row tells of the guards that objected."""
    severe = [verdict for verdict in verdicts if severity(verdict.action) >= severity("review")]
    return [_said(stage, verdict) for verdict in severe]


def _said(stage: str, verdict: Verdict) -> Mapping[str, Any]:
    """Of one that failed also why. The reason of one that worked may quote what it stopped, which is not told."""
    why = {} if verdict.status == "ok" else {"reason": verdict.reason}
    return {"guard": f"{stage}/{verdict.guard}", "action": verdict.action, "status": verdict.status, **why}
