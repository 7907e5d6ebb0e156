"""The protocol of a quantization scheme, and how one is asked: what it raises, and what it makes that cannot be stored,
is told as its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from llama3.checkpoints.weights import non_finite
from llama3.errors import PluginError, Problem
from llama3.model.config import ModelConfig
from llama3.plugins.asking import Fault, asked, json_fault, what
from llama3.plugins.registry import discover

Parts = Mapping[str, Tensor]
"""What a scheme stores of one matrix, by the names of its choice ("codes", "scale")."""


class QuantizationScheme(Protocol):
    """A way to keep matrices in fewer bits. Plugins of the family `quantization` build one."""

    def supports(self, device: str) -> Sequence[Problem]:
        """Why the scheme cannot run on a device type ("cpu", "cuda"); empty where it can."""
        ...

    def targets(self, config: ModelConfig) -> Sequence[str]:
        """Names of the linear modules of a `Transformer` that are quantized, such as "layers.0.ffn.down"."""
        ...

    def quantize(self, weights: Mapping[str, Tensor], calibration: Mapping[str, Tensor] | None) -> dict[str, Parts]:
        """Each target's weight [rows, columns] in float32 -> its parts. `calibration` holds sample inputs [tokens,
        columns] of each target where the caller has some. Weights of the device "meta", which have no storage, give
        parts of the same types and shapes: `llama3 cost` asks so what the scheme stores."""
        ...

    def make_linear(self, parts: Parts) -> nn.Module:
        """A module that computes x W' and whose buffers are exactly `parts`."""
        ...

    def dequantize(self, parts: Parts) -> Tensor:
        """The weight [rows, columns] that `parts` stand for, in float32."""
        ...

    def metadata(self) -> dict[str, Any]:
        """What else a loader must know (the options): they build an equal scheme. JSON values."""
        ...


def build_scheme(name: str, options: Mapping[str, Any], device: str | None = None) -> QuantizationScheme:
    """The scheme called `name`, each of whose calls raises PluginError (L3-PLG-042, 043) where it fails or returns what
    cannot be stored. Raises PluginError where it cannot run on the type of `device`, if one is given."""
    faults: dict[str, Fault] = {
        "supports": _supports_fault,
        "targets": _targets_fault,
        "quantize": _quantize_fault,
        "make_linear": _linear_fault,
        "dequantize": _weight_fault,
        "metadata": json_fault,
    }
    scheme: QuantizationScheme = asked(f"quantization.{name}", discover().build("quantization", name, options), faults)
    if device is not None and (problems := scheme.supports(device)):
        raise PluginError.of(problems)
    return scheme


@torch.no_grad()
def try_linear(where: str, module: nn.Module, row_1D: Tensor, rows: int) -> None:
    """Multiply a row [1, columns] by what a scheme made of a matrix [rows, columns]: once where a model is loaded, for
    nothing watches the products of its steps. Raises PluginError (L3-PLG-042, 043), naming the scheme as `where`
    does, where it fails or gives no row of as many numbers."""

    def fault(found: object, *_: object) -> str:
        if not isinstance(found, Tensor):
            return f"{what(found)}, not a tensor"
        shape = list(found.shape)
        return "" if shape == [1, rows] else f"of {list(row_1D.shape)} it makes {shape}, not {[1, rows]}"

    asked(where, module, {"forward": fault}).forward(row_1D)


def _supports_fault(problems: object, *_: Any) -> str:
    is_row = isinstance(problems, Sequence) and all(isinstance(problem, Problem) for problem in problems)
    return "" if is_row else f"{what(problems)}, not a list of Problems"


def _targets_fault(names: object, *_: Any) -> str:
    is_row = isinstance(names, Sequence) and not isinstance(names, str) and all(isinstance(name, str) for name in names)
    return "" if is_row else f"{what(names)}, not a list of names"


def _quantize_fault(quantized: object, weights: Mapping[str, Tensor], *_: Any) -> str:
    if not isinstance(quantized, Mapping):
        return f"{what(quantized)}, not the parts of each target"
    return next((f"{name}: {fault}" for name, parts in quantized.items() if (fault := _parts_fault(parts))), "")


def _parts_fault(parts: object) -> str:
    if not isinstance(parts, Mapping) or not all(isinstance(part, Tensor) for part in parts.values()):
        return f"{what(parts)}, not tensors by name"
    return next((fault for name, part in parts.items() if (fault := _number_fault(str(name), part))), "")


def _number_fault(name: str, part: Tensor) -> str:
    return f"{name} holds NaN or infinity" if not part.is_meta and non_finite(part, name) else ""


def _linear_fault(module: object, parts: Mapping[str, Tensor]) -> str:
    if not isinstance(module, nn.Module):
        return f"{what(module)}, not a module"
    buffers = dict(module.named_buffers())
    if {name: _form(part) for name, part in buffers.items()} != {name: _form(part) for name, part in parts.items()}:
        return f"its buffers {_forms(buffers)} are not its parts {_forms(parts)}"
    return next((fault for name, part in buffers.items() if (fault := _number_fault(name, part))), "")


def _form(part: Tensor) -> tuple[torch.dtype, torch.Size]:
    return part.dtype, part.shape


def _forms(parts: Mapping[str, Tensor]) -> str:
    return ", ".join(f"{name} {str(part.dtype).removeprefix('torch.')}{list(part.shape)}"
                     for name, part in sorted(parts.items())) or "(none)"  # fmt: skip


def _weight_fault(weight: object, parts: Mapping[str, Tensor]) -> str:
    if not isinstance(weight, Tensor) or weight.dim() != 2:
        return f"{what(weight)}, not a matrix"
    return _number_fault("the matrix", weight)
