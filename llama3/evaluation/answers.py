"""What a model answers to dialogs, rendered in its own chat format: greedily, or drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, cast

from llama3.evaluation.evaluator import Subject
from llama3.inference.sampling import Sampling
from llama3.tokenizer.chat import Message, Role, render, stop_ids

if TYPE_CHECKING:
    import numpy as np

    from llama3.inference.llama import Llama


def answers(subject: Subject, prompts: Sequence[str], max_tokens: int | None = None) -> list[str]:
    """The model's answers to single user messages; see `replies`."""
    return replies(subject, [[{"role": "user", "content": prompt}] for prompt in prompts], max_tokens)


def replies(
    subject: Subject, dialogs: Sequence[Sequence[Mapping[str, str]]], max_tokens: int | None = None
) -> list[str]:
    """The model's greedy answers in order; see `drawn`."""
    return [first for (first,) in drawn(subject, dialogs, max_tokens=max_tokens, temperature=0.0)]


def have_room(subject: Subject, dialogs: Sequence[Sequence[Mapping[str, str]]]) -> list[bool]:
    """Whether each dialog fits into the model's context with a token to answer: one that does not is never asked, and
    its answer is empty."""
    return [len(ids) < subject.model.engine.pool.max_tokens for ids in _rendered(subject.model, dialogs)]


def drawn(
    subject: Subject,
    dialogs: Sequence[Sequence[Mapping[str, str]]],
    *,
    max_tokens: int | None,
    temperature: float,
    samples: int = 1,
    seed: int = 0,
) -> list[list[str]]:
    """`drawn_of` the subject's model, of at most `max_tokens` tokens each (default: the subject's)."""
    longest = max_tokens or subject.max_tokens
    return drawn_of(subject.model, dialogs, max_tokens=longest, temperature=temperature, samples=samples, seed=seed)


def drawn_of(
    model: Llama,
    dialogs: Sequence[Sequence[Mapping[str, str]]],
    *,
    max_tokens: int,
    temperature: float,
    samples: int = 1,
    seed: int = 0,
) -> list[list[str]]:
    """`samples` answers to each dialog in order, without control tokens, of at most `max_tokens` tokens each."""
    tokenizer = model.tokenizer
    rendered = _rendered(model, dialogs)
    stops = stop_ids(tokenizer)
    sampling = Sampling(max_tokens=max_tokens, temperature=temperature, n=samples, seed=seed, stop_ids=stops)
    # A prompt that leaves less room has a shorter answer, or none: it fails like any wrong one.
    limit = model.engine.pool.max_tokens
    fit = [len(ids) + max_tokens <= limit for ids in rendered]
    whole = iter(model.engine.generate([ids for ids, fits in zip(rendered, fit, strict=True) if fits], sampling))
    texts = []
    for ids, fits in zip(rendered, fit, strict=True):
        if fits:
            row = next(whole)
        elif len(ids) < limit:
            (row,) = model.engine.generate([ids], replace(sampling, max_tokens=limit - len(ids)))
        else:
            row = []
        said = [tokenizer.decode([i for i in one.ids if i not in stops]) for one in row]
        texts.append(said or [""] * samples)
    return texts


def _rendered(model: Llama, dialogs: Sequence[Sequence[Mapping[str, str]]]) -> list[np.ndarray]:
    messages = [[Message(cast(Role, row["role"]), row["content"]) for row in dialog] for dialog in dialogs]
    return [render(model.tokenizer, dialog, generation_prompt=True).ids.tolist() for dialog in messages]
