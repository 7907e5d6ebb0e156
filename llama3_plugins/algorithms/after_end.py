"""A step more for answers that end: the state after their end token, where TRL's PPO puts the score.

Legend: T tokens, S segments, M targets.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from llama3.algorithms import Batch, FinishReason

AFTER = "is_after_end"


def with_step_after_end(batch: Batch, longest: int) -> Batch:
    """The batch with one target more behind each answer that ended before it had `longest` tokens: its value is that of
    the state after the end token, its token stands for nothing. Column: per_target["is_after_end"]."""
    lengths_S = batch.lengths_S
    ended_S = (batch.per_segment["finish_reason"] == FinishReason.STOP) & (lengths_S < longest)
    starts_S1 = batch.starts_S1.clone()
    starts_S1[1:] += ended_S.cumsum(0).to(starts_S1.dtype)
    place_T = (
        torch.arange(batch.num_tokens, device=lengths_S.device) + (ended_S.cumsum(0) - ended_S.long())[batch.segment_T]
    )
    tokens_T = batch.tokens_T.new_zeros(int(starts_S1[-1]))
    tokens_T[place_T] = batch.tokens_T
    after = starts_S1[1:][ended_S].long() - 1
    targets_M, order_M = torch.cat([place_T[batch.targets_M], after]).sort()
    return dataclasses.replace(
        batch,
        tokens_T=tokens_T,
        starts_S1=starts_S1,
        targets_M=targets_M,
        per_target={
            **{name: _extended(column_M, len(after), order_M) for name, column_M in batch.per_target.items()},
            AFTER: order_M >= batch.num_targets,
        },
    )


def said(batch: Batch) -> Tensor:
    """Which targets are tokens that were said (M,): all but such steps."""
    tokens_M = torch.ones(batch.num_targets, dtype=torch.bool, device=batch.tokens_T.device)
    return tokens_M if AFTER not in batch.per_target else tokens_M & ~batch.per_target[AFTER]


def _extended(column_M: Tensor, more: int, order_M: Tensor) -> Tensor:
    """With zeros at the steps that are new."""
    return torch.cat([column_M, column_M.new_zeros(more, *column_M.shape[1:])])[order_M]
