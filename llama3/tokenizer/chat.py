"""Llama 3's multi-message chat format: messages to ids and back (paper 4.1.1; reference `chat_format.py`).

    <|begin_of_text|>
    <|start_header_id|>ROLE<|end_header_id|>\\n\\nCONTENT<|eot_id|>            per message
    <|start_header_id|>assistant<|end_header_id|>\\n\\n                       the generation prompt

Control tokens are put in as ids and contents are encoded with no special token allowed: whatever a content says, it
never becomes a control token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from llama3.errors import DataError, Problem
from llama3.tokenizer.template import CHAT_TEMPLATE
from llama3.tokenizer.tokenizer import Ids, Tokenizer

__all__ = ["CHAT_TEMPLATE", "ROLES", "Message", "Rendered", "parse", "render"]

Role = Literal["system", "user", "assistant", "ipython"]
ROLES: tuple[str, ...] = get_args(Role)
_BREAK = "\n\n"


@dataclass(frozen=True, slots=True)
class Message:
    """One message. `ipython` is the role of tool results. Raises DataError for another role."""

    role: Role
    content: str

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            what = f"the role {self.role!r} does not exist"
            raise DataError(Problem("L3-TOK-008", "message", what, fix=f"use one of {', '.join(ROLES)}"))


@dataclass(frozen=True, slots=True)
class Rendered:
    """A dialog as ids (length T)."""

    ids: Ids
    is_target: npt.NDArray[np.bool_]
    """What the last message teaches if it is the assistant's: its content and the token that ends it."""
    is_format: npt.NDArray[np.bool_]
    """The format's own tokens: BOS, headers, ends of messages. The DPO loss leaves them out (paper 4.1.4)."""
    message_starts: list[int]
    """Index of each message's first header token."""


def render(tokenizer: Tokenizer, messages: Sequence[Message], *, generation_prompt: bool = False) -> Rendered:
    """Ids of a dialog.

    The ids with a generation prompt are a prefix of the ids with the assistant's answer appended. Blank lines that
    lead a content are dropped, because as text they would melt into the header's line breaks; nothing else changes.

    Args:
        generation_prompt: end with the header of an assistant's message, for a model to go on from.
    """
    contents, starts = tokenizer.encode_batch([_without_leading_blank_lines(message.content) for message in messages])
    parts: list[tuple[npt.ArrayLike, bool]] = [(np.array([tokenizer.bos_id], np.uint32), True)]
    message_starts = []
    length = 1
    for number, message in enumerate(messages):
        message_starts.append(length)
        header = _header(tokenizer, message.role)
        content = contents[int(starts[number]) : int(starts[number + 1])]
        parts += [(header, True), (content, False), ([tokenizer.eot_id], True)]
        length += len(header) + len(content) + 1
    if generation_prompt:
        parts.append((_header(tokenizer, "assistant"), True))
    ids = np.concatenate([np.asarray(part, np.uint32) for part, _ in parts])
    is_format = np.concatenate([np.full(len(np.asarray(part)), flag) for part, flag in parts])
    return Rendered(ids, _targets(messages, message_starts, is_format, generation_prompt), is_format, message_starts)


def parse(tokenizer: Tokenizer, ids: npt.ArrayLike) -> list[Message]:
    """The messages that `render` made these ids from (leading blank lines apart).

    A generation prompt at the end is not a message. Raises DataError where the ids are not in the chat format.
    """
    rest = [int(id) for id in np.asarray(ids).reshape(-1)]
    at = 1 if rest[:1] == [tokenizer.bos_id] else 0
    headers = {role: _header(tokenizer, role).tolist() for role in ROLES}
    ends = (tokenizer.eot_id, tokenizer.eom_id)
    messages = []
    while at < len(rest):
        role = next((role for role, header in headers.items() if rest[at : at + len(header)] == header), None)
        if role is None:
            raise DataError(Problem("L3-TOK-009", f"id {at}", "no message's header stands here"))
        start = at + len(headers[role])
        end = next((index for index in range(start, len(rest)) if rest[index] in ends), None)
        if end is None:
            if role == "assistant" and start == len(rest):
                break
            raise DataError(Problem("L3-TOK-009", f"id {at}", "the message that begins here does not end"))
        messages.append(Message(role, tokenizer.decode(rest[start:end])))  # type: ignore[arg-type]
        at = end + 1
    return messages


def _header(tokenizer: Tokenizer, role: str) -> Ids:
    """Encoded apart from the content, so that a prompt's ids do not depend on the answer."""
    return np.concatenate(
        [
            np.array([tokenizer.start_header_id], np.uint32),
            tokenizer.encode(role),
            np.array([tokenizer.end_header_id], np.uint32),
            tokenizer.encode(_BREAK),
        ]
    )


def _targets(
    messages: Sequence[Message], message_starts: list[int], is_format: npt.NDArray[np.bool_], generation_prompt: bool
) -> npt.NDArray[np.bool_]:
    is_target = np.zeros(len(is_format), bool)
    if messages and messages[-1].role == "assistant" and not generation_prompt:
        is_target[message_starts[-1] :] = ~is_format[message_starts[-1] :]
        is_target[-1] = True
    return is_target


def _without_leading_blank_lines(content: str) -> str:
    """`content` without the lines of whitespace it begins with; the first line keeps its indentation."""
    body = content.lstrip()
    lead = content[: len(content) - len(body)]
    return lead.split("\n")[-1].split("\r")[-1] + body
