"""The built-in capability recipes."""

from __future__ import annotations

from llama3.plugins import CapabilitySpec

HERE = "llama3_plugins.capabilities"
CAPABILITIES = (
    CapabilitySpec(
        name="code_backtranslation",
        factory=f"{HERE}.code_backtranslation:CodeBacktranslation",
        options=f"{HERE}.options:CodeBacktranslationOptions",
        summary="explanations of code from which a program that does the same was written",
        needs=frozenset({"documents"}),
    ),
    CapabilitySpec(
        name="code_feedback",
        factory=f"{HERE}.code_feedback:CodeFeedback",
        options=f"{HERE}.options:CodeFeedbackOptions",
        summary="programs that pass checks and tests in the sandbox, corrected by what was seen there",
        needs=frozenset({"documents"}),
    ),
    CapabilitySpec(
        name="code_judged",
        factory=f"{HERE}.code_judged:CodeJudged",
        options=f"{HERE}.options:CodeJudgedOptions",
        summary="answers about code with both points of a judge: correct, and good style",
        needs=frozenset({"documents"}),
    ),
    CapabilitySpec(
        name="code_translation",
        factory=f"{HERE}.code_translation:CodeTranslation",
        options=f"{HERE}.options:CodeTranslationOptions",
        summary="Python functions in other languages, proved by running the way back",
        needs=frozenset({"documents"}),
    ),
    CapabilitySpec(
        name="factuality",
        factory=f"{HERE}.factuality:Factuality",
        options=f"{HERE}.options:FactualityOptions",
        summary="refusals where the model is sure and wrong, its own answers where it knows",
        needs=frozenset({"documents"}),
    ),
    CapabilitySpec(
        name="long_context",
        factory=f"{HERE}.long_context:LongContext",
        options=f"{HERE}.options:LongContextOptions",
        summary="questions, summaries and repositories that only who reads all of a long text can answer",
        share=0.001,
    ),
    CapabilitySpec(
        name="math_corrections",
        factory=f"{HERE}.math_corrections:MathCorrections",
        options=f"{HERE}.options:MathCorrectionsOptions",
        summary="own wrong chains of thought, mended",
        needs=frozenset({"tasks"}),
    ),
    CapabilitySpec(
        name="math_python",
        factory=f"{HERE}.math_python:MathPython",
        options=f"{HERE}.options:MathPythonOptions",
        summary="chains of words and Python, which is run, with the right result",
        needs=frozenset({"tasks"}),
    ),
    CapabilitySpec(
        name="math_search",
        factory=f"{HERE}.math_search:MathSearch",
        options=f"{HERE}.options:MathSearchOptions",
        summary="tree search over steps for tasks that plain answers fail at",
        needs=frozenset({"tasks"}),
    ),
    CapabilitySpec(
        name="math_step_pairs",
        factory=f"{HERE}.math_step_pairs:MathStepPairs",
        options=f"{HERE}.options:StepPairsOptions",
        summary="pairs of steps by the share of chains that end right, for a reward model",
        needs=frozenset({"tasks"}),
    ),
    CapabilitySpec(
        name="math_steps",
        factory=f"{HERE}.math_steps:MathSteps",
        options=f"{HERE}.options:MathStepsOptions",
        summary="chains of thought with the right result, each step of which the judge finds right",
        needs=frozenset({"tasks"}),
    ),
    CapabilitySpec(
        name="multilinguality",
        factory=f"{HERE}.multilinguality:Multilinguality",
        options=f"{HERE}.options:MultilingualityOptions",
        summary="questions and translated tasks, answered in the language and the script of the prompt",
        last_differs=True,
    ),
    CapabilitySpec(
        name="steerability",
        factory=f"{HERE}.steerability:Steerability",
        options=f"{HERE}.options:SteerabilityOptions",
        summary="rules of a system prompt that hold in every turn of a dialog",
    ),
    CapabilitySpec(
        name="tool_use",
        factory=f"{HERE}.tool_use:ToolUse",
        options=f"{HERE}.options:ToolUseOptions",
        summary="calls that ran in the sandbox and led to the right answer, and questions that need none",
    ),
)
