"""A dialog's messages, and a dialog as token ids."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from llama3.errors import DataError, Problem

Role = Literal["system", "user", "assistant", "ipython"]
ROLES: tuple[str, ...] = get_args(Role)


@dataclass(frozen=True, slots=True)
class Message:
    """One message. `ipython` is the role of tool results. Raises DataError for another role or what is no text."""

    role: Role
    content: str

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            what = f"the role {self.role!r} does not exist"
            raise DataError(Problem("L3-TOK-008", "message", what, fix=f"use one of {', '.join(ROLES)}"))
        if not isinstance(self.content, str):
            is_type = f"the content is of the type {type(self.content).__name__}"
            raise DataError(Problem("L3-CHT-001", "message", is_type, fix="give the content as one string"))


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
