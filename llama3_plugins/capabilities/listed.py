"""The built-in capability recipes."""

from __future__ import annotations

from llama3.plugins import CapabilitySpec

HERE = "llama3_plugins.capabilities"
CAPABILITIES = (
    CapabilitySpec(
        name="math_steps",
        factory=f"{HERE}.math_steps:MathSteps",
        options=f"{HERE}.options:MathStepsOptions",
        summary="chains of thought with the right result, each step of which the judge finds right",
        needs=frozenset({"tasks"}),
    ),
)
