"""Options of the rewards whose modules import torch, apart from them so that checking a config does not."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class RewardModelOptions(BaseModel):
    """Where the reward model lies."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str = Field(description="folder of a checkpoint with a score head and its tokenizer")
    batch_tokens: int = Field(8192, ge=1, description="tokens of one forward")
    device: str = Field("auto", description="where it computes: auto, cpu or cuda; default: where the run does")
