"""`CoreStep`: the forward of a decoding step in one call of the Rust core.

Where every new token comes alone or nearly so, little is computed between two products, and calls from Python cost more
than that. The core then runs all layers (core-rs/src/kernels/decoder.rs) over the same weights, which stay where they
are. `Transformer.step` is the definition: it serves whatever the core cannot, and the tests compare the two.

Legend: T new tokens, C channels of a head.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from llama3 import _core
from llama3.inference.paged_cache import PagedCache
from llama3.model.ops import FEW_ROWS, as_array, is_for_core, weight_array
from llama3.model.transformer import Block, Transformer, rope_table


@dataclass(frozen=True)
class _Weights:
    """The weights of all layers as `_core.decode` takes them, and what tells whether they are still the model's."""

    layers: list[tuple[Any, ...]]
    modules: list[nn.Module]
    tensors: list[tuple[dict[str, Any], str, Tensor, int]]
    """Of each: the module's dictionary that has it and its name there, and where it lies."""

    def are_current(self) -> bool:
        """Whether the tensors are the same and lie where they lay, and a module does nothing but compute."""
        hooked = any(module._forward_hooks or module._forward_pre_hooks for module in self.modules)
        return not hooked and all(
            held.get(name) is tensor and tensor.data_ptr() == place for held, name, tensor, place in self.tensors
        )


class CoreStep:
    """Computes new tokens of a model as the plan of its cache says."""

    def __init__(self, model: Transformer, cache: PagedCache) -> None:
        self._model, self._cache = model, cache
        self._weights: _Weights | None = None

    def step(self, tokens_T: Tensor, positions_T: Tensor) -> Tensor:
        """`Transformer.step` of these tokens."""
        plan, weights = self._cache.of_core, self._current_weights()
        if plan is None or weights is None or len(tokens_T) > FEW_ROWS:
            return self._model.step(tokens_T, positions_T, self._cache)
        x_TD = self._model.embed(tokens_T)
        h_TD = x_TD.to(torch.float32, copy=True)
        config = self._model.config
        cos_TC, sin_TC = (angles.flatten(1) for angles in rope_table(config, positions_T, torch.float32))
        _core.decode(
            h_TD.numpy(),
            weights.layers,
            config.norm_eps,
            config.ffn_dim // config.ffn_groups,
            cos_TC.numpy(),
            sin_TC.numpy(),
            as_array(self._cache.kv),
            self._cache.slots,
            self._cache.pool.block_table,
            plan.row_T,
            plan.seen_T,
        )
        return self._model.norm(h_TD.to(x_TD.dtype))

    def _current_weights(self) -> _Weights | None:
        """Those of the model now, or None where the core cannot compute with them."""
        is_defined_here = type(self._model).step is Transformer.step and "step" not in vars(self._model)
        if not is_defined_here or not is_for_core(self._cache.kv, math.inf):
            return None
        if self._weights is None or not self._weights.are_current():
            self._weights = _weights_of(self._model)
        return self._weights


def _weights_of(model: Transformer) -> _Weights | None:
    """None where a layer has something that the core does not know."""
    modules = list(model.layers.modules())
    tensors = [
        (held, name, tensor, tensor.data_ptr())
        for module in modules
        for held in (module._parameters, module._buffers)
        for name, tensor in held.items()
        if tensor is not None
    ]
    if not all(_is_plain(tensor) for _, _, tensor, _ in tensors):
        return None
    layers = []
    for module in model.layers.values():
        if (layer := _weights_of_layer(module)) is None:
            return None
        layers.append(layer)
    found = _Weights(layers, modules, tensors)
    return found if found.are_current() else None


def _weights_of_layer(layer: nn.Module) -> tuple[Any, ...] | None:
    if type(layer) is not Block:
        return None
    attention, ffn = layer.attention, layer.ffn
    linears = (attention.qkv, attention.out, ffn.gate_up, ffn.down)
    if not all(hasattr(linear, "matrix") for linear in linears):
        return None
    qkv, out, gate_up, down = (linear.matrix() for linear in linears)
    norms = weight_array(layer.attention_norm.weight), weight_array(layer.ffn_norm.weight)
    return norms[0], qkv, out, norms[1], gate_up, down


def _is_plain(tensor: Tensor) -> bool:
    return type(tensor) in (Tensor, nn.Parameter) and tensor.device.type == "cpu" and tensor.is_contiguous()
