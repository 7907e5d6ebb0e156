"""The clipped step of PPO, for every algorithm that makes it.

Legend: M targets (answer tokens).
"""

from __future__ import annotations

import torch
from torch import Tensor

from llama3_plugins.algorithms.options import Clips


def clipped_policy(advantages_M: Tensor, ratio_M: Tensor, clips: Clips) -> Tensor:
    """-min(A * rho, A * clip(rho, 1 - low, 1 + high)) of each token (Schulman et al. 2017, equation 7).

    With `clips.dual` the ratio of a bad token counts up to that (Ye et al. 2019, arXiv 1912.09729, equation 5; TRL's
    `delta`): without it the loss of a token that the policy has come to prefer grows without bound.
    """
    near_M = ratio_M.clamp(1 - clips.low, 1 + clips.high)
    free_M = ratio_M if clips.dual is None else ratio_M.clamp(max=clips.dual)
    return -torch.minimum(advantages_M * free_M, advantages_M * near_M)


def clipped_fraction(advantages_M: Tensor, ratio_M: Tensor, clips: Clips) -> dict[str, Tensor]:
    """Which tokens are held back below and above (TRL's names), 1 or 0."""
    low_M = (ratio_M < 1 - clips.low) & (advantages_M < 0)
    high_M = (ratio_M > 1 + clips.high) & (advantages_M > 0)
    return {
        "clip_ratio/low_mean": low_M.float(),
        "clip_ratio/high_mean": high_M.float(),
        "clip_ratio/region_mean": (low_M | high_M).float(),
    }
