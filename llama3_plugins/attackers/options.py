"""Options of the built-in attackers. Torch-free."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class TemplatesOptions(BaseModel):
    """How attacks are written."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    shots: int = Field(8, ge=1, le=256, description="demonstrations of the style many_shot")


class ModelAttackerOptions(BaseModel):
    """Which model writes, and how."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str = Field(description="a model on this machine, or a server such as http://127.0.0.1:8000/v1")
    served: str | None = Field(None, description="name of the model of a server (default: the first that it lists)")
    temperature: float = Field(0.9, ge=0, description="how freely it writes")
    max_tokens: int = Field(160, ge=1, description="longest request that it writes, in tokens")
    device: str = Field("auto", description="where a model on this machine computes: auto, cpu or cuda")
    shots: int = Field(8, ge=1, le=256, description="demonstrations of the style many_shot")
