"""Quantized models in the layouts of other programs: `compressed-tensors`, which vLLM and transformers load, and how it
and FBGEMM's FP8 (Meta's release of 405B) are read. `fbgemm_fp8.py` writes the other.

A matrix `X.weight` lies there as

    X.weight         int8 or FP8 [R, C]         formats int-quantized, float-quantized; FBGEMM
    X.weight_packed  int32 [R, C / 8] or [R, C / 4]   format pack-quantized: 4 or 8 bits, each code + half of its range,
                                                the first column in the lowest bits
    X.weight_scale   [R, 1], [R, N] or [1]      one number for a row, for each of its groups of columns, or for all

Reading gives the numbers that the codes stand for; how inputs are to be rounded is for whoever computes with the codes.

Legend: R rows, C columns, B bytes of a row, N groups of a row.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llama3.artifacts.files import write_json_atomic
from llama3.checkpoints.companions import stated_ids, write_companions
from llama3.checkpoints.hf import HfWeights
from llama3.checkpoints.layouts import CONFIG_FILE
from llama3.checkpoints.quantized import QuantizedWeights
from llama3.checkpoints.source import WeightSource
from llama3.checkpoints.stated_form import stated_forms
from llama3.checkpoints.weights import hf_tensors, hf_views, write_tensors
from llama3.errors import CheckpointError
from llama3.model.shards import Part
from llama3.plugins.registry import discover
from llama3.plugins.specs import QuantizationSpec
from llama3.tokenizer import Tokenizer

NOT_QUANTIZED = CheckpointError.declare(
    "L3-CNV-006", "is quantized by no scheme of ours", fix="llama3 quantize MODEL OUT --scheme int8, then convert OUT"
)
NO_FORM = CheckpointError.declare(
    "L3-CNV-007",
    "the scheme {scheme!r} keeps this matrix in a form that {layout} has not ({why})",
    fix="use a scheme of another form; see: llama3 plugins list --family quantization",
)
OTHER_FORM = CheckpointError.declare(
    "L3-CKP-018",
    "its codes {codes} and scales {scales} are no known form of a matrix of shape {shape}",
    fix="use a checkpoint with symmetric codes of 4 or 8 bits, scaled by rows or groups of columns",
)

OTHER_STATED = CheckpointError.declare(
    "L3-CKP-019",
    "is kept in another form than quantization_config says ({stated})",
    why="its codes are {codes}, its scales {scales}",
    fix="fetch the checkpoint again: config.json and the tensors are not of one",
)
BAD_STATED = CheckpointError.declare(
    "L3-CKP-020", "its quantization_config cannot be understood", why="{error}", fix="fetch the checkpoint again"
)

METHOD = "compressed-tensors"
"""Its value of quant_method."""
_BESIDE = ("weight_scale", "weight_shape", "input_scale", "input_scale_ub")
"""What stands beside codes and is no tensor of the model; zero points are none of these: such a file is refused."""


_CODES = ("F8_E4M3", "I8")
"""safetensors' names of types whose numbers are nothing without a scale."""


