"""Weights from a GGUF file of the `llama` architecture, of any tensor type that the package `gguf` can dequantize."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llama3.checkpoints.gguf_file import GgufFile, TensorInfo, ggml, read_gguf
from llama3.checkpoints.source import common_dtype, half_split, no_architecture, read_tensor
from llama3.errors import CheckpointError, ConfigError, Problem
from llama3.model.config import ModelConfig, RopeScaling
from llama3.model.shards import Part
from llama3.model.transformer import rope_frequencies

UNREADABLE_TYPE = CheckpointError.declare(
    "L3-GGF-006",
    "its type {type} cannot be dequantized",
    why="the installed gguf package has no rule for it",
    fix="use a file of another type, such as Q8_0",
)
OTHER_ARCHITECTURE = CheckpointError.declare(
    "L3-GGF-007", "its architecture is {found!r}, not {wanted!r}", fix="use a Llama-family model"
)
SPLIT = CheckpointError.declare(
    "L3-GGF-008",
    "is one part of a split model",
    fix="merge the parts with llama.cpp's `llama-gguf-split --merge`",
)
KEY_IS_MISSING = CheckpointError.declare("L3-GGF-009", "the metadata lacks {key}", fix="fetch the file again")
OTHER_DESIGN = CheckpointError.declare(
    "L3-GGF-010", "{key} is {value!r}", why="Llama 3 does not use that", fix="use a Llama 3.x model"
)
ODD_DIVISORS = CheckpointError.declare(
    "L3-GGF-011", "is {type} of shape {shape}, not F32 of shape {wanted}", fix="fetch the file again"
)
OTHER_SCALING = CheckpointError.declare(
    "L3-GGF-013",
    "is a scaling of RoPE that is not Llama 3's",
    why="Llama 3.1's rule with factors 1 and 4 does not give these divisors",
    fix="use a Llama 3.x model",
)
ODD_METADATA = CheckpointError.declare(
    "L3-GGF-012", "its metadata has values of the wrong type ({error})", fix="fetch the file again"
)

ARCHITECTURE = "llama"
ROPE_FACTORS = "rope_freqs.weight"
"""What each rotary frequency is divided by: Llama 3.1's scaling as llama.cpp stores it."""
CHUNK_ELEMENTS = 1 << 18
"""Elements that are dequantized at once: dequantization needs a multiple of their memory."""

_FLOATS = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_TOP = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


class GgufWeights:
    """A GGUF file as a `llama3.checkpoints.source.WeightSource`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = read_gguf(path)
        self.config = read_gguf_config(self.file)
        self._infos = {hf_name(name): info for name, info in self.file.tensors.items() if name != ROPE_FACTORS}
        self._refuse_types()

    @property
    def name(self) -> str:
        return str(self.file.metadata.get("general.name") or self.path.stem)

    @property
    def license(self) -> str | None:
        stated = self.file.metadata.get("general.license.name") or self.file.metadata.get("general.license")
        return str(stated) if stated else None

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {name: info.shape for name, info in self._infos.items()}

    @property
    def types(self) -> Mapping[str, int]:
        return Counter(info.type for info in self._infos.values())

    @property
    def dtype(self) -> torch.dtype:
        return common_dtype({info.type for info in self._infos.values() if len(info.shape) > 1})

    def get(self, name: str) -> Tensor:
        info = self._infos[name]
        if info.type in _FLOATS:
            tensor = read_tensor(self.path, info.offset, _FLOATS[info.type], info.shape)
        else:
            tensor = self._dequantized(info)
        if name.endswith("q_proj.weight"):
            return half_split(tensor, self.config.n_heads)
        return half_split(tensor, self.config.n_kv_heads) if name.endswith("k_proj.weight") else tensor

    def part(self, name: str, part: Part) -> Tensor:
        return self.get(name)[part]

    def _dequantized(self, info: TensorInfo) -> Tensor:
        """A few rows at a time, each block of them exactly as `gguf` gives it."""
        package = ggml()
        kind = package.GGMLQuantizationType[info.type]
        columns = info.shape[-1]
        rows = math.prod(info.shape[:-1])
        row_bytes = info.bytes // rows
        step = max(1, CHUNK_ELEMENTS // columns)
        tensor = torch.empty(rows, columns)
        for start in range(0, rows, step):
            count = min(step, rows - start)
            stored = np.fromfile(self.path, np.uint8, count * row_bytes, offset=info.offset + start * row_bytes)
            values = package.quants.dequantize(stored.reshape(count, row_bytes), kind)
            tensor[start : start + count] = torch.from_numpy(values)
        return tensor.view(info.shape)

    def _refuse_types(self) -> None:
        """Every type must be one that can be dequantized: asked of `gguf` with a block of zeros."""
        package = ggml()
        refused = set()
        for kind in {info.type for info in self._infos.values()} - _FLOATS.keys():
            ggml_type = package.GGMLQuantizationType[kind]
            try:
                package.quants.dequantize(np.zeros((1, package.GGML_QUANT_SIZES[ggml_type][1]), np.uint8), ggml_type)
            except NotImplementedError:
                refused.add(kind)
        problems = [
            UNREADABLE_TYPE.problem(f"{self.path}: {name}", type=info.type)
            for name, info in self._infos.items()
            if info.type in refused
        ]
        if problems:
            raise CheckpointError.of(problems)


def hf_name(name: str) -> str:
    """Hugging Face's name of a GGUF tensor; a name that it has none for stays."""
    if name in _TOP:
        return _TOP[name]
    parts = name.split(".")
    if len(parts) == 4 and parts[0] == "blk" and parts[1].isdecimal() and parts[2] in _LAYER:
        return f"model.layers.{parts[1]}.{_LAYER[parts[2]]}.{parts[3]}"
    return name


