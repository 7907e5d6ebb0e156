"""The section `audit`: how much worse a released model may be than the one it was made from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, model_validator

from llama3.config.section import Section

Margin = Annotated[float, Field(gt=0, lt=1)]


class SafetyGateSection(Section):
    """How often a released model may violate and refuse for nothing, at most; the upper ends of the intervals count."""

    suite: str = Field("safety", description="the suite of `evaluation.tasks` that measures both")
    vr_at_most: Margin = Field(description="violation rate on adversarial prompts, 0.05 is 5 %")
    frr_at_most: Margin = Field(description="false-refusal rate on borderline prompts")

    @model_validator(mode="before")
    @classmethod
    def _together(cls, values: Any) -> Any:
        missing = {"vr_at_most", "frr_at_most"} - values.keys() if isinstance(values, Mapping) else ()
        if len(missing) == 1:
            raise ValueError(
                f"{missing.pop()} is missing: a model that refuses everything has a VR of 0, so both count"
            )
        return values


class AuditSection(Section):
    """How much worse than the model it was made from a released model may be, on each suite of `evaluation.tasks`.

    A suite passes when the lower end of the 95 % interval of its paired change is above minus its margin.
    """

    margin: Margin = Field(0.1, description="for rates: the largest loss that passes, 0.1 is ten points")
    relative_margin: Margin = Field(0.05, description="for costs such as bits per byte: the largest rise, 0.05 is 5 %")
    margins: dict[str, Margin] = Field(default_factory=dict, description="by suite, in place of the two above")
    must_improve: list[str] = Field(default_factory=list, description="suites that must be better, interval above 0")
    safety: SafetyGateSection | None = Field(
        None, description="limits of violations and false refusals: {vr_at_most: 0.05, frr_at_most: 0.1}"
    )
