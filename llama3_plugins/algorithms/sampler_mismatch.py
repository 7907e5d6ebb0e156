"""What a sampler that computes in another precision than the policy draws from another distribution, and how an update
is corrected for it.

Legend: M targets (answer tokens).
"""

from __future__ import annotations

import torch
from torch import Tensor

from llama3.algorithms import Batch, Sampling
from llama3.errors import ConfigError
from llama3_plugins.algorithms.options import SamplerCorrection

NOT_COMPARABLE = ConfigError.declare(
    "L3-ALG-001",
    "sampler_correction compares policy and sampler, and answers are drawn at temperature {temperature}, top_p {top_p}",
    why="log-probs of the sampler are those of the whole distribution at temperature 1",
    fix="set both to 1.0 under post_training.prefer, or leave sampler_correction out",
)


def require_comparable(sampling: Sampling) -> None:
    """Raises ConfigError where the sampler's log-probs are those of another distribution than it drew from."""
    if sampling.temperature != 1 or sampling.top_p != 1:
        raise NOT_COMPARABLE("algorithm", temperature=sampling.temperature, top_p=sampling.top_p)


def correction(batch: Batch, gap_M: Tensor, how: SamplerCorrection, cap: float) -> Tensor:
    """Weight (M,) of each token: pi_old / pi_sampler, of itself or of its whole answer (the product over its tokens).

    truncate: at most `cap` (truncated importance sampling, Espeholt et al. 2018, arXiv 1802.01561, section 4.1)
    mask: 0 where it is above `cap`
    """
    level, _, kind = how.partition("_")
    if level == "sequence":
        gap_M = batch.sum_by_segment(gap_M)[batch.segment_M]
    ratio_M = gap_M.exp()
    return ratio_M.clamp(max=cap) if kind == "truncate" else torch.where(ratio_M > cap, 0.0, ratio_M)
