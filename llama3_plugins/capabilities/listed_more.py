"""More of the built-in capability recipes: tools, long context, languages, steerability."""

from __future__ import annotations

from llama3.plugins import CapabilitySpec

HERE = "llama3_plugins.capabilities"
MORE = (
    CapabilitySpec(
        name="long_context",
        factory=f"{HERE}.long_context:LongContext",
        options=f"{HERE}.options_more:LongContextOptions",
        summary="questions, summaries and repositories that only who reads all of a long text can answer",
        share=0.001,
    ),
    CapabilitySpec(
        name="multilinguality",
        factory=f"{HERE}.multilinguality:Multilinguality",
        options=f"{HERE}.options_more:MultilingualityOptions",
        summary="questions and translated tasks, answered in the language and the script of the prompt",
        last_differs=True,
    ),
    CapabilitySpec(
        name="steerability",
        factory=f"{HERE}.steerability:Steerability",
        options=f"{HERE}.options_more:SteerabilityOptions",
        summary="rules of a system prompt that hold in every turn of a dialog",
    ),
    CapabilitySpec(
        name="tool_use",
        factory=f"{HERE}.tool_use:ToolUse",
        options=f"{HERE}.options_more:ToolUseOptions",
        summary="calls that ran in the sandbox and led to the right answer, and questions that need none",
    ),
)
