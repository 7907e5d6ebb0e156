"""Is the better one of two answers the likelier one? On the held-out pairs or labels of your own file.

The implicit preference of a model alone, without a reference: log pi(better | x) > log pi(worse | x), of whole answers
and the tokens that end them. Labelled answers stand in rows of their own, with other prompts and lengths, so they are
compared by their log-probabilities per token.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llama3.errors import DataError
from llama3.evaluators import (
    Asked,
    DialogExample,
    Llama,
    Result,
    Subject,
    answer_example,
    answer_pairs,
    by_split,
    prompt_digest,
    read_lines,
)
from llama3_plugins.evaluators.answer_logps import answer_logps
from llama3_plugins.evaluators.options import OwnRowsOptions

NO_PAIR = DataError.declare(
    "L3-EVL-041",
    "no held-out rows say which of two answers is better",
    why="one prompt in ten is held out",
    fix='give pairs or labels of both kinds, or write "split": "held_out" into some',
)


class PreferenceAccuracy:
    """Result: `accuracy`, the share of pairs whose better answer is the likelier one; `accuracy_per_token`, the same of
    log-probabilities per token; `pairs`. One sample per pair, whose score is 1 where the better answer is likelier."""

    def __init__(self, options: OwnRowsOptions) -> None:
        path = Path(options.path)
        self.pairs = answer_pairs(by_split(read_lines(path), path)["held_out"])
        if not self.pairs:
            raise NO_PAIR(path)

    def run(self, subject: Subject, limit: int, seed: int) -> Result:
        model = subject.model
        tokenized = [(pair, [_example(model, asked) for asked in pair]) for pair in self.pairs[:limit]]
        longest = model.config.max_seq_len
        fitting = [(pair, two) for pair, two in tokenized if max(answer.num_tokens for answer in two) <= longest]
        examples = [example for _, two in fitting for example in two]
        logps = list(answer_logps(model, examples, with_end=True))
        lengths = [len(example.answer.ids) for example in examples]
        samples = [
            _sample(*pair, logps[2 * i : 2 * i + 2], lengths[2 * i : 2 * i + 2]) for i, (pair, _) in enumerate(fitting)
        ]
        metrics = {
            "accuracy": statistics.fmean(row["score"] for row in samples),
            "accuracy_per_token": statistics.fmean(row["score_per_token"] for row in samples),
            "pairs": len(samples),
        }
        return Result(metrics, samples)


def _example(model: Llama, asked: Asked) -> DialogExample:
    return answer_example(model.tokenizer, asked.line.row.prompt, asked.answer, f"row {asked.line.number}")


def _sample(better: Asked, worse: Asked, logps: Sequence[float], lengths: Sequence[int]) -> dict[str, Any]:
    """Of log-probabilities and numbers of tokens, the better answer's first. Where both answers are to one prompt,
    `answer` is the likelier one."""
    one_prompt = better.line is worse.line
    whole, per_token = logps[0] > logps[1], logps[0] / lengths[0] > logps[1] / lengths[1]
    right = whole if one_prompt else per_token
    prompt = better.line.row.prompt_text
    row = {
        "id": f"{prompt_digest(prompt)[:12]}-{better.line.number}",
        "prompt": prompt,
        "reference": better.answer,
        "score": float(right),
        "score_per_token": float(per_token),
        "logps": list(logps),
    }
    return row | ({"answer": (better if right else worse).answer} if one_prompt else {})
