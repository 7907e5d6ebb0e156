"""What a model answers: the greedy continuation of a dialog, rendered in the model's own chat format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

from llama3.evaluation.evaluator import Subject
from llama3.inference.sampling import Sampling
from llama3.tokenizer.chat import Message, Role, render, stop_ids


def answers(subject: Subject, prompts: Sequence[str], max_tokens: int | None = None) -> list[str]:
    """The model's answers to single user messages; see `replies`."""
    return replies(subject, [[{"role": "user", "content": prompt}] for prompt in prompts], max_tokens)


def replies(
    subject: Subject, dialogs: Sequence[Sequence[Mapping[str, str]]], max_tokens: int | None = None
) -> list[str]:
    """The model's greedy answers in order, without control tokens, of at most `max_tokens` tokens each (default: the
    subject's)."""
    tokenizer = subject.model.tokenizer
    messages = [[Message(cast(Role, row["role"]), row["content"]) for row in dialog] for dialog in dialogs]
    rendered = [render(tokenizer, dialog, generation_prompt=True).ids for dialog in messages]
    stops = stop_ids(tokenizer)
    sampling = Sampling(max_tokens=max_tokens or subject.max_tokens, temperature=0.0, stop_ids=stops)
    completions = subject.model.engine.generate(rendered, sampling)
    return [tokenizer.decode([i for i in first.ids if i not in stops]) for (first,) in completions]
