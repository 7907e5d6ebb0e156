"""What a model on disk is, told from its headers: shape, precision, tokenizer, terms, and the memory it needs."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llama3 import _core
from llama3.checkpoints.formats import load_tokenizer, open_weights
from llama3.checkpoints.hf import HfWeights
from llama3.checkpoints.layouts import CONSOLIDATED, SAFETENSORS, layout_of
from llama3.checkpoints.quantized import QuantizedWeights
from llama3.checkpoints.source import WeightSource
from llama3.config.schema import LoRASection
from llama3.errors import LlamaError
from llama3.foreign import Fields, is_file
from llama3.model.config import ModelConfig
from llama3.tokenizer import Tokenizer, stop_ids

_FORMATS = {
    "<|start_header_id|>": "Llama 3",
    "<|im_start|>": "ChatML",
    "<<SYS>>": "Llama 2",
    "[INST]": "Mistral",
    "<|user|>": "Zephyr",
    "<start_of_turn>": "Gemma",
}
"""What only one family's templates write -> the name of its format; earlier ones are looked for first."""

_RULES = {_core.LLAMA3_PATTERN: "Llama 3's rule", _core.QWEN2_PATTERN: "Qwen 2's rule"}
"""Regex of a split rule -> its name."""


def describe(path: str | Path) -> dict[str, Any]:
    """The facts as plain values, sizes in bytes. Reads no weights. Raises CheckpointError where no model is there.

    A tokenizer that cannot be read is a fact too: its problem stands in its place.
    """
    path = Path(path)
    source = open_weights(path)
    raw = source.raw if isinstance(source, HfWeights) else {}
    config = source.config
    method = Fields(raw).object("quantization_config").text("quant_method")
    on_disk = sum(file.stat().st_size for file in _weight_files(path))
    return {
        "path": str(path),
        "name": source.name,
        "layout": method or layout_of(path),
        "architecture": {"family": "llama", **dataclasses.asdict(config)},
        "parameters": config.num_params(),
        "weights": {
            "types": dict(source.types),
            "bytes": on_disk,
            "quantization": Fields(raw).object("quantization").text("scheme"),
        },
        "tokenizer": _tokenizer(source),
        "license": source.license,
        # Our own codes are computed with as they lie there; those of other layouts become numbers first.
        "memory": memory(config, on_disk if isinstance(source, QuantizedWeights) else None),
    }


def memory(config: ModelConfig, weights: int | None = None) -> dict[str, int]:
    """Bytes that weights and their optimizer need; activations come on top and depend on the batch.

    serve: weights (those of a quantized model, else in bfloat16) and the cache of one full context
    finetune: 16 per parameter (weight, gradient and AdamW's two moments in float32)
    lora: 4 per frozen parameter, 16 per parameter of adapters of the default rank on all projections
    """
    cache = 2 * 2 * config.n_layers * config.n_kv_heads * config.head_dim * config.max_seq_len
    parameters = config.num_params()
    return {
        "serve": (2 * parameters if weights is None else weights) + cache,
        "finetune": 16 * parameters,
        "lora": 4 * parameters + 16 * _adapter_params(config),
    }


def template_format(template: str) -> str:
    """The name of the chat format that a Jinja template writes; "its own" where it is none of the known ones."""
    return next((name for mark, name in _FORMATS.items() if mark in template), "its own")


def split_rule(tokenizer: Tokenizer) -> str:
    """How a tokenizer cuts text before it merges bytes, read from the steps of its tokenizer.json."""
    step = json.loads(tokenizer.to_json())["pre_tokenizer"]
    steps = step["pretokenizers"] if step["type"] == "Sequence" else [step]
    return ", then ".join(words for step in steps if (words := _step_in_words(step)))


def _step_in_words(step: Mapping[str, Any]) -> str:
    """A step of a pre-tokenizer; empty for one that cuts nothing."""
    if step["type"] == "ByteLevel":
        return "GPT-2's rule" if step.get("use_regex", True) else ""
    if step["type"] == "Digits":
        return "digits one by one" if step.get("individual_digits") else "runs of digits"
    pattern = step.get("pattern", {})
    regex = pattern.get("Regex", pattern.get("String", step["type"]))
    return _RULES.get(regex, f"the regex {regex}")


def _adapter_params(config: ModelConfig) -> int:
    section = LoRASection()
    shapes = dataclasses.replace(config, n_layers=1).parameter_shapes().items()
    layer = sum(section.rank * sum(shape) for name, shape in shapes if name.split(".")[-2] in section.targets)
    return config.n_layers * layer


def _tokenizer(source: WeightSource) -> dict[str, Any]:
    try:
        tokenizer = load_tokenizer(source.path)
    except LlamaError as error:
        return {"problem": "; ".join(map(str, error.problems))}
    template = tokenizer.chat_template
    return {
        "kind": "byte-level BPE",
        "split": split_rule(tokenizer),
        "vocab_size": tokenizer.vocab_size,
        "special_tokens": len(tokenizer.special_tokens),
        "adds_bos": tokenizer.add_bos,
        "stops": [_name(tokenizer, stop) for stop in sorted(stop_ids(tokenizer))],
        "template": template_format(template) if template else None,
    }


def _name(tokenizer: Tokenizer, id: int) -> str:
    names: Mapping[int, str] = {id: name for name, id in tokenizer.special_tokens.items()}
    return names.get(id, str(id))


def _weight_files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    pattern = CONSOLIDATED if layout_of(path) == "meta" else SAFETENSORS
    return [file for file in sorted(path.glob(pattern)) if is_file(file)]
