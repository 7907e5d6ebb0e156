"""Writes a GGUF file of the `llama` architecture: what `llama3.checkpoints.gguf` reads, as llama.cpp wants it.

Matrices are stored in one type; norms, and whatever has rows that blocks cannot be made of, keep a float type, as
llama.cpp's own converter does it. The vocabulary, the split rule's name and the chat template go along.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llama3.checkpoints.gguf import ARCHITECTURE, ROPE_FACTORS, GgufWeights, gguf_name, hf_name
from llama3.checkpoints.gguf_file import GgufType, ggml
from llama3.checkpoints.source import half_split, interleave
from llama3.checkpoints.weights import hf_views, non_finite
from llama3.errors import CheckpointError, Problem
from llama3.model.config import ModelConfig
from llama3.model.transformer import Transformer, rope_frequencies
from llama3.tokenizer import Tokenizer, stop_ids

READ_OTHERWISE = CheckpointError.declare(
    "L3-GGF-014", "the reader of the package gguf finds other values in it", fix="report this with the tensor's shape"
)

_FILE_TYPES: dict[GgufType, str] = {
    "F32": "ALL_F32",
    "F16": "MOSTLY_F16",
    "BF16": "MOSTLY_BF16",
    "Q8_0": "MOSTLY_Q8_0",
    "Q4_0": "MOSTLY_Q4_0",
}


@torch.no_grad()
def write_gguf(
    path: Path, model: Transformer, tokenizer: Tokenizer, type: GgufType, *, name: str, license: str | None
) -> list[str]:
    """Write `model` with its tokenizer; what of it the file cannot say, in plain words.

    The model's weights are then those that the file holds, rounded as its type rounds them. Memory holds the model and
    the file. Raises CheckpointError where a weight is too large for the type, DataError where GGUF has no name for the
    tokenizer's split rule, PluginError without the package `gguf`.
    """
    package = ggml()
    vocabulary = tokenizer.to_gguf(model.config.vocab_size, stop_ids(tokenizer))
    writer = package.GGUFWriter(path, ARCHITECTURE)
    writer.add_name(name)
    if license is not None:
        writer.add_license(license)
    writer.add_file_type(package.LlamaFileType[_FILE_TYPES[type]])
    writer.add_quantization_version(package.GGML_QUANT_VERSION)
    _add_architecture(writer, model.config)
    for key, value in vocabulary.items():
        _add(writer, key, value)
    if model.config.rope_scaling is not None:
        writer.add_tensor(ROPE_FACTORS, _divisors(model.config).numpy())
    problems: list[Problem] = []
    for parameter_name, parameter in model.named_parameters():  # a tied output matrix is named once
        for hf, view in hf_views(model.config, parameter_name, parameter):
            _store(writer, model.config, hf, view, type)
            problems += non_finite(view, f"{hf} in {type}")
    if problems:
        writer.close()
        raise CheckpointError.of(problems)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    lost = stop_ids(tokenizer) - stop_ids(Tokenizer.from_gguf(vocabulary))
    return [f"generation ends at the ids {sorted(lost)} too, for which GGUF has no key"] if lost else []


def check_gguf(path: Path) -> None:
    """Raise CheckpointError where the package's own reader finds another value in a tensor than ours does."""
    package, ours = ggml(), GgufWeights(path)
    for tensor in package.GGUFReader(path).tensors:
        if tensor.name == ROPE_FACTORS:
            continue
        name = hf_name(tensor.name)
        theirs = torch.from_numpy(package.quants.dequantize(np.array(tensor.data), tensor.tensor_type))
        heads = _heads(ours.config, name)
        theirs = theirs.view(ours.shapes[name])
        if not torch.equal(ours.get(name).float(), theirs if heads is None else half_split(theirs, heads)):
            raise READ_OTHERWISE(f"{path}: {tensor.name}")


def _store(writer: Any, config: ModelConfig, hf: str, view: Tensor, type: GgufType) -> None:
    """Hand a tensor to the writer, and round `view` to what it then holds."""
    package, heads = ggml(), _heads(config, hf)
    # The scalar heads of reward models have no such shape and no place in the file: callers refuse them.
    tensor = view.reshape(config.parameter_shapes()[hf]).float()
    stored = (tensor if heads is None else interleave(tensor, heads)).contiguous().numpy()
    kind = package.GGMLQuantizationType[_type_of(hf, tensor, type)]
    with np.errstate(over="ignore"):  # what overflows is told of by name
        data = package.quants.quantize(stored, kind)
    writer.add_tensor(gguf_name(hf), data, raw_dtype=kind)
    rounded = torch.from_numpy(np.array(package.quants.dequantize(data, kind))).view(tensor.shape)
    view.copy_((rounded if heads is None else half_split(rounded, heads)).view(view.shape))


def _type_of(hf: str, tensor: Tensor, type: GgufType) -> GgufType:
    if tensor.dim() == 1:
        return "F32"
    if type in ("Q8_0", "Q4_0") and tensor.shape[-1] % 32:
        return "F16"
    # What turns tokens into vectors and back suffers most from 4 bits; llama.cpp keeps it in more, too.
    return "Q8_0" if type == "Q4_0" and hf in ("model.embed_tokens.weight", "lm_head.weight") else type


def _heads(config: ModelConfig, hf: str) -> int | None:
    """Heads of a query or key matrix, whose rows are stored in Meta's order; None for any other tensor."""
    return {"q_proj": config.n_heads, "k_proj": config.n_kv_heads}.get(hf.split(".")[-2])


def _divisors(config: ModelConfig) -> Tensor:
    """What each rotary frequency is divided by, float32[C/2]: Llama 3.1's scaling as llama.cpp stores it."""
    return rope_frequencies(dataclasses.replace(config, rope_scaling=None)) / rope_frequencies(config)


def _add_architecture(writer: Any, config: ModelConfig) -> None:
    writer.add_block_count(config.n_layers)
    writer.add_context_length(config.max_seq_len)
    writer.add_embedding_length(config.dim)
    writer.add_feed_forward_length(config.ffn_dim)
    writer.add_head_count(config.n_heads)
    writer.add_head_count_kv(config.n_kv_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_vocab_size(config.vocab_size)


def _add(writer: Any, key: str, value: Any) -> None:
    """A key of the vocabulary: a flag, an id, a text, or a list of them."""
    add = {bool: writer.add_bool, int: writer.add_uint32, str: writer.add_string, list: writer.add_array}
    add[type(value)](key, value)
