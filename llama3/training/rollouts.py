"""Answers of the current policy, drawn and rewarded: what the loop does for algorithms that need rollouts.

    [prompt] <- [answer 1] ... [answer n]     one tree per prompt; every token of an answer is a target

Columns of such a batch:

    per_target["sample_logps"]      float32: log-prob of the token when it was drawn
    per_segment["is_answer"]        bool: prompts are the other segments
    per_segment["reward"]           float32, where a reward is needed: 0 for prompts; NaN where none could score it
    per_segment["reward/<name>"]    the same of each reward plugin
    per_segment["finish_reason"]    int64: llama3.inference.FinishReason: 0 stop, 1 length, -1 for prompts

Legend: S segments, N answers, R prompts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from llama3.inference.completion import Completion, Generator
from llama3.inference.sampling import Sampling
from llama3.model.batch import Batch, Segment, Tree
from llama3.training.watch import RolloutWatch

PROMPT = -1
"""Stands for a `FinishReason` in the row of a prompt."""


@dataclass(frozen=True, slots=True)
class Rewards:
    """What a rewarder says of the answers of a batch, in packed order; every column has one number per answer."""

    columns: Mapping[str, Sequence[float]]
    """"reward" and its parts as "reward/<name>"; NaN: cannot be scored."""
    texts: Sequence[tuple[str, str]]
    """Prompt and answer."""


class Rewarder(Protocol):
    """Scores answers with the run's rewards."""

    def score(self, batch: Batch) -> Rewards:
        """Rewards of all answers (segments with targets); the batch has at least one."""
        ...


class Rollouts:
    """Draws answers as `sampling` says and has them scored by the rewarder, if there is one. `watch` keeps the last
    batch for its figures."""

    def __init__(self, generator: Generator, sampling: Sampling, rewarder: Rewarder | None) -> None:
        self._generator, self._rewarder = generator, rewarder
        self.sampling = sampling
        self.watch = RolloutWatch()

    def draw(self, prompts: Batch, samples: int, seed: int, own: float = 1.0) -> Batch:
        """`samples` answers to the root of each tree of `prompts`, whose per_tree columns are kept.

        With `own` below 1 that share of the trees is answered; the others follow as they are, with the columns that
        both have. Which tree is answered depends on the seed and on its number (per_tree["number"]) only.

        All prompts are sampled in one call. Every rank calls it, one without prompts too.
        """
        if own < 1:
            own_R = _chosen(prompts, seed, own)
            drawn = self.draw(prompts.select(own_R), samples, seed)
            return _with_common_columns([drawn, prompts.select(~own_R)])
        segments = prompts.tokens_T.split(prompts.lengths_S.tolist())
        ids_R = [segments[root].tolist() for root in prompts.roots_R.tolist()]
        completions = self._generator.generate(ids_R, replace(self.sampling, n=samples, seed=seed))
        drawn = answers_of(ids_R, completions).to(prompts.tokens_T.device).with_(per_tree=prompts.per_tree)
        rewards = self._rewards(drawn)
        batch = drawn.with_(per_segment={name: _column(drawn, x_N) for name, x_N in rewards.columns.items()})
        self.watch.seen(batch, rewards.texts)
        return batch

    def _rewards(self, drawn: Batch) -> Rewards:
        if self._rewarder is None:
            return Rewards({}, ())
        return self._rewarder.score(drawn) if drawn.num_trees else Rewards({"reward": ()}, ())


def answers_of(prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[Completion]]) -> Batch:
    """Prompts (token ids) with their answers as one forest, on the CPU: the columns above but for the rewards."""
    trees = [
        Tree([Segment(prompt), *(Segment(answer.ids, parent=0, is_target=True) for answer in answers)])
        for prompt, answers in zip(prompts, completions, strict=True)
    ]
    batch = Batch.of_trees(trees)
    flat = [answer for answers in completions for answer in answers]
    is_answer_S = batch.parents_S >= 0
    finish_reason_S = torch.full((batch.num_segments,), PROMPT)
    finish_reason_S[is_answer_S] = torch.tensor([int(answer.finish_reason) for answer in flat], dtype=torch.int64)
    return batch.with_(
        per_target={"sample_logps": torch.tensor([x for answer in flat for x in answer.logps], dtype=torch.float32)},
        per_segment={"is_answer": is_answer_S, "finish_reason": finish_reason_S},
    )


def _chosen(prompts: Batch, seed: int, share: float) -> Tensor:
    """Which trees (a mask) are among so large a share of all."""
    draws = [np.random.default_rng((seed, number)).random() for number in prompts.per_tree["number"].tolist()]
    return torch.tensor(draws, device=prompts.tokens_T.device) < share


def _with_common_columns(batches: Sequence[Batch]) -> Batch:
    """One batch of all trees, with the columns that all have."""

    def common(kind: str) -> list[str]:
        return sorted(set.intersection(*(set(getattr(batch, kind)) for batch in batches)))

    targets, segments, trees = common("per_target"), common("per_segment"), common("per_tree")
    return Batch.concat(
        [
            replace(
                batch,
                per_target={name: batch.per_target[name] for name in targets},
                per_segment={name: batch.per_segment[name] for name in segments},
                per_tree={name: batch.per_tree[name] for name in trees},
            )
            for batch in batches
        ]
    )


def _column(batch: Batch, values_N: Sequence[float]) -> Tensor:
    """Numbers of the answers as a column of all segments."""
    column_S = torch.zeros(batch.num_segments, device=batch.tokens_T.device)
    column_S[batch.per_segment["is_answer"]] = torch.tensor(values_N, dtype=torch.float32, device=column_S.device)
    return column_S
