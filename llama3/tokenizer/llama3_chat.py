"""Llama 3's multi-message chat format: messages to ids and back (paper 4.1.1; reference `chat_format.py`).

    <|begin_of_text|>
    <|start_header_id|>ROLE<|end_header_id|>\\n\\nCONTENT<|eot_id|>            per message
    <|start_header_id|>assistant<|end_header_id|>\\n\\n                       the generation prompt

Control tokens are put in as ids and contents are encoded with no special token allowed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from llama3.errors import DataError
from llama3.tokenizer.messages import ROLES, Message, Rendered
from llama3.tokenizer.tokenizer import Ids, Tokenizer

NO_HEADER = DataError.declare("L3-TOK-009", "no message's header stands here")
NO_END = DataError.declare("L3-TOK-014", "the message that begins here does not end")

TOOL = "ipython"
"""What this format calls the role of a tool's results."""
_BREAK = "\n\n"


def render(tokenizer: Tokenizer, messages: Sequence[Message], generation_prompt: bool) -> Rendered:
    """Ids of a dialog.

    Blank lines that lead a content are dropped, because as text they would melt into the header's line breaks; nothing
    else changes.
    """
    contents, starts = tokenizer.encode_batch([without_leading_blank_lines(message.text) for message in messages])
    bos = np.array([tokenizer.bos_id], np.uint32)
    parts = [_Part(bos, is_format=True)]
    message_starts = []
    length = 1
    for number, message in enumerate(messages):
        message_starts.append(length)
        header = _header(tokenizer, TOOL if message.role == "tool" else message.role)
        content = contents[int(starts[number]) : int(starts[number + 1])]
        learnt = message.role == "assistant" and not generation_prompt
        end = np.array([tokenizer.eot_id], np.uint32)
        parts += [_Part(header, is_format=True), _Part(content, learnt), _Part(end, learnt, is_format=True)]
        length += len(header) + len(content) + 1
    if generation_prompt:
        parts.append(_Part(_header(tokenizer, "assistant"), is_format=True))
    lengths = [len(part.ids) for part in parts]
    return Rendered(
        np.concatenate([part.ids for part in parts]),
        np.repeat([part.is_target for part in parts], lengths),
        np.repeat([part.is_format for part in parts], lengths),
        message_starts,
    )


class _Part(NamedTuple):
    ids: Ids
    is_target: bool = False
    is_format: bool = False


def parse(tokenizer: Tokenizer, ids: npt.ArrayLike) -> list[Message]:
    """The messages that `render` made these ids from (leading blank lines apart).

    A generation prompt at the end is not a message. Raises DataError where the ids are not in the chat format.
    """
    rest = [int(id) for id in np.asarray(ids).reshape(-1)]
    at = 1 if rest[:1] == [tokenizer.bos_id] else 0
    headers = {role: _header(tokenizer, role).tolist() for role in ROLES if role != "tool"}
    ends = (tokenizer.eot_id, tokenizer.eom_id)
    messages = []
    while at < len(rest):
        role = next((role for role, header in headers.items() if rest[at : at + len(header)] == header), None)
        if role is None:
            raise NO_HEADER(f"id {at}")
        start = at + len(headers[role])
        end = next((index for index in range(start, len(rest)) if rest[index] in ends), None)
        if end is None:
            if role == "assistant" and start == len(rest):
                break
            raise NO_END(f"id {at}")
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


def without_leading_blank_lines(content: str) -> str:
    """`content` without the lines of whitespace it begins with; the first line keeps its indentation."""
    body = content.lstrip()
    lead = content[: len(content) - len(body)]
    return lead.split("\n")[-1].split("\r")[-1] + body