class CompressedWeights(HfWeights):
    """A Hugging Face directory with quantized matrices, as a `llama3.checkpoints.source.WeightSource`."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        faults: list[str] = []
        self._forms = stated_forms(self.raw, faults)
        if faults:
            raise BAD_STATED(path / CONFIG_FILE, error="; ".join(faults))

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        stored = self._tensors.shapes
        expected = self.config.parameter_shapes()
        found: dict[str, tuple[int, ...]] = {}
        for name, shape in stored.items():
            module, _, kind = name.rpartition(".")
            weight = f"{module}.weight"
            if kind == "weight_packed":
                columns = expected.get(weight, (0, 0))[1]
                are_packed = len(shape) == 2 and 32 * shape[1] in (4 * columns, 8 * columns)
                found[weight] = (shape[0], columns) if are_packed else shape
            elif not (kind in _BESIDE and weight in expected):
                found[name] = shape
        return found

    @property
    def types(self) -> Mapping[str, int]:
        return Counter(self._tensors.types[name] for name in self._tensors.shapes if not name.endswith(_BESIDE))

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32

    def get(self, name: str) -> Tensor:
        scale_name, packed, where = f"{name}_scale", f"{name}_packed", f"{self.path}: {name}"
        kept = packed if packed in self._tensors.shapes else name
        shape = self.shapes[name]
        if scale_name not in self._tensors.shapes:
            if kept == packed or self._tensors.types[name] in _CODES:
                raise OTHER_FORM(where, codes=self._tensors.types[kept], scales="none", shape=shape)
            return self._tensors.get(name)
        stored, scale = self._tensors.get(kept), self._tensors.get(scale_name)
        try:
            weight = _weight(_unpacked(stored, shape[1]).float(), scale.float())
        except RuntimeError as error:
            raise OTHER_FORM(where, codes=_form(stored), scales=_form(scale), shape=shape) from error
        if weight.shape != shape:
            raise OTHER_FORM(where, codes=_form(stored), scales=_form(scale), shape=shape)
        packed_bits = 32 * stored.shape[-1] // shape[1] if kept == packed else None
        if self._forms and not any(form.fits(packed_bits, tuple(scale.shape), shape[1]) for form in self._forms):
            stated = ", or ".join(map(str, self._forms))
            raise OTHER_STATED(where, stated=stated, codes=_form(stored), scales=_form(scale))
        return weight

    def part(self, name: str, part: Part) -> Tensor:
        return self.get(name)[part]


def _weight(codes_RC: Tensor, scale: Tensor) -> Tensor:
    groups = scale.shape[1] if scale.dim() == 2 else 1
    rows = len(codes_RC) if scale.numel() > 1 else 1
    return (codes_RC.unflatten(1, (groups, -1)) * scale.view(rows, groups, 1)).flatten(1)


def _unpacked(stored: Tensor, columns: int) -> Tensor:
    """Codes [R, C]; those that are packed are told by their type."""
    if stored.dtype != torch.int32:
        return stored
    bytes_RB = stored.view(torch.uint8)
    if bytes_RB.shape[1] == columns:
        return (bytes_RB ^ 0x80).view(torch.int8)
    return torch.stack([bytes_RB & 0xF, bytes_RB >> 4], dim=-1).flatten(1).view(torch.int8) - 8


def _form(tensor: Tensor) -> str:
    return f"{tensor.dtype}{list(tensor.shape)}".removeprefix("torch.")


def require_quantized(source: WeightSource) -> QuantizedWeights:
    """The model as one that a scheme of ours quantized. Raises CheckpointError where none did."""
    if not isinstance(source, QuantizedWeights):
        raise NOT_QUANTIZED(source.path)
    return source


@dataclass(frozen=True, slots=True)
class Coded:
    """A model that one of our schemes quantized, as other programs keep it."""

    tensors: Mapping[str, Tensor]
    """All of the model, by Hugging Face's names: codes with their scales, and what is not quantized."""
    weights: Mapping[str, Any]
    """How `compressed-tensors` describes a quantized matrix; all are of one kind."""
    modules: frozenset[str]
    """Those that are quantized ..."""
    ignored: tuple[str, ...]
    """... and the linear ones that are not."""


def coded(source: QuantizedWeights, dtype: torch.dtype, layout: str, *, packed: bool) -> Coded:
    """Codes and scales as they are; the rest in `dtype`. packed: int8 codes lie four to an int32.

    Raises CheckpointError where `layout` has no form for a matrix.
    """
    shapes = source.config.parameter_shapes()
    tensors: dict[str, Tensor] = {}
    weights: dict[str, Any] = {}
    modules: set[str] = set()
    for name, parts in source.stored():
        if not isinstance(parts, dict):
            tensors |= {hf: x.to(dtype).contiguous() for hf, x in hf_tensors(source.config, name, parts)}
            continue
        try:
            described, stored = _stored(parts, packed=packed)
            if weights not in ({}, described):
                raise ValueError("and others in another one")
        except (KeyError, RuntimeError, ValueError) as error:
            raise NO_FORM(f"{source.path}: {name}", scheme=source.scheme, layout=layout, why=error) from error
        weights = described
        for kind, tensor in stored.items():
            for hf, view in hf_views(source.config, f"{name}.weight", tensor):
                module = hf.removesuffix(".weight")
                tensors[f"{module}.{kind}"] = view.reshape(-1, tensor.shape[1]).contiguous()
                modules.add(module)
    linear = {name.removesuffix(".weight") for name in shapes if name.endswith("_proj.weight")}
    return Coded(tensors, weights, frozenset(modules), (*sorted(linear - modules), "lm_head"))


