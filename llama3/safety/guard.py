"""What a guard sees, what it answers, and the protocol it implements."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from llama3.plugins.specs import GuardStage

Action = Literal["allow", "flag", "redact", "review", "block"]
Status = Literal["ok", "error", "timeout", "skipped"]
Trust = Literal["user", "third_party", "model"]

ACTIONS: tuple[Action, ...] = ("allow", "flag", "redact", "review", "block")
"""All actions, from the mildest to the most severe: a total order."""


def severity(action: Action) -> int:
    """The rank of an action in `ACTIONS`."""
    return ACTIONS.index(action)


def trust_of(stage: GuardStage) -> Trust:
    """Whose text is judged at a stage."""
    if stage == "input":
        return "user"
    return "third_party" if stage == "tool_result" else "model"


@dataclass(frozen=True, slots=True)
class Turn:
    """One earlier message of the conversation."""

    role: str
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Characters `start` to `end` of the checked text, as the user wrote it."""

    start: int
    end: int
    category: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardInput:
    """One text at one stage. `deadline` is in seconds of the monotonic clock.

    Of a stream windows are judged as it comes, and at its end all of it: `begins` and `ends` say whether `text` begins
    and ends where the whole does. What touches an end that is none may look different with more text beside it.

    `language` is that of code, as its fence or its tool tells it. `tools` are those that the model may call: the JSON
    schema of its arguments by the name of each.
    """

    stage: GuardStage
    text: str
    begins: bool = True
    ends: bool = True
    trust: Trust = "user"
    trace: tuple[Turn, ...] = ()
    language: str | None = None
    tools: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    deadline: float | None = None
    request_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A guard's answer. `p` and the values of `categories` are probabilities of a violation."""

    action: Action
    status: Status = "ok"
    p: float | None = None
    categories: Mapping[str, float] = field(default_factory=dict)
    spans: tuple[Span, ...] = ()
    reason: str = ""
    guard: str = ""
    version: str = ""
    ms: float = 0.0


class Guard(Protocol):
    """Built by `factory(options)`. `open` loads once; a failure there refuses to start.

    Each method may be plain or `async`. A guard has a thread of its own, in which all of them run: one that blocks it
    holds up nobody but itself, and one that awaits can judge several texts at once: as many as its attribute `at_once`
    says, else 32. One that does not come back in its time is left to itself, and another is built and opened in its
    place.
    """

    def open(self) -> Awaitable[None] | None: ...

    def check(self, x: GuardInput) -> Awaitable[Verdict] | Verdict: ...

    def close(self) -> Awaitable[None] | None: ...
