"""What a model answers to single prompts: the greedy continuation of a chat with one user message."""

from __future__ import annotations

from collections.abc import Sequence

from llama3.evaluation.evaluator import Subject
from llama3.inference.sampling import Sampling
from llama3.tokenizer.chat import Message, render


def answers(subject: Subject, prompts: Sequence[str]) -> list[str]:
    """The model's greedy answers in order, without control tokens, of at most `subject.max_tokens` tokens each."""
    tokenizer = subject.model.tokenizer
    rendered = [render(tokenizer, [Message("user", prompt)], generation_prompt=True).ids for prompt in prompts]
    stops = frozenset(tokenizer.stop_ids)
    sampling = Sampling(max_tokens=subject.max_tokens, temperature=0.0, stop_ids=stops)
    completions = subject.model.engine.generate(rendered, sampling)
    return [tokenizer.decode([i for i in first.ids if i not in stops]) for (first,) in completions]