def write_coded(
    source: QuantizedWeights,
    tokenizer: Tokenizer,
    folder: Path,
    dtype: torch.dtype,
    tensors: Mapping[str, Tensor],
    said: Mapping[str, Any],
) -> None:
    """Write a quantized model in another program's layout, and read it back: it must be the same numbers.

    said: the entry `quantization_config` of config.json. Raises CheckpointError.
    """
    write_tensors(tensors, folder)
    write_json_atomic(
        folder / CONFIG_FILE,
        {
            **source.config.to_hf(),
            "dtype": str(dtype).removeprefix("torch."),
            **stated_ids(source, tokenizer),
            "quantization_config": said,
        },
    )
    write_companions(source, tokenizer, folder)
    written = CompressedWeights(folder)
    for name in source.config.parameter_shapes():
        if f"{name}_scale" not in tensors:
            continue
        one, other = source.get(name), written.get(name)
        if one.shape != other.shape or not torch.allclose(one, other, rtol=1e-6, atol=0.0):
            where, layout = f"{source.path}: {name.removesuffix('.weight')}", said["quant_method"]
            raise NO_FORM(where, scheme=source.scheme, layout=layout, why="it reads back as other numbers")


def write_compressed(source: WeightSource, tokenizer: Tokenizer, folder: Path, dtype: torch.dtype) -> list[str]:
    """A model that one of our schemes quantized, in the layout `compressed-tensors`; what of it the layout cannot say.

    Codes and scales are taken as they are and read back to be the same numbers. dtype: of what is not quantized.
    Raises CheckpointError where a matrix has no such form.
    """
    source = require_quantized(source)
    dynamic = rounds_inputs(source)
    made = coded(source, dtype, METHOD, packed=not dynamic)
    shapes = source.config.parameter_shapes()
    packed = {
        f"{module}.weight_shape": torch.tensor(shapes[f"{module}.weight"])
        for module in made.modules
        if f"{module}.weight_packed" in made.tensors
    }
    write_coded(source, tokenizer, folder, dtype, {**made.tensors, **packed}, _config(made, dynamic))
    return ["inputs are scaled by their largest element: a cap on it has no place in this layout"] if dynamic else []


def rounds_inputs(source: QuantizedWeights) -> bool:
    """Whether the scheme rounds inputs too, each token as it comes."""
    spec = discover().spec("quantization", source.scheme)
    assert isinstance(spec, QuantizationSpec)
    return spec.activation_bits is not None


def _stored(parts: Mapping[str, Tensor], *, packed: bool) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """How the layout describes a matrix, and the tensors that hold it, told by the type of its codes: FP8 and int8 with
    a scale a row, or (uint8) two to a byte in two's complement with scales [N, R]. Raises KeyError, ValueError,
    RuntimeError for other parts."""
    codes, scale = parts["codes"], parts["scale"].float()
    common = {"symmetric": True, "dynamic": False}
    if codes.dtype == torch.uint8:
        group = 2 * codes.shape[1] // len(scale)
        described = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": group, **common}
        return described, {"weight_packed": (codes ^ 0x88).view(torch.int32), "weight_scale": scale.t()}
    kind = {torch.int8: "int", torch.float8_e4m3fn: "float"}.get(codes.dtype)
    if kind is None:
        raise ValueError(f"codes of type {codes.dtype}")
    described = {"num_bits": 8, "type": kind, "strategy": "channel", "group_size": None, **common}
    if kind == "int" and packed:
        codes_packed = (codes.view(torch.uint8) ^ 0x80).view(torch.int32)
        return described, {"weight_packed": codes_packed, "weight_scale": scale[:, None]}
    return described, {"weight": codes, "weight_scale": scale[:, None]}


def _config(made: Coded, dynamic: bool) -> dict[str, Any]:
    """The entry `quantization_config` of config.json."""
    weights = made.weights
    inputs = {**weights, "strategy": "token", "dynamic": True} if dynamic else None
    packed = "pack-quantized" if weights["type"] == "int" and not dynamic else f"{weights['type']}-quantized"
    group = {"targets": ["Linear"], "weights": dict(weights), "input_activations": inputs, "output_activations": None}
    return {
        "quant_method": METHOD,
        "format": packed,
        "quantization_status": "compressed",
        "config_groups": {"group_0": group},
        "ignore": list(made.ignored),
        "kv_cache_scheme": None,
        "global_compression_ratio": None,
    }
