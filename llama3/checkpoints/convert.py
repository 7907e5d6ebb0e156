"""A model from one layout to another, tensor by tensor: Hugging Face's and Meta's can be written, and of what one of
our schemes quantized compressed-tensors and FBGEMM's FP8.

Memory holds one file of the result at a time. The tokenizer goes along, as do the files that state the terms.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from llama3.artifacts.files import write_json_atomic
from llama3.artifacts.new_directory import new_directory, require_new
from llama3.checkpoints.companions import carry_policy, stated_ids, write_companions
from llama3.checkpoints.compressed_tensors import require_quantized, write_compressed
from llama3.checkpoints.fbgemm_fp8 import write_fbgemm_fp8
from llama3.checkpoints.formats import load_tokenizer, open_weights
from llama3.checkpoints.layouts import CONFIG_FILE, PARAMS_FILE, layout_of
from llama3.checkpoints.license import copy_terms
from llama3.checkpoints.load import check_shapes
from llama3.checkpoints.meta import meta_name, meta_params
from llama3.checkpoints.source import WeightSource, interleave
from llama3.checkpoints.weights import MAX_SHARD_BYTES, non_finite, write_shards
from llama3.config.schema import Precision
from llama3.errors import CheckpointError
from llama3.model.build import HEADS
from llama3.tokenizer import Tokenizer
from llama3.tokenizer.special import NUM_SPECIAL

TOO_MANY_TOKENS = CheckpointError.declare(
    "L3-CNV-003",
    "the tokenizer has {tokens} tokens, the model only {rows}",
    fix="use the model's own tokenizer",
)
NO_PLACE = CheckpointError.declare(
    "L3-CNV-004", "has {heads}, for which Meta's layout has no place", fix="convert to hf"
)

WrittenLayout = Literal["hf", "meta", "compressed-tensors", "fbgemm_fp8"]
QUANTIZED: Mapping[WrittenLayout, Any] = {"compressed-tensors": write_compressed, "fbgemm_fp8": write_fbgemm_fp8}
"""Layouts that keep codes."""
DTYPES: Mapping[Precision, torch.dtype] = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


@dataclass(frozen=True, slots=True)
class Converted:
    """What `convert` wrote."""

    folder: Path
    dtype: str
    parameters: int
    notes: tuple[str, ...]
    """What the user should know of the result, in plain words."""


def convert(path: str | Path, folder: str | Path, to: WrittenLayout, dtype: torch.dtype | None = None) -> Converted:
    """Write the model at `path`, of any layout, into the new directory `folder`.

    dtype: default: the source's own precision, float32 where it is quantized; in layouts that keep codes that of what
        is not quantized, by default as it is
    Raises ConfigError where `folder` holds something, and CheckpointError where the model is damaged.
    """
    folder = Path(folder)
    require_new(folder)
    source, tokenizer = open_model(path)
    dtype = dtype or (require_quantized(source).rest_dtype if to in QUANTIZED else source.dtype)
    with new_directory(folder) as place:
        writers: Mapping[WrittenLayout, Any] = {"hf": write_hf, "meta": write_meta, **QUANTIZED}
        notes = writers[to](source, tokenizer, place, dtype)
        write_terms(source, place, {"stage": "convert", **facts_of(source)})
        carry_policy(Path(path), place)
    return Converted(folder, dtype_name(dtype), source.config.num_params(), tuple(notes))


def open_model(path: str | Path) -> tuple[WeightSource, Tokenizer]:
    """A model and its tokenizer, checked to belong together before any weight is read."""
    source = open_weights(path)
    check_shapes(source)
    tokenizer = load_tokenizer(path)
    if tokenizer.vocab_size > source.config.vocab_size:
        raise TOO_MANY_TOKENS(path, tokens=tokenizer.vocab_size, rows=source.config.vocab_size)
    return source, tokenizer


def write_hf(source: WeightSource, tokenizer: Tokenizer, folder: Path, dtype: torch.dtype) -> list[str]:
    """The model in Hugging Face's layout, with what a Hugging Face source says of its tokenizer kept word for word."""
    names = [name for name in (*source.config.parameter_shapes(), *HEADS) if name in source.shapes]
    sizes = {name: math.prod(source.shapes[name]) * dtype.itemsize for name in names}
    write_shards(sizes, _reader(source, dtype), folder, MAX_SHARD_BYTES)
    ids = stated_ids(source, tokenizer)
    write_json_atomic(folder / CONFIG_FILE, {**source.config.to_hf(), "dtype": dtype_name(dtype), **ids})
    write_companions(source, tokenizer, folder)
    return []


def write_meta(source: WeightSource, tokenizer: Tokenizer, folder: Path, dtype: torch.dtype) -> list[str]:
    """The model in Meta's layout; what of it Meta's code will not read."""
    config = source.config
    params = meta_params(config)
    if heads := [name for name in HEADS if name in source.shapes]:
        raise NO_PLACE(source.path, heads=" and ".join(heads))
    read = _reader(source, dtype)
    tensors = {}
    for name in config.parameter_shapes():
        heads_of = {"q_proj": config.n_heads, "k_proj": config.n_kv_heads}.get(name.split(".")[-2])
        tensor = read(name)
        tensors[meta_name(name)] = tensor if heads_of is None else interleave(tensor, heads_of)
    if config.tied:  # Meta's code always reads one; torch stores a shared tensor once
        tensors["output.weight"] = tensors["tok_embeddings.weight"]
    torch.save(tensors, folder / "consolidated.00.pth")
    write_json_atomic(folder / PARAMS_FILE, params)
    notes = [f"params.json says {key}, which Meta's reference code does not read" for key in params if key in _OWN_KEYS]
    return notes + _meta_tokenizer(tokenizer, config.vocab_size, folder)


_OWN_KEYS = ("rope_scaling_factor", "rope_high_freq_factor", "context_length")


def _meta_tokenizer(tokenizer: Tokenizer, vocab_size: int, folder: Path) -> list[str]:
    """tokenizer.model, which Meta's code completes by Llama 3's 256 control tokens; else Hugging Face's files."""
    if len(tokenizer.special_tokens) == NUM_SPECIAL and tokenizer.vocab_size == vocab_size:
        tokenizer.save(folder / "tokenizer.model")
        if Tokenizer.load(folder / "tokenizer.model").hash == tokenizer.hash:
            return []
        (folder / "tokenizer.model").unlink()
    tokenizer.save(folder)
    return ["the vocabulary is not one that tokenizer.model can hold: tokenizer.json is there instead, which Meta's "
            "reference code does not read"]  # fmt: skip


def facts_of(source: WeightSource) -> dict[str, Any]:
    """What llama3.json says of a model that came from elsewhere."""
    return {
        "name": source.name,
        "layout": layout_of(source.path),
        "types": dict(source.types),
        "dtype": dtype_name(source.dtype),
        "license": source.license,
    }


def write_terms(source: WeightSource, folder: Path, facts: dict[str, Any]) -> None:
    """llama3.json, and the files that state the model's terms."""
    write_json_atomic(folder / "llama3.json", facts)
    copy_terms(source.path, folder)


def _reader(source: WeightSource, dtype: torch.dtype) -> Callable[[str], Tensor]:
    """Reads a tensor in `dtype`; raises CheckpointError where it is not finite."""

    def read(name: str) -> Tensor:
        tensor = source.get(name).to(dtype)
        if problems := non_finite(tensor, f"{source.path}: {name}"):
            raise CheckpointError.of(problems)
        return tensor

    return read


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
