"""Options of the algorithms, apart from them so that checking a config imports no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class DPOOptions(BaseModel):
    """The paper's values are the defaults."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    beta: float = Field(0.1, gt=0, description="strength of the pull towards the reference")
    nll_weight: float = Field(0.2, ge=0, description="weight of the chosen answer's negative log-likelihood")
    nll_reduction: Literal["sequence_mean", "token_mean"] = Field(
        "sequence_mean",
        description="mean over answers of their means (Pang et al. 2024), or over all their tokens (TRL)",
    )
    mask_format: bool = Field(True, description="leave header and end tokens out of the preference term")
