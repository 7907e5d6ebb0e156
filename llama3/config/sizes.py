"""The section `sizes`: models of several sizes from one recipe, and what they learn from each other."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from llama3.config.section import Section


class PruneSection(Section):
    """The smaller model that is cut out of another size's base, to be trained on. What is not given stays."""

    of: str = Field(description="the size whose base is pruned")
    n_layers: int | None = Field(None, ge=1, description="transformer blocks that are kept, evenly spaced")
    dim: int | None = Field(
        None, ge=8, description="channels of the residual stream that are kept, those of large weights"
    )
    ffn_dim: int | None = Field(
        None, ge=8, description="hidden units of each SwiGLU that are kept, those of large weights"
    )


class SizeSection(Section):
    """One size: what of the recipe is other for it, section by section, and whom it learns from."""

    teacher: str | None = Field(None, description="the size whose verified answers it learns where its own all fail")
    judge: str | None = Field(None, description="the size whose reward model joins the rewards of its answers")
    control: bool = Field(
        False,
        description="raise it a second time without its teacher on as many examples, to measure what that is worth",
    )
    prune: PruneSection | None = Field(None, description="begin with a smaller copy of another size's base")
    model: dict[str, Any] = Field(default_factory=dict, description="what is other in `model`")
    pretrain: dict[str, Any] = Field(default_factory=dict, description="what is other in `pretrain`")
    post_training: dict[str, Any] = Field(default_factory=dict, description="what is other in `post_training`")
    audit: dict[str, Any] = Field(default_factory=dict, description="what is other in `audit`")
    release: dict[str, Any] = Field(default_factory=dict, description="what is other in `release`")

    @model_validator(mode="after")
    def _control_of_a_teacher(self) -> SizeSection:
        if self.control and self.teacher is None:
            raise ValueError("`control` measures what a teacher is worth: name one, or take it out")
        return self

    @property
    def overrides(self) -> dict[str, dict[str, Any]]:
        """What is laid over the sections of the whole config."""
        names = ("model", "pretrain", "post_training", "audit", "release")
        return {name: getattr(self, name) for name in names if getattr(self, name)}

    @property
    def after(self) -> set[str]:
        """The sizes that must be raised before."""
        return {name for name in (self.teacher, self.judge, self.prune and self.prune.of) if name}
