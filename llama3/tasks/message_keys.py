"""What a user's message says beside role and content: whether it is learnt. Anything else is refused, not dropped.

`weight` (0 or 1, as OpenAI and Mistral write it) and `train` or `training` (true or false, as axolotl does) leave an
assistant's message out of the loss. A key without a value (null, "", an empty list) says nothing: tables write it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llama3.errors import DataError

ODD_KEY = DataError.declare(
    "L3-OWN-060",
    "the message has {key}, which no chat template here takes",
    why="{why}",
    fix="write it into the content, or drop it",
)
ODD_WEIGHT = DataError.declare("L3-OWN-061", "{key} is {value}", fix="write {wanted}")
NOT_AN_ANSWER = DataError.declare(
    "L3-OWN-062", "{key} says that a message of the {role} is learnt", why="only answers are", fix="remove it"
)
TWO_WEIGHTS = DataError.declare("L3-OWN-063", "{keys} do not agree", fix="keep one of them")

_WRITTEN = frozenset({"role", "content"})
_TURNS = {"weight": (0, 1), "train": (False, True), "training": (False, True)}
"""Keys that leave a message out, and their values for left out and learnt."""
_WHY = {
    "tool_calls": "tool calls are not part of chat templates yet",
    "function_call": "tool calls are not part of chat templates yet",
    "tool_call_id": "tool calls are not part of chat templates yet",
}


def is_learnt(message: Mapping[str, Any], role: str, where: str) -> bool:
    """Whether the loss stands on the message, as far as its keys say. Raises DataError for one that is not known."""
    said = {key: value for key, value in message.items() if key not in _WRITTEN and value not in (None, "", [], {})}
    if odd := sorted(said.keys() - _TURNS):
        raise ODD_KEY(where, key=", ".join(odd), why=_WHY.get(odd[0], "it would be lost"))
    learnt = {key: _read(key, value, where) for key, value in said.items()}
    if len({*learnt.values()}) > 1:
        raise TWO_WEIGHTS(where, keys=" and ".join(sorted(learnt)))
    if role != "assistant" and any(learnt.values()):
        raise NOT_AN_ANSWER(where, key=min(learnt), role=role)
    return role != "assistant" or all(learnt.values())


def _read(key: str, value: Any, where: str) -> bool:
    out, learnt = _TURNS[key]
    if isinstance(value, bool) != isinstance(learnt, bool) or value not in (out, learnt):
        raise ODD_WEIGHT(where, key=key, value=repr(value), wanted=f"{str(out).lower()} or {str(learnt).lower()}")
    return bool(value)
