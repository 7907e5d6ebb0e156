"""Bits per byte of the held-out answers of your own file: does the model now say what your rows say?

The file is one that `post_training.data` takes; its held-out rows are those that training leaves out. Of pairs the best
answer counts, of labels those that are good, of prompts the column `answer`. Only the answer's own tokens are scored,
after the prompt in the model's chat format.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from llama3.errors import DataError
from llama3.evaluators import (
    DialogExample,
    Line,
    Llama,
    Result,
    Subject,
    answer_example,
    by_split,
    chunks,
    pack_answers,
    prompt_digest,
    read_lines,
    score,
)
from llama3_plugins.evaluators.options import AnswerBitsOptions

NO_ANSWER = DataError.declare(
    "L3-EVL-040",
    "no held-out row has an answer",
    why="one prompt in ten is held out",
    fix='add rows, or write "split": "held_out" into some',
)

BATCH = 16
"""Rows scored at once."""


class AnswerBits:
    """Result: `bits_per_byte`, `rows` and `bytes`; one sample per row, whose score is its bits and whose weight is its
    bytes."""

    def __init__(self, options: AnswerBitsOptions) -> None:
        path = Path(options.path)
        lines = by_split(read_lines(path), path)["held_out"]
        self.rows = [(line, answer) for line in lines if (answer := _answer(line)) is not None]
        if not self.rows:
            raise NO_ANSWER(path)

    def run(self, subject: Subject, limit: int, seed: int) -> Result:
        chosen = [
            (answer_example(subject.model.tokenizer, line.row.prompt, answer, f"row {line.number}"), line, answer)
            for line, answer in self.rows[:limit]
        ]
        fitting = [row for row in chosen if row[0].num_tokens <= subject.model.config.max_seq_len]
        examples, rows = [example for example, _, _ in fitting], [(line, answer) for _, line, answer in fitting]
        bits = [nats / math.log(2) for nats in _nats(subject.model, examples)]
        sizes = [len(answer.encode()) for _, answer in rows]
        samples = [
            {"id": f"{prompt_digest(line.row.prompt_text)[:12]}-{line.number}", "answer": answer, "score": score,
             "weight": size}
            for (line, answer), score, size in zip(rows, bits, sizes, strict=True)
        ]  # fmt: skip
        metrics = {"bits_per_byte": math.fsum(bits) / sum(sizes), "rows": len(rows), "bytes": sum(sizes)}
        return Result(metrics, samples, better="lower")


def _answer(line: Line) -> str | None:
    """What a good answer to the row is, if it has one."""
    answers, columns = line.row.answers, line.row.columns
    if answers:
        return None if columns.get("label") is False or columns.get("weight") == 0 else answers[0]
    return None if columns.get("answer") is None else str(columns["answer"])


def _nats(model: Llama, examples: Sequence[DialogExample]) -> Iterator[float]:
    """Negative log-likelihood of each answer, without the tokens that only end it."""
    with torch.no_grad():
        for part in chunks(examples, BATCH):
            batch = pack_answers([(example.prompt, [example.answer]) for example in part])
            logps_M = score(model.transformer, batch, {"logps"}).logps_M.double()
            content_M = batch.per_target["is_format"] == 0
            prompt_and_answer = batch.sum_by_segment(torch.where(content_M, logps_M, 0.0)).reshape(-1, 2)
            yield from (-prompt_and_answer[:, 1]).tolist()
