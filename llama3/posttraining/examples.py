"""Dialogs, prompts and answers as tokens: what the examples of every kind of data are made of. Torch-free.

A prompt is everything up to and including the header of an assistant's message, just as generation begins; an answer
is that message's content and its end token. Where a dialog has several, the messages between them stand among the
answers and are no targets. `is_format` marks control tokens among the targets (paper 4.1.4).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from llama3.errors import DataError
from llama3.tokenizer.chat import Message, Rendered, Role, render

if TYPE_CHECKING:
    from llama3.tokenizer import Tokenizer

NO_TARGET = DataError.declare(
    "L3-DLG-001",
    "{what}",
    why="targets are the contents of the assistant's messages",
    fix="let the assistant answer, or drop the dialog",
)
NO_MESSAGES = DataError.declare("L3-DLG-006", "messages must be objects with role and content", why="{error!r}")


@dataclass(frozen=True, slots=True)
class AnswerTokens:
    """Tokens of an answer, or of several with what stands between them, with flags per token."""

    ids: np.ndarray
    is_format: np.ndarray
    is_target: np.ndarray | bool = True


@dataclass(frozen=True, slots=True)
class DialogExample:
    """A prompt and the answer to learn; of several answers, the prompt of the first."""

    prompt: np.ndarray
    answer: AnswerTokens

    @property
    def num_tokens(self) -> int:
        """Of the longest path."""
        return len(self.prompt) + len(self.answer.ids)


def messages_of(messages: Sequence[Mapping[str, Any]], where: str) -> list[Message]:
    """The messages of a row. Raises DataError for what is none."""
    try:
        return [Message(cast(Role, message["role"]), message["content"]) for message in messages]
    except (KeyError, TypeError) as error:
        raise NO_MESSAGES(where, error=error) from None


def dialog_example(tokenizer: Tokenizer, messages: Sequence[Mapping[str, Any]], where: str = "dialog") -> DialogExample:
    """Tokenize a dialog to learn all its answers but those of weight 0; what follows the last is left out.

    Raises DataError when there is nothing to learn, or the chat template does not take the dialog.
    """
    rendered = rendered_dialog(tokenizer, messages, where)
    targets = np.flatnonzero(rendered.is_target)
    if rendered.is_format[targets].all():
        what = "nothing in this dialog is a target" if len(targets) == 0 else "every answer in this dialog is empty"
        raise NO_TARGET(where, what=what)
    start, end = int(targets[0]), int(targets[-1]) + 1
    return DialogExample(rendered.ids[:start], _span(rendered, start, end))


def rendered_dialog(
    tokenizer: Tokenizer,
    messages: Sequence[Mapping[str, Any]],
    where: str = "dialog",
    *,
    generation_prompt: bool = False,
) -> Rendered:
    """A dialog as ids; answers of weight 0 are no targets. Raises DataError where the template does not take it."""
    rendered = _rendered(tokenizer, messages, where, generation_prompt=generation_prompt)
    if all(message.get("weight") != 0 for message in messages):
        return rendered
    ends = [*rendered.message_starts[1:], len(rendered.ids)]
    learnt = np.ones(len(rendered.ids), bool)
    for message, start, end in zip(messages, rendered.message_starts, ends, strict=True):
        learnt[start:end] = message.get("weight") != 0
    return replace(rendered, is_target=rendered.is_target & learnt)


def answer_example(
    tokenizer: Tokenizer, messages: Sequence[Mapping[str, Any]], answer: str, where: str = "answer"
) -> DialogExample:
    """Tokenize a prompt and one answer to it, which alone is the target; it may be empty (but for its end token)."""
    prompt = _rendered(tokenizer, messages, where, generation_prompt=True).ids
    rendered = _rendered(tokenizer, [*messages, {"role": "assistant", "content": answer}], where)
    end = int(np.flatnonzero(rendered.is_target)[-1]) + 1
    return DialogExample(prompt, _span(rendered, len(prompt), end))


def prompt_ids(tokenizer: Tokenizer, messages: Sequence[Mapping[str, Any]], where: str = "prompt") -> np.ndarray:
    """Token ids of a prompt, ending in the header of the assistant's message."""
    return _rendered(tokenizer, messages, where, generation_prompt=True).ids


def _span(rendered: Rendered, start: int, end: int) -> AnswerTokens:
    return AnswerTokens(rendered.ids[start:end], rendered.is_format[start:end], rendered.is_target[start:end])


def _rendered(
    tokenizer: Tokenizer, messages: Sequence[Mapping[str, Any]], where: str, *, generation_prompt: bool = False
) -> Rendered:
    """Raises DataError; its problems name the dialog too."""
    try:
        return render(tokenizer, messages_of(messages, where), generation_prompt=generation_prompt)
    except DataError as error:
        named = (p if p.where == where else replace(p, where=f"{where}, {p.where}") for p in error.problems)
        raise DataError.of(named) from None
