"""What a model gives answers: their log-probabilities, after their prompts in its chat format. Legend: M targets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from llama3.evaluators import DialogExample, Llama, chunks, pack_answers, score

BATCH = 16
"""Answers scored at once."""


def answer_logps(model: Llama, examples: Sequence[DialogExample], *, with_end: bool) -> Iterator[float]:
    """The log-probability of each answer in nats, with or without the tokens that only end it."""
    with torch.no_grad():
        for part in chunks(examples, BATCH):
            batch = pack_answers([(example.prompt, [example.answer]) for example in part])
            logps_M = score(model.transformer, batch, {"logps"}).logps_M.double()
            if not with_end:
                logps_M = torch.where(batch.per_target["is_format"] == 0, logps_M, 0.0)
            prompt_and_answer = batch.sum_by_segment(logps_M).reshape(-1, 2)
            yield from prompt_and_answer[:, 1].tolist()
