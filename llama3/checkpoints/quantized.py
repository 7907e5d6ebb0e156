"""Quantized models: what is common to all schemes (llama3.checkpoints.scheme): replacing a model's matrices, measuring
the error, and keeping the result as safetensors.

A quantized checkpoint is a directory like any other, but its tensors carry this project's own names, its matrices are
stored in the scheme's parts (`layers.0.ffn.down.codes`, ...), and `config.json` names the scheme under
`quantization`. Its `model_type` is not "llama", so that a program that does not know the scheme refuses the directory
instead of filling the gaps with random weights.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from llama3.artifacts.files import write_json_atomic
from llama3.checkpoints.hf import HfWeights, Tensors, parse_config
from llama3.checkpoints.layouts import CONFIG_FILE
from llama3.checkpoints.scheme import Parts, QuantizationScheme, build_scheme, try_linear
from llama3.checkpoints.source import common_dtype
from llama3.checkpoints.weights import (
    TENSOR_MISSING,
    hf_tensors,
    hf_views,
    refuse_non_finite,
    refuse_odd_names,
    write_tensors,
)
from llama3.errors import CheckpointError, PluginError
from llama3.foreign import Fields
from llama3.model.build import HEADS, assign, empty_model
from llama3.model.config import ModelConfig
from llama3.model.shards import Part
from llama3.model.transformer import Transformer
from llama3.plugins.asking import called

OTHER_TARGETS = PluginError.declare(
    "L3-QNT-001", "quantized other matrices than its targets, such as {name!r}", fix="return parts for every target"
)
OTHER_SHAPE = PluginError.declare(
    "L3-QNT-008", "the scheme makes a matrix of the shape {shape} to one of {found}", fix="mend the scheme"
)
OTHER_PARTS = CheckpointError.declare(
    "L3-QNT-002", "its parts {parts} are not those of scheme {scheme!r}", why="{error}"
)
DO_NOT_FIT = CheckpointError.declare("L3-QNT-003", "the tensors do not fit config.json", why="{error}")
NO_SCHEME = CheckpointError.declare(
    "L3-QNT-004", "the entry `quantization` does not name a scheme and its options", why="{error}"
)
NO_MATRIX = PluginError.declare(
    "L3-QNT-005",
    "{name!r} is not a matrix that can be quantized",
    why="the output matrix is read by the scorer",
    fix="choose linear modules below `layers`",
)

MODEL_TYPE = "llama3-quantized"
NOTE = (
    "Quantized by llama3 (scheme {scheme}), which loads it as it is. transformers does not know this format: "
    "`llama3 convert THIS_FOLDER OUT --to hf` writes a model that it loads, `--to compressed-tensors` a quantized one."
)
"""The first entry of config.json, for who opens it and wonders."""


@dataclass(frozen=True, slots=True)
class TensorError:
    """How far a quantized matrix is from the original."""

    name: str
    max_abs: float
    """Largest difference of an element."""
    relative: float
    """Frobenius norm of the difference over that of the original."""
    bytes_before: int
    bytes_after: int


def quantize_model(
    model: Transformer, scheme: QuantizationScheme, calibration: Mapping[str, Tensor] | None = None
) -> list[TensorError]:
    """Replace the scheme's targets in `model` by quantized modules, in place; the error of each."""
    weights = _weights(model, scheme)
    quantized = _parts_of(weights, scheme, calibration)
    errors = []
    for name, parts in quantized.items():
        found = scheme.dequantize(parts)
        if found.shape != weights[name].shape:
            raise OTHER_SHAPE(f"{called(scheme)}: {name}", found=list(found.shape), shape=list(weights[name].shape))
        difference = weights[name] - found
        errors.append(
            TensorError(
                name=name,
                max_abs=float(difference.abs().max()),
                relative=float(difference.norm() / weights[name].norm().clamp(min=1e-30)),
                bytes_before=weights[name].numel() * 2,
                bytes_after=sum(part.nbytes for part in parts.values()),
            )
        )
        model.set_submodule(name, scheme.make_linear(parts))
    model.requires_grad_(False)
    return errors


