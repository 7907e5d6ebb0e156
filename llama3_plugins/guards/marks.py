"""From what a guard found to its verdict, for guards that match patterns, in whole texts and in windows of a stream."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import get_args

from llama3.guards import Action, GuardInput, Span, Verdict

_ACTIONS: tuple[Action, ...] = get_args(Action)
LEFT, RIGHT = 64, 40
"""Characters beside an end of a window that is no end of the text: what begins or ends there may be something else.
What is that close to the left was judged by windows before, and what is that close to the right will be by the next."""


@dataclass(frozen=True, slots=True)
class Mark:
    """Characters `start` to `end` of the text, and what is to be done. `grows`: more text makes it longer at most."""

    start: int
    end: int
    category: str
    action: Action
    grows: bool = False


def verdict_of(x: GuardInput, marks: Iterable[Mark], categories: Sequence[str], version: str) -> Verdict:
    """The severest action of the marks that are certain. What is to be redacted is marked before it is certain: that
    only keeps a stream from passing it on."""
    kept = [mark for mark in marks if _begins_there(x, mark) and (mark.action == "redact" or _ends_there(x, mark))]
    actions: list[Action] = ["allow", *(mark.action for mark in kept)]
    action = max(actions, key=_ACTIONS.index)
    shown = [mark for mark in kept if action != "redact" or mark.action == "redact"]
    found = {mark.category for mark in kept}
    return Verdict(
        action=action,
        p=float(bool(found)),
        categories={category: float(category in found) for category in categories},
        spans=tuple(Span(start=mark.start, end=mark.end, category=mark.category) for mark in shown),
        reason=f"found {', '.join(sorted(found))}" if found else "",
        version=version,
    )


def _begins_there(x: GuardInput, mark: Mark) -> bool:
    return x.begins or mark.start >= LEFT


def _ends_there(x: GuardInput, mark: Mark) -> bool:
    return x.ends or mark.grows or mark.end <= len(x.text) - RIGHT