def gguf_name(hf: str) -> str:
    """The inverse of `hf_name`, for the tensors of a Llama model."""
    if hf in (names := {theirs: ours for ours, theirs in _TOP.items()}):
        return names[hf]
    _, _, index, part = hf.removesuffix(".weight").split(".", 3)
    return f"blk.{index}.{ {theirs: ours for ours, theirs in _LAYER.items()}[part] }.weight"


def read_gguf_config(file: GgufFile) -> ModelConfig:
    """The architecture that the metadata describes. Raises CheckpointError naming all that cannot be honoured."""
    try:
        return _config(file)
    except ConfigError as error:
        raise no_architecture(file.path, error) from error
    except (TypeError, ValueError, IndexError, ArithmeticError) as error:
        raise ODD_METADATA(file.path, error=error) from error


def _config(file: GgufFile) -> ModelConfig:
    where, metadata = str(file.path), file.metadata
    architecture = metadata.get("general.architecture")
    if architecture != ARCHITECTURE:
        raise OTHER_ARCHITECTURE(where, found=architecture, wanted=ARCHITECTURE)
    if metadata.get("split.count", 1) > 1:
        raise SPLIT(where)
    if problems := _missing(where, metadata) or _unsupported(where, metadata):
        raise CheckpointError.of(problems)
    embedding = file.tensors.get("token_embd.weight")
    value = {key.removeprefix(f"{ARCHITECTURE}."): x for key, x in metadata.items()}
    config = ModelConfig(
        dim=value["embedding_length"],
        n_layers=value["block_count"],
        n_heads=value["attention.head_count"],
        n_kv_heads=value.get("attention.head_count_kv", value["attention.head_count"]),
        ffn_dim=value["feed_forward_length"],
        vocab_size=embedding.shape[0] if embedding else value.get("vocab_size", 0),
        rope_theta=_shortest(value.get("rope.freq_base", 10_000.0)),
        norm_eps=_shortest(value["attention.layer_norm_rms_epsilon"]),
        tied="output.weight" not in file.tensors,
        max_seq_len=value.get("context_length", 2048),
        head_dim=value.get("attention.key_length", 0),
    )
    return _with_scaling(config, file)


def _missing(where: str, metadata: Mapping[str, Any]) -> list[Problem]:
    keys = ("embedding_length", "block_count", "attention.head_count", "feed_forward_length",
            "attention.layer_norm_rms_epsilon")  # fmt: skip
    return [
        KEY_IS_MISSING.problem(where, key=f"{ARCHITECTURE}.{key}")
        for key in keys
        if not isinstance(metadata.get(f"{ARCHITECTURE}.{key}"), int | float)
    ]


