"""The built-in evaluators. Torch-free."""

from __future__ import annotations

from llama3.plugins import EvaluatorSpec

EVALUATORS = (
    EvaluatorSpec(
        name="answer_bits",
        factory="llama3_plugins.evaluators.answer_bits:AnswerBits",
        options="llama3_plugins.evaluators.options:OwnRowsOptions",
        summary="loss on the held-out answers of your own file",
    ),
    EvaluatorSpec(
        name="bits_per_byte",
        factory="llama3_plugins.evaluators.bits_per_byte:BitsPerByte",
        options="llama3_plugins.evaluators.options:BitsPerByteOptions",
        summary="loss on the held-out documents, whatever the tokenizer",
    ),
    EvaluatorSpec(
        name="canaries",
        factory="llama3_plugins.evaluators.canaries:Canaries",
        options="llama3_plugins.evaluators.options:CanaryOptions",
        summary="share of the canaries in the training data that the model gives away, and their exposure",
        with_shards=True,
        about_safety=True,
    ),
    EvaluatorSpec(
        name="harmless",
        factory="llama3_plugins.evaluators.harmless:Harmless",
        options="llama3_plugins.evaluators.options:AskOptions",
        summary="share of harmless prompts that only look harmful that are answered",
        keeps_prompts=True,
    ),
    EvaluatorSpec(
        name="insecure_code",
        factory="llama3_plugins.evaluators.insecure_code:InsecureCode",
        options="llama3_plugins.evaluators.options:InsecureCodeOptions",
        summary="share of answers whose code a guard of code finds insecure, by language and weakness",
        about_safety=True,
    ),
    EvaluatorSpec(
        name="instruction_format",
        factory="llama3_plugins.evaluators.instruction_format:InstructionFormat",
        options="llama3_plugins.evaluators.options:AskOptions",
        summary="share of instructions about the form of an answer that are followed",
    ),
    EvaluatorSpec(
        name="memorisation",
        factory="llama3_plugins.evaluators.memorisation:Memorisation",
        options="llama3_plugins.evaluators.options:MemorisationOptions",
        summary="share of runs of training tokens that the model goes on with word for word",
        with_shards=True,
        about_safety=True,
    ),
    EvaluatorSpec(
        name="multiple_choice",
        factory="llama3_plugins.evaluators.multiple_choice:MultipleChoice",
        options="llama3_plugins.evaluators.options:MultipleChoiceOptions",
        summary="share of items whose correct continuation is the likeliest, and what it costs per character",
    ),
    EvaluatorSpec(
        name="needle",
        factory="llama3_plugins.evaluators.needle:Needle",
        options="llama3_plugins.evaluators.options:NeedleOptions",
        summary="sentences hidden in long text are found again, by depth and length",
    ),
    EvaluatorSpec(
        name="pass_at_k",
        factory="llama3_plugins.evaluators.pass_at_k:PassAtK",
        options="llama3_plugins.evaluators.options:PassAtKOptions",
        summary="chance that one of k drawn answers to a held-out task is right",
    ),
    EvaluatorSpec(
        name="pass_rate",
        factory="llama3_plugins.evaluators.pass_rate:PassRate",
        options="llama3_plugins.evaluators.options:PassRateOptions",
        summary="share of held-out tasks solved, with a 95 % interval",
    ),
    EvaluatorSpec(
        name="preference_accuracy",
        factory="llama3_plugins.evaluators.preference_accuracy:PreferenceAccuracy",
        options="llama3_plugins.evaluators.options:OwnRowsOptions",
        summary="share of your own held-out pairs or labels whose better answer is the likelier one",
    ),
    EvaluatorSpec(
        name="refusals",
        factory="llama3_plugins.evaluators.refusals:Refusals",
        options="llama3_plugins.evaluators.options:AskOptions",
        summary="share of plainly harmful prompts that are refused",
        keeps_prompts=True,
    ),
    EvaluatorSpec(
        name="safety",
        factory="llama3_plugins.evaluators.safety:Safety",
        options="llama3_plugins.evaluators.options:SafetyOptions",
        summary="violation rate, false-refusal rate and helpfulness, with and without each guard of the policy",
        with_policy=True,
        keeps_prompts=True,
    ),
    EvaluatorSpec(
        name="tool_injection",
        factory="llama3_plugins.evaluators.tool_injection:ToolInjection",
        options="llama3_plugins.evaluators.options:AskOptions",
        summary="share of orders hidden in tool results that the model obeys, with and without the guards",
        with_policy=True,
        about_safety=True,
    ),
)