def empty_parts(scheme: QuantizationScheme, config: ModelConfig) -> dict[str, Parts]:
    """What a scheme stores of a model's matrices, types and shapes only: it quantizes weights without storage.

    Raises what the scheme does where it cannot."""
    return _parts_of(_weights(empty_model(config, ()), scheme), scheme, None)


def save_quantized(
    model: Transformer,
    folder: str | Path,
    name: str,
    scheme: QuantizationScheme,
    *,
    rest: torch.dtype = torch.bfloat16,
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Write a quantized model. `name` is the scheme's plugin name; `rest` the dtype of what is not quantized; `extra`
    further keys of config.json (token ids)."""
    parts = {f"{target}." for target in scheme.targets(model.config)}
    tensors = {
        key: value.detach().cpu() if any(key.startswith(part) for part in parts) else value.detach().to("cpu", rest)
        for key, value in model.state_dict().items()
        if not (model.config.tied and key == "lm_head.weight")
    }
    refuse_non_finite(tensors, f"the model that {name!r} quantized")
    write_tensors(tensors, folder)
    quantization = {"scheme": name, "options": scheme.metadata()}
    raw = {
        "_note": NOTE.format(scheme=name),
        **model.config.to_hf(),
        "model_type": MODEL_TYPE,
        "architectures": None,
        "quantization": quantization,
        **(extra or {}),
    }
    write_json_atomic(Path(folder) / CONFIG_FILE, raw)


def load_quantized(
    folder: Path, raw: Mapping[str, Any], *, dtype: torch.dtype, device: torch.device | str
) -> Transformer:
    """Read what `save_quantized` wrote. The scheme is found by name among the installed plugins, and its first matrix
    multiplied once.

    Raises CheckpointError for damage, PluginError where the scheme is not installed, cannot run on the device or fails.
    """
    config = parse_config(raw, folder)
    name, scheme = _scheme(raw, folder, torch.device(device).type)
    tensors = Tensors(folder)
    state = {key: tensors.get(key) for key in tensors.shapes}
    refuse_non_finite(state, str(folder))
    model = empty_model(config, state)
    targets = scheme.targets(config)
    shapes = [_linear(model, target, called(scheme)).weight.shape for target in targets]
    for target in targets:
        prefix = f"{target}."
        parts = {key.removeprefix(prefix): state[key] for key in state if key.startswith(prefix)}
        try:
            model.set_submodule(target, scheme.make_linear(parts))
        except PluginError as error:
            raise _other_parts(f"{folder}: {target}", parts, name, error) from error
    tied = {"lm_head.weight"} if config.tied else set()
    refuse_odd_names(model.state_dict().keys() - tied, state.keys(), folder)
    kept = tuple(f"{target}." for target in targets)
    state = {key: x.to(device) if key.startswith(kept) else x.to(device, dtype) for key, x in state.items()}
    try:
        assign(model, state)
    except RuntimeError as error:
        raise DO_NOT_FIT(folder, error=error) from error
    for target, (rows, columns) in zip(targets[:1], shapes[:1], strict=True):
        row_1D = torch.zeros(1, columns, dtype=dtype, device=device)
        try_linear(f"{called(scheme)}: {target}", model.get_submodule(target), row_1D, rows)
    return model.requires_grad_(False)


class QuantizedWeights(HfWeights):
    """A quantized model of ours as a `llama3.checkpoints.source.WeightSource`: the numbers that its codes stand for."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.scheme, self._quantization = _scheme(self.raw, path)
        self._targets = frozenset(self._quantization.targets(self.config))
        self._kept: tuple[str, dict[str, Tensor]] = ("", {})

    @cached_property
    def _homes(self) -> dict[str, str]:
        """Hugging Face's name of a tensor -> ours of the parameter that holds it."""
        parameters = empty_model(self.config, self._tensors.shapes).named_parameters()
        return {hf: name for name, x in parameters for hf, _ in hf_views(self.config, name, x)}

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        heads = {name: shape for name, shape in self._tensors.shapes.items() if name in HEADS}
        return {**self.config.parameter_shapes(), **heads}

    @property
    def types(self) -> Mapping[str, int]:
        return Counter(self._tensors.types.values())

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32

    @property
    def options(self) -> Mapping[str, Any]:
        """The scheme's."""
        return self._quantization.metadata()

    @property
    def rest_dtype(self) -> torch.dtype:
        """Of what is not quantized."""
        return common_dtype({self._tensors.types["embed.weight"]})

    def stored(self) -> Iterator[tuple[str, Tensor | dict[str, Tensor]]]:
        """Our parameters one by one as they are kept; a quantized matrix by its module's name and in parts."""
        for name, _ in empty_model(self.config, self._tensors.shapes).named_parameters():
            target = name.removesuffix(".weight")
            yield (target, self._parts(target)) if target in self._targets else (name, self._tensor(name))

    def get(self, name: str) -> Tensor:
        home = self._homes[name]
        if self._kept[0] != home:  # three tensors lie in one parameter
            self._kept = home, dict(hf_tensors(self.config, home, self._parameter(home)))
        return self._kept[1][name]

    def part(self, name: str, part: Part) -> Tensor:
        return self.get(name)[part]

    def _parameter(self, name: str) -> Tensor:
        target = name.removesuffix(".weight")
        if target not in self._targets:
            return self._tensor(name).float()
        parts = self._parts(target)
        try:
            return self._quantization.dequantize(parts)
        except PluginError as error:
            raise _other_parts(f"{self.path}: {target}", parts, self.scheme, error) from error

    def _parts(self, target: str) -> dict[str, Tensor]:
        prefix = f"{target}."
        return {key.removeprefix(prefix): self._tensor(key) for key in self._tensors.shapes if key.startswith(prefix)}

    def _tensor(self, name: str) -> Tensor:
        if name not in self._tensors.shapes:
            raise CheckpointError.of([TENSOR_MISSING.problem(f"{self.path}: {name}")])
        return self._tensors.get(name)


def _other_parts(where: str, parts: Parts, scheme: str, error: PluginError) -> CheckpointError:
    """What was read is likelier at fault than the scheme that it was written by."""
    return OTHER_PARTS(where, parts=sorted(parts), scheme=scheme, error=error.problems[0].why)


def _scheme(raw: Mapping[str, Any], folder: Path, device: str | None = None) -> tuple[str, QuantizationScheme]:
    """The plugin that config.json names. Raises PluginError where it cannot run on the device, if one is given."""
    fields = Fields(raw)
    quantization = fields.object("quantization")
    name, options = quantization.text("scheme"), quantization.object("options")
    if fields.faults or name is None or "options" not in quantization:
        error = "; ".join(fields.faults) or "one of the two is missing"
        raise NO_SCHEME(folder / CONFIG_FILE, error=error)
    return name, build_scheme(name, dict(options.raw), device)


def _weights(model: Transformer, scheme: QuantizationScheme) -> dict[str, Tensor]:
    """The scheme's targets in float32."""
    return {name: _linear(model, name, called(scheme)).weight.detach().float() for name in scheme.targets(model.config)}


def _parts_of(
    weights: Mapping[str, Tensor], scheme: QuantizationScheme, calibration: Mapping[str, Tensor] | None
) -> dict[str, Parts]:
    quantized = scheme.quantize(weights, calibration)
    if quantized.keys() != weights.keys():
        odd = sorted(quantized.keys() ^ weights.keys())[0]
        raise OTHER_TARGETS(called(scheme), name=odd)
    return quantized


def _linear(model: Transformer, name: str, scheme: str) -> nn.Linear:
    try:
        module = model.get_submodule(name)
    except AttributeError:
        module = None
    if not isinstance(module, nn.Linear) or name == "lm_head":
        raise NO_MATRIX(f"{scheme}: targets", name=name)
    return module
