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
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from llama3.inference.completion import FinishReason
from llama3.model.batch import Batch
from llama3.training.metrics import Sample
from llama3.training.parallel import ParallelContext

SAMPLES = 8
"""Answers told per logged step."""


class RolloutWatch:
    """Sees each rewarded batch on its way to the algorithm, which may go on with a part of it. Keeps the last one."""

    def __init__(self) -> None:
        self._batch: Batch | None = None
        self._texts: Sequence[tuple[str, str]] = ()

    def seen(self, batch: Batch, texts: Sequence[tuple[str, str]]) -> None:
        """A batch with its rewards; `texts` are the prompt and the answer of each of its answers, in packed order."""
        self._batch, self._texts = batch, texts

    def metrics(self, context: ParallelContext) -> dict[str, float]:
        """The figures of the last batch. Every rank calls it, one with an empty batch too."""
        if self._batch is None:
            return {}
        batch, answers = self._batch, _answers(self._batch)
        lengths_N = batch.lengths_S[answers].double()
        ended_N = lengths_N[batch.per_segment["finish_reason"][answers] == FinishReason.STOP]
        rewards = {name: column_S[answers].double() for name, column_S in batch.per_segment.items() if _is_reward(name)}
        mine = {name: _sums(x_N) for name, x_N in {"length": lengths_N, "ended": ended_N, **rewards}.items()}
        flat = {f"{part} {name}": x for name, sums in mine.items() for part, x in asdict(sums).items()}
        totals = context.sum_by_name(flat | _groups(batch))
        names = [name.removeprefix("count ") for name in totals if name.startswith("count ")]
        sums = {name: _Sums(*(totals[f"{part} {name}"] for part in ("count", "total", "squares"))) for name in names}
        lengths, ended = sums.pop("length"), sums.pop("ended")
        if not lengths.count:
            return {}
        least, most = context.reduce(_extremes(lengths_N), "max")
        several = totals.get("groups", 0.0)
        return {
            **(_reward_metrics(sums) if sums else {}),
            **({"frac_reward_zero_std": totals["equal groups"] / several} if several else {}),
            "completions/mean_length": lengths.mean,
            "completions/min_length": -least,
            "completions/max_length": most,
            "completions/mean_terminated_length": ended.mean,
            "completions/clipped_ratio": 1 - ended.count / lengths.count,
        }

    def samples(self) -> list[Sample]:
        """Up to SAMPLES of this rank's answers, evenly spread over the batch."""
        if self._batch is None or not self._texts:
            return []
        batch, answers = self._batch, _answers(self._batch)
        chosen = torch.linspace(0, len(answers) - 1, min(SAMPLES, len(answers))).long().tolist()
        rewards = {name: column_S for name, column_S in batch.per_segment.items() if _is_reward(name)}
        reason_S = batch.per_segment["finish_reason"]
        return [
            {
                "prompt": self._texts[index][0],
                "answer": self._texts[index][1],
                **{name: _known(float(column_S[answers[index]])) for name, column_S in rewards.items()},
                "length": int(batch.lengths_S[answers[index]]),
                "finish_reason": FinishReason(int(reason_S[answers[index]])).label,
            }
            for index in chosen
        ]


@dataclass(frozen=True, slots=True)
class _Sums:
    """What mean and deviation are made of, over the numbers that are known."""

    count: float
    total: float
    squares: float

    @property
    def mean(self) -> float:
        return self.total / self.count if self.count else math.nan

    @property
    def std(self) -> float:
        """Unbiased; 0 for a single number."""
        if not self.count:
            return math.nan
        return math.sqrt(max(self.squares - self.total**2 / self.count, 0.0) / max(self.count - 1, 1.0))


def _answers(batch: Batch) -> Tensor:
    """Indices of the answers."""
    return batch.per_segment["is_answer"].nonzero().squeeze(-1)


def _is_reward(column: str) -> bool:
    return column == "reward" or column.startswith("reward/")


def _sums(x_N: Tensor) -> _Sums:
    """Of what is not NaN."""
    x_N = x_N[~x_N.isnan()]
    return _Sums(float(len(x_N)), float(x_N.sum()), float((x_N**2).sum()))


def _extremes(x_N: Tensor) -> list[float]:
    """Minus the least, and the greatest: what "max" reduces to both."""
    return [-float(x_N.min()), float(x_N.max())] if len(x_N) else [-math.inf, -math.inf]


def _groups(batch: Batch) -> dict[str, float]:
    """How many prompts have several known rewards, and how many of these have only one value."""
    reward_S = batch.per_segment.get("reward")
    if reward_S is None:
        return {}
    known = (batch.per_segment["is_answer"] & ~reward_S.isnan()).nonzero().squeeze(-1)
    tree_N, reward_N = batch.tree_S[known], reward_S[known]
    counts_R = torch.bincount(tree_N, minlength=batch.num_trees)
    least_R, most_R = (
        reward_N.new_zeros(batch.num_trees).scatter_reduce(0, tree_N, reward_N, how, include_self=False)
        for how in ("amin", "amax")
    )
    several_R = counts_R > 1
    return {"groups": float(several_R.sum()), "equal groups": float((several_R & (least_R == most_R)).sum())}


def _reward_metrics(sums: Mapping[str, _Sums]) -> dict[str, float]:
    metrics = {"reward": sums["reward"].mean, "reward_std": sums["reward"].std}
    parts = {name.removeprefix("reward/"): row for name, row in sums.items() if name != "reward"}
    if len(parts) > 1:
        for name, row in parts.items():
            metrics |= {f"rewards/{name}/mean": row.mean, f"rewards/{name}/std": row.std}
    return metrics


def _known(reward: float) -> float | None:
    return None if math.isnan(reward) else reward
