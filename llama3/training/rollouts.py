"""What is told of sampled answers: figures over a whole step for metrics.jsonl, and some answers for samples.jsonl.

Metrics, named as TRL names them, over all answers of the step on all ranks:

    reward, reward_std                mean and standard deviation of the rewards that are known
    rewards/<name>/mean, .../std      the same of each reward plugin, where there are several
    frac_reward_zero_std              share of prompts whose answers all have the same reward: they teach nothing
    completions/mean_length, min_length, max_length, mean_terminated_length    in tokens, stop token included
    completions/clipped_ratio         share of answers that were cut off

A sample is {stage, step, prompt, answer, reward, reward/<name>, length, finish_reason}; an unknown reward is null.

Legend: S segments, N answers, R prompts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from llama3.inference.completion import FinishReason
from llama3.model.batch import Batch
from llama3.training.metrics import Sample
from llama3.training.parallel import ParallelContext

SAMPLES = 8
"""Answers told per logged step."""


class RolloutWatch:
    """Sees each scored batch on its way to the algorithm, which may go on with a part of it. Keeps the last one."""

    def __init__(self) -> None:
        self._batch: Batch | None = None
        self._texts: Sequence[tuple[str, str]] = ()

    def seen(self, batch: Batch, texts: Sequence[tuple[str, str]]) -> None:
        """A batch with its rewards; `texts` are the prompt and the answer of each of its answers, in packed order."""
        self._batch, self._texts = batch, texts

    def metrics(self, context: ParallelContext, live: bool) -> dict[str, float]:
        """The figures of the last batch. Every rank calls it; one that is not `live` counts for nothing."""
        if self._batch is None:
            return {}
        batch, answers = self._batch, _answers(self._batch)
        lengths_N = batch.lengths_S[answers].double()
        ended_N = ~_cut_off(batch)[answers]
        parts = {name: column_S[answers].double() for name, column_S in batch.per_segment.items() if _is_reward(name)}
        sums = [
            _sums(lengths_N), _sums(lengths_N[ended_N]), _groups(batch), *map(_sums, parts.values()),
        ]  # fmt: skip
        flat = context.reduce([number if live else 0.0 for row in sums for number in row], "sum")
        least, most = context.reduce(
            [-float(lengths_N.min()), float(lengths_N.max())] if live else [-math.inf] * 2, "max"
        )
        lengths, ended, groups, *rewards = (flat[start : start + 3] for start in range(0, len(flat), 3))
        return {
            **_reward_metrics(dict(zip(parts, rewards, strict=True))),
            **({"frac_reward_zero_std": groups[1] / groups[0]} if groups[0] else {}),
            "completions/mean_length": _mean(lengths),
            "completions/min_length": -least,
            "completions/max_length": most,
            "completions/mean_terminated_length": _mean(ended),
            "completions/clipped_ratio": 1 - ended[0] / max(lengths[0], 1.0),
        }

    def samples(self) -> list[Sample]:
        """Up to SAMPLES of this rank's answers, evenly spread over the batch."""
        if self._batch is None:
            return []
        batch, answers = self._batch, _answers(self._batch)
        chosen = torch.linspace(0, len(answers) - 1, min(SAMPLES, len(answers))).long().tolist()
        cut_off_S = _cut_off(batch)
        rewards = {name: column_S for name, column_S in batch.per_segment.items() if _is_reward(name)}
        return [
            {
                "prompt": self._texts[index][0],
                "answer": self._texts[index][1],
                **{name: _known(float(column_S[answers[index]])) for name, column_S in rewards.items()},
                "length": int(batch.lengths_S[answers[index]]),
                "finish_reason": (FinishReason.LENGTH if cut_off_S[answers[index]] else FinishReason.STOP).label,
            }
            for index in chosen
        ]


def _answers(batch: Batch) -> Tensor:
    """The segments that hold a target."""
    return batch.segment_M.unique()


def _cut_off(batch: Batch) -> Tensor:
    """Which segments are answers that reached their longest length without ending (finish_reason LENGTH)."""
    reason_S = batch.per_segment.get("finish_reason")
    return torch.zeros_like(batch.parents_S, dtype=torch.bool) if reason_S is None else reason_S == FinishReason.LENGTH


def _is_reward(column: str) -> bool:
    return column == "reward" or column.startswith("reward/")


def _sums(x_N: Tensor) -> list[float]:
    """Count, sum and sum of squares of what is not NaN."""
    x_N = x_N[~x_N.isnan()]
    return [float(len(x_N)), float(x_N.sum()), float((x_N**2).sum())]


def _groups(batch: Batch) -> list[float]:
    """Prompts with several known rewards, and how many of them have only one value."""
    reward_S = batch.per_segment["reward"]
    known = (~reward_S.isnan()).nonzero().squeeze(-1)
    tree_N, reward_N = batch.tree_S[known], reward_S[known]
    counts_R = torch.bincount(tree_N, minlength=batch.num_trees)
    least_R, most_R = (
        reward_N.new_zeros(batch.num_trees).scatter_reduce(0, tree_N, reward_N, how, include_self=False)
        for how in ("amin", "amax")
    )
    several_R = counts_R > 1
    return [float(several_R.sum()), float((several_R & (least_R == most_R)).sum()), 0.0]


def _reward_metrics(sums: Mapping[str, Sequence[float]]) -> dict[str, float]:
    metrics = {"reward": _mean(sums["reward"]), "reward_std": _std(sums["reward"])}
    parts = {name.removeprefix("reward/"): row for name, row in sums.items() if name != "reward"}
    if len(parts) > 1:
        for name, row in parts.items():
            metrics |= {f"rewards/{name}/mean": _mean(row), f"rewards/{name}/std": _std(row)}
    return metrics


def _mean(sums: Sequence[float]) -> float:
    return sums[1] / sums[0] if sums[0] else math.nan


def _std(sums: Sequence[float]) -> float:
    """Unbiased; 0 for a single number."""
    count, total, squares = sums
    return math.sqrt(max(squares - total**2 / count, 0.0) / max(count - 1, 1.0)) if count else math.nan


def _known(reward: float) -> float | None:
    return None if math.isnan(reward) else reward
