"""Bits per byte of the held-out answers of your own file: does the model now say what your rows say?

The file is one that `post_training.data` takes; its held-out rows are those that training leaves out. Of pairs the best
answer counts, of labels those that are good, of prompts the column `answer`. Only the answer's own tokens are scored,
after the prompt in the model's chat format.
"""

from __future__ import annotations

import math
from pathlib import Path

from llama3.errors import DataError
from llama3.evaluators import (
    Line,
    Result,
    Subject,
    answer_example,
    by_split,
    prompt_digest,
    read_lines,
)
from llama3_plugins.evaluators.answer_logps import answer_logps
from llama3_plugins.evaluators.options import OwnRowsOptions

NO_ANSWER = DataError.declare(
    "L3-EVL-040",
    "no held-out row has an answer",
    why="one prompt in ten is held out",
    fix='add rows, or write "split": "held_out" into some',
)


class AnswerBits:
    """Result: `bits_per_byte`, `rows` and `bytes`; one sample per row, whose score is its bits and whose weight is its
    bytes."""

    def __init__(self, options: OwnRowsOptions) -> None:
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
        bits = [-logp / math.log(2) for logp in answer_logps(subject.model, examples, with_end=False)]
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
