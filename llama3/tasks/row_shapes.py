"""Rows of published shapes in TRL's column names: ShareGPT (`conversations`) and Alpaca (`instruction`, `output`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llama3.errors import DataError

ODD_TURN = DataError.declare(
    "L3-OWN-073", "turn {number} of {column} is not {{from, value}}", fix="write {{from: human or gpt, value: text}}"
)
NO_INSTRUCTION = DataError.declare("L3-OWN-075", "{column} is {type}", fix="give text, as Alpaca does")

_SPEAKERS = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "chatgpt": "assistant",
    "system": "system",
    "tool": "tool",
    "observation": "tool",
}
"""ShareGPT's names of roles."""


def in_trl_names(row: dict[str, Any], where: str) -> dict[str, Any]:
    """The row, whose columns have TRL's names where they had another shape's. Raises DataError."""
    if isinstance(row.get("conversations"), list):
        return _of_conversations(row, where)
    if "instruction" in row and row.keys() & {"output", "chosen", "rejected"} and "prompt" not in row:
        return _of_instruction(row, where)
    return row


def _of_instruction(row: dict[str, Any], where: str) -> dict[str, Any]:
    """`instruction`, and `input` on a line below it, are the prompt, after a message of the `system`; `output` is the
    completion. A `text` that repeats them within Alpaca's template goes, and so does an empty `history`."""
    asked = [row["instruction"], row.get("input") or ""]
    for column, value in zip(("instruction", "input"), asked, strict=True):
        if not isinstance(value, str):
            raise NO_INSTRUCTION(where, column=column, type=type(value).__name__)
    read = {"instruction", "input", "system", "output"}
    read |= {"history"} if not row.get("history") else set()
    read |= {"text"} if all(str(part) in str(row.get("text")) for part in (*asked, row.get("output"))) else set()
    prompt: Any = "\n".join(part for part in asked if part)
    if row.get("system"):
        prompt = [{"role": "system", "content": row["system"]}, {"role": "user", "content": prompt}]
    rest = {name: value for name, value in row.items() if name not in read}
    return {**rest, "prompt": prompt, **({"completion": row["output"]} if "output" in row else {})}


def _of_conversations(row: dict[str, Any], where: str) -> dict[str, Any]:
    """`conversations` (and `system`) are the messages, or the prompt of answers."""
    turns = [_turn(turn, where, "conversations", n) for n, turn in enumerate(row["conversations"], 1)]
    if row.get("system"):
        turns.insert(0, {"role": "system", "content": row["system"]})
    rest = {name: value for name, value in row.items() if name not in ("conversations", "system")}
    pair = {
        name: _turn(rest[name], where, name, 1) for name in ("chosen", "rejected") if isinstance(rest.get(name), dict)
    }
    if pair:
        return {**rest, "prompt": turns, **{name: [turn] for name, turn in pair.items()}}
    return {**rest, "messages": turns}


def _turn(turn: Any, where: str, column: str, number: int) -> Mapping[str, Any]:
    """A message of `{from, value}`; one of `{role, content}` stays. What else it says goes along, to be judged."""
    if isinstance(turn, dict) and "role" in turn:
        return turn
    if not isinstance(turn, dict) or "value" not in turn or str(turn.get("from")).lower() not in _SPEAKERS:
        raise ODD_TURN(where, number=number, column=column)
    rest = {key: value for key, value in turn.items() if key not in ("from", "value")}
    return {"role": _SPEAKERS[str(turn["from"]).lower()], "content": turn["value"], **rest}