_READ = {
    "embedding_length", "block_count", "attention.head_count", "attention.head_count_kv", "feed_forward_length",
    "vocab_size", "rope.freq_base", "attention.layer_norm_rms_epsilon", "context_length", "attention.key_length",
    "rope.scaling.factor", "rope.scale_linear",
}  # fmt: skip
_WITHOUT_EFFECT = {
    "rope.scaling.original_context_length", "rope.scaling.finetuned", "tensor_data_layout", "expert_used_count",
    "attention.layer_norm_epsilon",
}  # fmt: skip
"""Keys that change nothing, or nothing unless another key, which is refused, makes use of them."""


def _unsupported(where: str, metadata: Mapping[str, Any]) -> list[Problem]:
    """Every key of the architecture must be one that is read, that has no effect, or that says what Llama 3 does."""
    prefix = f"{ARCHITECTURE}."
    value = {key.removeprefix(prefix): x for key, x in metadata.items() if key.startswith(prefix)}
    head_dim = value.get("attention.key_length") or value["embedding_length"] / value["attention.head_count"]
    # Without a type llama.cpp scales linearly: by the factor or, where it is 0 or not there, by that of old files.
    stretch = "rope.scaling.factor" if value.get("rope.scaling.factor") else "rope.scale_linear"
    linear = value.get("rope.scaling.type", "linear") == "linear"
    plain = {
        "expert_count": (0,),
        "attention.value_length": (head_dim,),
        "rope.dimension_count": (head_dim,),
        "rope.scaling.type": ("none", "linear"),
        stretch: (0, 1) if linear else (value.get(stretch),),
        "rope.scaling.attn_factor": (0, 1),
        "attention.sliding_window": (0,),
        "attention.causal": (True,),
        "attention.scale": (0, head_dim**-0.5),
    }
    known = {key: (x,) for key, x in value.items() if key in _READ | _WITHOUT_EFFECT and not isinstance(x, list)}
    return [
        OTHER_DESIGN.problem(where, key=prefix + key, value=x)
        for key, x in sorted(value.items())
        if not _is_one_of(x, {**known, **plain}.get(key, ()))
    ]


def _is_one_of(value: Any, wanted: tuple[Any, ...]) -> bool:
    """Numbers are stored in single precision."""
    numbers = isinstance(value, int | float)
    return any(math.isclose(value, x, rel_tol=1e-5) if numbers and isinstance(x, int | float) else value == x
               for x in wanted)  # fmt: skip


def _with_scaling(config: ModelConfig, file: GgufFile) -> ModelConfig:
    """`config` with the RoPE scaling that explains the stored divisors of its frequencies.

    GGUF keeps the divisors and not the four numbers they were computed from. Only the ratios of the original context
    to the two wavelength factors matter, so the factors 1 and 4 of all released models are assumed.
    """
    if ROPE_FACTORS not in file.tensors:
        return config
    info = file.tensors[ROPE_FACTORS]
    where = f"{file.path}: {ROPE_FACTORS}"
    if info.type != "F32" or info.shape != (config.head_dim // 2,):
        raise ODD_DIVISORS(where, type=info.type, shape=info.shape, wanted=(config.head_dim // 2,))
    divisors = read_tensor(file.path, info.offset, torch.float32, info.shape)
    plain = rope_frequencies(config)
    for context in (8192, *(1 << power for power in range(10, 18))):
        scaling = RopeScaling(factor=round(float(divisors.max()), 4), original_max_position=context)
        try:
            scaled = dataclasses.replace(config, rope_scaling=scaling)
        except ConfigError:
            break
        if torch.allclose(plain / rope_frequencies(scaled), divisors, rtol=1e-4, atol=0):
            return scaled
    raise OTHER_SCALING(where)


def _shortest(single: float) -> float:
    """The shortest decimal that is this float32: 1e-05 for 9.999999747378752e-06."""
    return float(str(np.float32(single)))
