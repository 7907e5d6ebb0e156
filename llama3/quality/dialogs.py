"""Rows of dialogs as they are judged: by their messages alone, whatever they are called and wherever they stand."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from llama3 import _core
from llama3.evaluation.judges import JudgedAnswer
from llama3.safety.guard import Turn
from llama3.tasks.rows import read_rows

FILE = "dialogs.jsonl"


@dataclass(frozen=True)
class DialogRow:
    """A row of `dialogs.jsonl`, which ends with the answer of the assistant."""

    row: Mapping[str, Any]

    @property
    def id(self) -> str:
        return str(self.row.get("id", ""))

    @property
    def source(self) -> str:
        return str(self.row.get("source", ""))

    @property
    def messages(self) -> list[Mapping[str, Any]]:
        messages: list[Mapping[str, Any]] = self.row["messages"]
        return messages

    @cached_property
    def digest(self) -> str:
        """Of the messages: equal dialogs have the same, and which comes first of two is nobody's choice."""
        return _core.blake3_bytes(json.dumps(self.messages, sort_keys=True).encode("utf-8", "replace"))

    @property
    def text(self) -> str:
        """The whole dialog."""
        return "\n\n".join(str(message["content"]) for message in self.messages)

    @property
    def last(self) -> JudgedAnswer:
        """What is judged of it: its last answer, after all that was said before."""
        *before, answer = self.messages
        turns = tuple(Turn(str(message["role"]), str(message["content"])) for message in before)
        return JudgedAnswer(turns, str(answer["content"]))

    @property
    def answers(self) -> list[tuple[str, str]]:
        """What is learnt, each with the message before it."""
        texts = ["", *(str(message["content"]) for message in self.messages)]
        learnt = [m["role"] == "assistant" and m.get("weight") != 0 for m in self.messages]
        return [(texts[n + 1], texts[n]) for n, is_learnt in enumerate(learnt) if is_learnt]

    @property
    def is_code(self) -> bool:
        """Whether the last answer has a fenced block of code."""
        return "```" in str(self.messages[-1]["content"])


def read_dialogs(folder: Path) -> list[DialogRow]:
    """The rows of an artifact of dialogs, in order. Raises DataError for what is no JSON object."""
    return [DialogRow(row) for row in read_rows(folder / FILE)]
