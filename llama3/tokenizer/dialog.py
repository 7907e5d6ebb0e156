"""A dialog as people write it: messages as objects or as mappings of role and content, or one text of the user."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from llama3.errors import DataError, Problem, did_you_mean
from llama3.tokenizer.messages import Message, name_of

NO_MESSAGE = DataError.declare(
    "L3-CHT-020",
    "{kind} is no message",
    fix='write {{"role": "user", "content": "..."}}, or llama3.tokenizer.Message',
)
MISSING_KEY = DataError.declare("L3-CHT-021", "the key {key!r} is missing", fix="a message has role and content")
ODD_KEYS = DataError.declare(
    "L3-CHT-022", "the keys {keys!r} mean nothing here", why="a message has role and content. {near}", fix="remove them"
)

KEYS = ("role", "content")
Dialog = str | Message | Mapping[str, Any] | Sequence[Message | Mapping[str, Any]]


def read_dialog(dialog: Dialog) -> list[Message]:
    """The messages of a dialog; a string is one message of the user.

    Raises DataError with the problems of all messages: what is none, what lacks a key, and keys that would be lost.
    """
    if isinstance(dialog, str):
        return [Message("user", dialog)]
    given = [dialog] if isinstance(dialog, Message | Mapping) else list(dialog)
    messages: list[Message] = []
    problems: list[Problem] = []
    for index, one in enumerate(given):
        try:
            messages.append(one if isinstance(one, Message) else _message(one, index))
        except DataError as error:
            problems += error.problems
    if problems:
        raise DataError.of(problems)
    return messages


def _message(one: Any, index: int) -> Message:
    if not isinstance(one, Mapping):
        raise NO_MESSAGE(f"message {index + 1}", kind=repr(one) if isinstance(one, str) else type(one).__name__)
    where = name_of(index, str(one.get("role", "no role")))
    if missing := [key for key in KEYS if key not in one]:
        raise DataError.of(MISSING_KEY.problem(where, key=key) for key in missing)
    if odd := sorted(str(key) for key in one if key not in KEYS):
        raise ODD_KEYS(where, keys=odd, near=did_you_mean(odd[0], KEYS))
    try:
        return Message(one["role"], one["content"])
    except DataError as error:
        raise DataError.of(replace(problem, where=where) for problem in error.problems) from None
