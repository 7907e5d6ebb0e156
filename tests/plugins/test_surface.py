"""The public surface of plugin authors: one thin module per family, listed here name by name.

A name that goes breaks plugins that are out there: it goes only with a new version of the protocols. The built-in
plugins live on the same surface, so that it cannot be too small.
"""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from llama3.plugins.registry import FAMILIES

ROOT = Path(__file__).parents[2]
SURFACE = {
    "algorithms": """
        Algorithm Batch FinishReason Plan Sampling Scored Scorer Segment Services Stats Term Tree ValueModel
        gae group_advantages kl_estimate last_M pack_answers pack_rankings score whiten
    """,
    "attackers": """
        CARRIERS DISGUISES Attack AttackRequest Attacker Carrier Llama SafetyPrompt ServedChat Turn Wording bare
        disguised drawn_of judge load parse_prompts plant read_prompts
    """,
    "capabilities": """
        BETWEEN PAIR CallReader Capability FunctionCall Limits Made Message Passage Ran Reply Script Task Turns Workshop
        asked extract extract_code is_garbage is_repetitive judge passages points verdict
        with_tools
    """,
    "data_kinds": """
        OF_EVERY_KIND AnswerTokens Batch Custom DataKind DialogExample Message Row Segment Task Tokenizer Tree UserRow
        Writer answer_example as_prompt dialog_example pack_answers pack_rankings prompt_digest prompt_ids read_answer
        read_messages read_prompt
    """,
    "evaluators": """
        HELD_OUT_BYTES Asked AsksAtLengths Batch Canary CombinedReward DialogExample Evaluator GuardSlot JudgeSection
        Judgement KeepsPrompts Line Llama Rate Result RewardSlot SafetyPrompt Sampling Segment Subject TokenPlan Tree
        Turn answer_example answer_pairs answers build_rewards by_split choose_prompts chunks count_ngrams
        dialog_example draw_runs drawn guard_verdicts have_room is_repetitive json_lines judge pack_answers
        parse_prompts prompt_digest random_secret read_canaries read_lines read_prompts replies require_scorable
        run_safety run_tool_injection score texts wilson
    """,
    "exporters": """
        CONFIG_FILE Engine ExportManifest Exporter GgufType ModelConfig QuantizedWeights Sampling Tokenizer Transformer
        VerifyReport check_gguf check_logps check_probe check_step compare export_step input_names is_quantized
        load_model load_tokenizer make_probe open_weights output_names quantize_checkpoint read_raw_config
        require_quantized save_model stated_ids stop_ids write_companions write_compressed
        write_fbgemm_fp8 write_gguf write_json_atomic write_probe
    """,
    "filters": """
        FEATURES DocumentBatch Editing Edits FileReading Filter Judgement Labelling LineFacts Measuring ModelFilter
        Phrases Surveying TextModel WordDistribution citation_spans encoder_hash line_repetition load_encoder
        normalised_url read_lists token_batches
    """,
    "guards": """
        Action Batcher Fence Guard GuardInput Hazard LlamaGuardModel Normalised PromptGuardModel ServedModel Span Turn
        Verdict argument_language code_texts normalise
    """,
    "loggers": """
        Logger Sample append_json_line artifact_now key_now
    """,
    "parallelism": """
        Attention Batch Columns Cost CutRows Dims ForestRows Group HandedOver Kept LoRALinear Loss Member Microbatch
        ModelConfig ParallelContext ParallelStrategy PipelineTurn Problem Read Replicas Runner StepShape Transformer
        forest_attention local rms_norm
    """,
    "quantization": """
        Matrix ModelConfig Parts Problem QuantizationScheme is_for_core multiply
        product_dtype
    """,
    "rewards": """
        Check Custom DialogExample Exact Example Limits Line NotEnoughTasks Program Reward Split Task TaskReward
        Tokenizer UnitTests answer_example by_split contradictions cut device_of dialog_example extract extract_code
        families load_model pack_rankings prompt_digest read_lines run_programs score split_of_prompt
        told_contradictions
    """,
    "sources": """
        BATCH_BYTES Collector DocumentBatch FileOptions Kind Reject ShardFile ShardRef Source bounded_lines
        decode decode_file is_text listed main_text open_parquet origin_of pieces_of plain read_bytes read_document
        read_page remembered require_unchanged shard_of shards_of
    """,
}
FOR_ALL = ("llama3.errors", "llama3.plugins", "llama3.testing", "llama3.testing.toys")
"""What plugins of every family may import beside the module of their own."""
ONLY_SPECS = {"commands", "presets"}
"""Families whose plugins implement nothing of ours: a typer.Typer, a package of YAML files."""
TORCH_FREE = sorted(SURFACE.keys() - {"algorithms", "parallelism", "quantization"})
BUILT_IN = sorted(path for path in (ROOT / "llama3_plugins").rglob("*.py") if path.parent.name in SURFACE)


def test_every_family_has_its_module():
    assert set(SURFACE) == set(FAMILIES) - ONLY_SPECS


@pytest.mark.parametrize("family", SURFACE)
def test_a_module_holds_what_is_listed(family):
    module = importlib.import_module(f"llama3.{family}")
    assert sorted(module.__all__) == sorted(SURFACE[family].split())
    assert all(hasattr(module, name) for name in module.__all__)
    with pytest.raises(AttributeError):
        _ = module.no_such_name


@pytest.mark.parametrize("family", SURFACE)
def test_a_module_defines_nothing(family):
    tree = ast.parse((ROOT / "llama3" / f"{family}.py").read_text("utf-8"))
    defined = [node.name for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)]
    assert set(defined) <= {"__getattr__"}, "a thin module: it passes on what is defined elsewhere"


@pytest.mark.parametrize("path", BUILT_IN, ids=lambda path: str(path.relative_to(ROOT / "llama3_plugins")))
def test_built_in_plugins_need_nothing_else(path):
    own = f"llama3.{path.parent.name}"
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "llama3":
            assert node.module in (own, *FOR_ALL), f"line {node.lineno}: {node.module} is not public for {own}"


def test_what_is_imported_early_needs_no_torch():
    program = "import importlib, sys\n" + "".join(f"importlib.import_module('llama3.{name}')\n" for name in TORCH_FREE)
    done = subprocess.run([sys.executable, "-c", f"{program}assert 'torch' not in sys.modules"], cwd=ROOT, check=False)
    assert done.returncode == 0
