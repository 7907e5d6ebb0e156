"""The section `post_training.retune`: how the mix of dialogs follows from round to round what the model can do."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from llama3.config.section import Section

By = Literal["family", "topic", "difficulty"]


def _family() -> list[By]:
    return ["family"]


class RetuneSection(Section):
    """From the second round on, dialogs are learnt more or less often by what the model of the round before answers of
    the round's own prompts (paper 4.2.2): what it cannot do yet more, what it can less. Within a group the best by
    quality and difficulty are repeated first and dropped last."""

    by: list[By] = Field(
        default_factory=_family,
        min_length=1,
        description="what dialogs are grouped by; topic and difficulty are those of post_training.quality.labeller",
    )
    least: float = Field(0.5, ge=0, le=1, description="how often a dialog of a solved group is learnt, at least")
    most: float = Field(2.0, ge=1, le=100, description="how often one of an unsolved group is, at most")

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        if len({*self.by}) < len(self.by):
            raise ValueError("`by` names a column twice")
        return self
