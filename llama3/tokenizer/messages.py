"""A dialog's messages, and a dialog as token ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from llama3.errors import DataError, Problem

_TEXT_PART = '{{"type": "text", "text": "..."}}'
NO_SUCH_ROLE = DataError.declare("L3-TOK-008", "the role {role!r} does not exist", fix="use one of {roles}")
NO_TEXT = DataError.declare(
    "L3-CHT-001", "the {thing} is {found}", fix=f"give a string or a list of parts: {_TEXT_PART}"
)
OTHER_PART = DataError.declare("L3-CHT-009", "the type {type!r} is not known", fix=f"write text: {_TEXT_PART}")

Role = Literal["system", "user", "assistant", "tool", "ipython"]
ROLES: tuple[str, ...] = get_args(Role)
Content = str | Sequence[Mapping[str, Any]]
"""Text, or parts as OpenAI and Hugging Face write them: `[{"type": "text", "text": "..."}]`."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message. `tool` is the role of a tool's results, which Llama 3's own formats call `ipython`. Raises DataError
    for another role or what is no content."""

    role: Role
    content: Content

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise NO_SUCH_ROLE("message", role=self.role, roles=list(ROLES))
        texts_of(self.content)

    def __str__(self) -> str:
        """The text: what is printed of an answer."""
        return self.text

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
        raise NO_TEXT(where, thing="content", found=f"of the type {type(content).__name__}" if content else "empty")
    faults = [_fault(part, f"{where}: part {number}") for number, part in enumerate(content, 1)]
    if problems := [fault for fault in faults if fault]:
        raise DataError.of(problems)
    return [part["text"] for part in content]


def _fault(part: Any, where: str) -> Problem | None:
    """What is wrong with a part."""
    kind = part.get("type") if isinstance(part, Mapping) else None
    if isinstance(kind, str) and kind != "text":
        return OTHER_PART.problem(where, type=kind)
    if kind is None or not isinstance(part.get("text"), str):
        return NO_TEXT.problem(where, thing="part", found="no text")
    return None


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
