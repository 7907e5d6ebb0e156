"""Tool use (paper 4.3.5): trajectories of calls that ran, with an answer that is right; and no call where none belongs.

A trajectory is a system prompt that tells which tools are active, a question, calls with their results, and the answer.
It is learnt where every call was well formed, named an active tool and ran in the sandbox, and the answer says what is
known to be right. All others are dropped and counted by what was wrong with them. No call is ever run elsewhere.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from llama3.capabilities import BETWEEN, FunctionCall, Made, Message, Ran, Reply, Workshop, with_tools
from llama3_plugins.capabilities import tool_questions as questions
from llama3_plugins.capabilities.functions import OWN
from llama3_plugins.capabilities.options import ToolKind, ToolUseOptions
from llama3_plugins.capabilities.tool_questions import Question
from llama3_plugins.capabilities.toolbox import CORE, Tool, is_nested, read, script, shown
from llama3_plugins.capabilities.turns import assistant, user

SYSTEM = (
    "You are a helpful assistant.",
    "You answer questions briefly and correctly.",
    "Help the user with what is asked.",
)


@dataclass(slots=True)
class _Trajectory:
    """A question on its way."""

    question: Question
    turns: list[dict[str, str]] = field(default_factory=list)
    """What followed the question."""
    calls: list[list[FunctionCall]] = field(default_factory=list)
    """Message by message."""
    results: list[str] = field(default_factory=list)
    reason: str = ""
    """How it ended; "" while it goes on."""
    last: str = ""
    """The answer that ended it, right or wrong."""

    def dialog(self, asked: str) -> list[dict[str, str]]:
        return [*_head(self.question, asked), *self.turns]


class ToolUse:
    """A recipe: dialogs in which tools are called, and such in which they are not."""

    def __init__(self, options: ToolUseOptions) -> None:
        self.options = options

    def dialogs(self, shop: Workshop, count: int, seed: int) -> Iterator[Made]:
        """One trajectory is kept of each question at most. Of questions that need no call a sample that made one is the
        worse answer of a preference."""
        kinds = self.options.kinds
        shares = {kind: len(range(place, count, len(kinds))) for place, kind in enumerate(kinds)}
        asked: list[Question] = []
        for kind, share in shares.items():
            for one in _questions(shop, kind, share, random.Random(f"tool_use/{seed}/{kind}")):
                if isinstance(one, Question):
                    asked.append(one)
                else:
                    yield Made([], False, one, f"tool_use/{kind}")
        for drawn in self._trajectories(shop, asked):
            yield from _told(drawn)

    def _trajectories(self, shop: Workshop, asked: Sequence[Question]) -> list[list[_Trajectory]]:
        """`samples` of each question, all a step further at a time."""
        drawn = [[_Trajectory(question) for _ in range(self.options.samples)] for question in asked]
        going = [one for row in drawn for one in row]
        firsts = shop.ask([_head(one, questions.hinted(one)) for one in asked], samples=self.options.samples)
        said = [reply for replies in firsts for reply in replies]
        for step in range(self.options.steps):
            if step:
                going = [one for one in going if not one.reason]
                replies = shop.ask([one.dialog(questions.hinted(one.question)) for one in going])
                said = [reply for (reply,) in replies]
            _advance(shop, going, said)
        for one in going:
            one.reason = one.reason or "too_many_steps"
        return drawn


def _questions(shop: Workshop, kind: ToolKind, count: int, rng: random.Random) -> Iterator[Question | str]:
    plain: dict[str, Any] = {
        "calculator": questions.calculations,
        "python": questions.programs,
        "files": questions.uploads,
        "easy": questions.easy,
        "off": questions.off,
    }
    if kind in plain:
        yield from plain[kind](count, rng)
    elif kind == "search":
        yield from questions.searches(shop, count, rng)
    else:
        yield from questions.functions(shop, kind, count, rng)


def _head(question: Question, asked: str) -> list[dict[str, str]]:
    rng = random.Random(f"system/{question.prompt}")
    system = [Message("system", rng.choice(SYSTEM))]
    if question.active:
        system = with_tools(system, [tool.spec for tool in question.active])
    return [{"role": "system", "content": system[0].text}, user(asked)]


def _advance(shop: Workshop, going: Sequence[_Trajectory], said: Sequence[Reply]) -> None:
    """Take what was said into each trajectory: an answer ends it, calls are run, all of them together."""
    calling: list[tuple[_Trajectory, list[FunctionCall]]] = []
    for one, reply in zip(going, said, strict=True):
        known: Sequence[Tool] = (*CORE, *OWN, *one.question.active)
        written = read(reply.text, one.question.active, known)
        one.last = reply.text.strip()
        if not reply.ended:
            one.reason = "cut_off"
        elif written.fault:
            one.reason = written.fault
        elif not written.calls:
            one.turns.append(assistant(one.last))
            one.reason = _verdict(one)
        elif not one.question.calls:
            one.reason = "needless_call"
        else:
            calling.append((one, list(written.calls)))
    scripts = [script(call, one.question.active, one.question.files) for one, calls in calling for call in calls]
    ran = iter(shop.run_python([program for program in scripts if program is not None]))
    outcomes = iter([None if program is None else next(ran) for program in scripts])
    for one, calls in calling:
        _take(one, calls, [next(outcomes) for _ in calls])


def _take(one: _Trajectory, calls: list[FunctionCall], outcomes: Sequence[Ran | None]) -> None:
    one.calls.append(calls)
    one.turns.append(assistant(BETWEEN.join(map(str, calls))))
    for outcome in outcomes:
        if outcome is None:
            one.reason = "malformed_call"
        elif outcome.status != 0:
            one.reason = "call_hangs" if outcome.status < 0 else "call_fails"
        else:
            one.results.append(outcome.stdout.strip())
            one.turns.append({"role": "tool", "content": shown(one.results[-1])})


def _verdict(one: _Trajectory) -> str:
    """Whether a finished trajectory is right, in a word: "passed", or what is wrong with it."""
    question, calls = one.question, [call for message in one.calls for call in message]
    if question.calls and not calls:
        return "no_call"
    if question.kind == "search" and not any(questions.says(result, question.results[0]) for result in one.results):
        return "not_found"
    if question.kind in ("single", "nested", "multi_step") and question.results[-1] not in one.results[-1:]:
        return "other_result"
    if question.kind == "parallel" and sorted(question.results) != sorted(one.results):
        return "other_result"
    forms = {
        "nested": any(map(is_nested, calls)),
        "parallel": any(len(message) > 1 for message in one.calls),
        "multi_step": len(one.calls) > 1,
    }
    if not forms.get(question.kind, True):
        return f"not_{question.kind}"
    return "passed" if question.answered(one.last) else "wrong_answer"


def _told(drawn: Sequence[_Trajectory]) -> Iterator[Made]:
    """What becomes of the trajectories of a question."""
    right = next((one for one in drawn if one.reason == "passed"), None)
    category = f"tool_use/{drawn[0].question.kind}"
    for one in drawn:
        if one.reason != "passed":
            yield Made(one.dialog(one.question.prompt), False, one.reason, category)
    if right is not None:
        called = (one.last for one in drawn if one.reason in ("needless_call", "not_active"))
        rejected = "" if right.question.calls else next(called, "")
        yield Made(right.dialog(right.question.prompt), True, "passed", category, rejected)
