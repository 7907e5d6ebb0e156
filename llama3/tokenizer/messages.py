"""A dialog's messages, and a dialog as token ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from llama3.errors import DataError, Problem

Role = Literal["system", "user", "assistant", "ipython"]
ROLES: tuple[str, ...] = get_args(Role)
Content = str | Sequence[Mapping[str, Any]]
"""Text, or parts as OpenAI and Hugging Face write them: `[{"type": "text", "text": "..."}]`."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message. `ipython` is the role of tool results. Raises DataError for another role or what is no content."""

    role: Role
    content: Content

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            what = f"the role {self.role!r} does not exist"
            raise DataError(Problem("L3-TOK-008", "message", what, fix=f"use one of {', '.join(ROLES)}"))
        texts_of(self.content)

    @property
    def text(self) -> str:
        """All of the content's text; nothing is put between parts."""
        return "".join(texts_of(self.content))


def texts_of(content: object, where: str = "message") -> list[str]:
    """The text of each part; a string is its own one part. Raises DataError for what is no content, naming every part
    that is no text."""
    if isinstance(content, str):
        return [content]
    if not isinstance(content, list | tuple) or not content:
        what = f"the content is of the type {type(content).__name__}" if content else "the content is empty"
        raise DataError(Problem("L3-CHT-001", where, what, fix=f"give a string or a list of parts: {_TEXT_PART}"))
    faults = [(number, _fault(part)) for number, part in enumerate(content, 1)]
    problems = [Problem(**fault, where=f"{where}: part {number}") for number, fault in faults if fault]
    if problems:
        raise DataError(problems)
    return [part["text"] for part in content]


def _fault(part: Any) -> dict[str, str] | None:
    """What is wrong with a part: fields of a Problem."""
    kind = part.get("type") if isinstance(part, Mapping) else None
    if isinstance(kind, str) and kind != "text":
        return {"code": "L3-CHT-009", "what": f"the type {kind!r} is not known", "fix": f"write text: {_TEXT_PART}"}
    if kind is None or not isinstance(part.get("text"), str):
        return {"code": "L3-CHT-001", "what": "this is no part of a message", "fix": f"write text: {_TEXT_PART}"}
    return None


_TEXT_PART = '{"type": "text", "text": "..."}'


@dataclass(frozen=True, slots=True)
class Rendered:
    """A dialog as ids (length T)."""

    ids: npt.NDArray[np.uint32]
    is_target: npt.NDArray[np.bool_]
    """What an assistant learns: of each of its messages all that follows the generation prompt, which is the content
    and the token that ends it. Nothing where the dialog ends in a generation prompt."""
    is_format: npt.NDArray[np.bool_]
    """What holds nothing of any content: BOS, headers, ends of messages, a template's own words. The DPO loss leaves
    it out (paper 4.1.4)."""
    message_starts: list[int]
    """Index of each message's first token. What stands before a first message's header belongs to that message (a
    template's default system message, say), but Llama 3's BOS."""


def name_of(index: int, role: str) -> str:
    """How errors name a message."""
    return f"message {index + 1} ({role})"
