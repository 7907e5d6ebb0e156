"""From messages to ids: the one door.

A tokenizer speaks what its chat template writes (`chat_template`), or Llama 3's typed protocol (`llama3_chat`) where it
has the control tokens for it and no other template. Either way contents are encoded with no special token allowed:
whatever a content says, it never becomes a control token.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from llama3.errors import DataError
from llama3.tokenizer import chat_template, llama3_chat
from llama3.tokenizer.dialog import Dialog, read_dialog
from llama3.tokenizer.llama3_chat import parse
from llama3.tokenizer.messages import ROLES, Message, Rendered, Role
from llama3.tokenizer.template import CHAT_TEMPLATE
from llama3.tokenizer.tokenizer import Tokenizer

__all__ = [
    "CHAT_TEMPLATE",
    "ROLES",
    "Dialog",
    "Message",
    "Rendered",
    "Role",
    "knows_tools",
    "parse",
    "read_dialog",
    "render",
    "stop_ids",
]


def render(
    tokenizer: Tokenizer,
    messages: Dialog,
    *,
    generation_prompt: bool = False,
    tools: Sequence[Mapping[str, Any]] = (),
) -> Rendered:
    """Ids of a dialog: messages, as `Message` or as mappings of role and content; a string is one message of the user.

    The ids with a generation prompt are a prefix of the ids with the assistant's answer appended.

    Args:
        generation_prompt: end with the header of an assistant's message, for a model to go on from.
        tools: what the model may call, for a template that knows of them (`knows_tools`), as OpenAI writes it:
            `{"type": "function", "function": {"name": ..., "description": ..., "parameters": JSON schema}}`.

    Raises DataError where the tokenizer has no chat template, where its template fails, refuses a role, or drops,
    moves or rewrites a message, and where a tool holds the name of a control token.
    """
    if tools:
        return chat_template.render(tokenizer, read_dialog(messages), generation_prompt, tools)
    protocol = llama3_chat if _speaks_llama3(tokenizer) else chat_template
    return protocol.render(tokenizer, read_dialog(messages), generation_prompt)


def knows_tools(tokenizer: Tokenizer) -> bool:
    """Whether the tokenizer's chat template tells a model of tools."""
    return re.search(r"\btools\b", tokenizer.chat_template or "") is not None


def stop_ids(tokenizer: Tokenizer) -> frozenset[int]:
    """Ids at which generation ends: those that the tokenizer's files state and what ends an assistant's message."""
    return tokenizer.keep("stop_ids", lambda: _stop_ids(tokenizer))


def _stop_ids(tokenizer: Tokenizer) -> frozenset[int]:
    if tokenizer.chat_template is None or _speaks_llama3(tokenizer):
        return tokenizer.stop_ids
    try:
        return tokenizer.stop_ids | {chat_template.end_id(tokenizer)}
    except DataError:  # a template with which nothing can be learnt may still serve for generating
        return tokenizer.stop_ids


def _speaks_llama3(tokenizer: Tokenizer) -> bool:
    return tokenizer.is_llama3_chat and tokenizer.chat_template == CHAT_TEMPLATE
