"""Low-rank adapters: y = x W' + (alpha / r) (x A') B' with W frozen (Hu et al. 2021).

Adapters are kept per Hugging Face projection (`q_proj`, ..., `down_proj`), so that files are those of `peft`, although
the model computes query, key and value, and gate and up, as one matrix each. A is drawn, B starts at 0: a new adapter
changes nothing.

Legend: T tokens, I inputs, O outputs, R rank.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llama3.config.schema import LoRASection
from llama3.errors import ConfigError
from llama3.model.build import generator
from llama3.model.config import ModelConfig
from llama3.model.shards import like, whole
from llama3.model.transformer import Transformer

NO_PROJECTION = ConfigError.declare("L3-LRA-001", "there is no projection {name!r}", fix="choose of {projections}")

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
_HF_NAMES = {
    "attention.qkv": ("self_attn", ("q_proj", "k_proj", "v_proj")),
    "attention.out": ("self_attn", ("o_proj",)),
    "ffn.gate_up": ("mlp", ("gate_proj", "up_proj")),
    "ffn.down": ("mlp", ("down_proj",)),
}
"""Our matrices: where Hugging Face keeps their projections."""


class LoRALinear(nn.Module):
    """A frozen linear layer and the adapters of its projections. `enabled=False` is the layer without them.

    A strategy that cuts the layer over ranks makes a subclass whose `forward` adds what a rank has of the adapters.
    """

    rows_O: Tensor

    def __init__(
        self, base: nn.Linear, rows: Mapping[str, Tensor], rank: int | Mapping[str, int], scale: float
    ) -> None:
        """rows: of each adapted projection, the rows of `base.weight` that are its own, in its order
        rank: of all of them, or of each."""
        super().__init__()
        self.base: nn.Module = base.requires_grad_(False)
        self.scale, self.enabled = scale, True
        weight, inputs = base.weight, base.weight.shape[1]
        make = lambda *shape: nn.Parameter(weight.new_zeros(shape))
        # Pairs, because a ParameterDict sorts a mapping and the rows below must stand in the same order.
        ranks = dict.fromkeys(rows, rank) if isinstance(rank, int) else rank
        self.lora_A = nn.ParameterDict([(name, make(ranks[name], inputs)) for name in rows])
        self.lora_B = nn.ParameterDict([(name, make(len(own), ranks[name])) for name, own in rows.items()])
        device = torch.device("cpu") if weight.is_meta else weight.device
        self.register_buffer("rows_O", torch.cat(list(rows.values())).to(device), persistent=False)

    def forward(self, x_TI: Tensor) -> Tensor:
        y_TO = self.base(x_TI)
        if not self.enabled:
            return y_TO
        return y_TO + self.low_rank(x_TI, self.lora_A.values(), self.lora_B.values(), self.rows_O, y_TO.shape[-1])

    def low_rank(self, x_TI: Tensor, a: Iterable[Tensor], b: Iterable[Tensor], rows_O: Tensor, outputs: int) -> Tensor:
        """What adapters A and B of the projections add to so many outputs: B's rows are the outputs `rows_O`."""
        low_TR = F.linear(x_TI, torch.cat(list(a)))
        return F.linear(low_TR, _stacked(b, rows_O, outputs).to(low_TR.dtype)) * self.scale

    @property
    def rows(self) -> dict[str, Tensor]:
        """Of each adapted projection, its rows of the whole matrix."""
        return dict(zip(self.lora_B, self.rows_O.split([len(b) for b in self.lora_B.values()]), strict=True))

    @property
    def weight(self) -> Tensor:
        """The matrix that this layer computes with [O, I], whole: the base's plus the adapters'."""
        weight = whole(self.base.get_parameter("weight"))
        return weight + self.delta() if self.enabled else weight

    def delta(self) -> Tensor:
        """What the adapters add to the whole matrix [O, I]."""
        a, b = ([whole(x) for x in part.values()] for part in (self.lora_A, self.lora_B))
        return _stacked(b, self.rows_O, len(self.base.get_parameter("weight"))) @ torch.cat(a) * self.scale


def _stacked(b: Iterable[Tensor], rows_O: Tensor, outputs: int) -> Tensor:
    """All B as one matrix over the stacked A: each projection reads its own ranks and writes its own rows."""
    stacked = torch.block_diag(*b)
    return stacked.new_zeros(outputs, stacked.shape[1]).index_copy(0, rows_O, stacked)


def add_lora(model: Transformer, section: LoRASection, seed: int) -> Transformer:
    """Freeze `model` and give it new adapters (see `draw_adapter`), in place. Heads (value, score) stay trainable: they
    are new. Raises ConfigError for an unknown projection."""
    with torch.no_grad():
        for name, parameter in place_lora(model, section).named_parameters():
            if ".lora_A." in name:
                parameter.copy_(draw_adapter(seed, name, parameter.shape))
    return model


def place_lora(model: Transformer, section: LoRASection) -> Transformer:
    """As `add_lora`, with adapters of zeros; also for a model without storage."""
    _refuse_unknown(section)
    model.requires_grad_(False)
    for head in (model.value_head, model.score_head):
        if head is not None:
            head.requires_grad_(True)
    scale = section.alpha / (math.sqrt(section.rank) if section.rslora else section.rank)
    for layer in range(model.config.n_layers):
        for ours, rows in _rows(model.config).items():
            chosen = {name: own for name, own in rows.items() if name in section.targets}
            if not chosen:
                continue
            target = f"layers.{layer}.{ours}"
            adapted = LoRALinear(cast(nn.Linear, model.get_submodule(target)), chosen, section.rank, scale)
            model.set_submodule(target, adapted)
    return model


@dataclass(frozen=True, slots=True)
class GivenAdapter:
    """An adapter of one projection, from a file."""

    a: Tensor
    b: Tensor
    scale: float


@torch.no_grad()
def give_adapters(model: Transformer, given: Mapping[str, GivenAdapter]) -> None:
    """Put adapters into a plain model, in place, by the names that `peft` gives their projections; all else is frozen.

    Their ranks and scales may differ: a scale goes into B, where the layer has none of its own.
    """
    model.requires_grad_(False)
    for layer in range(model.config.n_layers):
        for ours, rows in _rows(model.config).items():
            target = f"layers.{layer}.{ours}"
            found = {part: given[prefix] for part, prefix in peft_prefixes(target) if prefix in given}
            if not found:
                continue
            linear = cast(nn.Linear, model.get_submodule(target))
            own = {part: rows[part] for part in found}
            adapted = LoRALinear(linear, own, {part: len(x.a) for part, x in found.items()}, 1.0)
            for part, x in found.items():
                adapted.lora_A[part].copy_(x.a)
                adapted.lora_B[part].copy_(x.b * x.scale)
            model.set_submodule(target, adapted)


def draw_adapter(seed: int, name: str, shape: torch.Size) -> Tensor:
    """A new adapter's parameter `name` on the CPU: A [R, I] by (seed, name), kaiming uniform with a = sqrt(5) as `peft`
    does, B of zeros."""
    if ".lora_B." in name:
        return torch.zeros(shape)
    bound = 1 / math.sqrt(shape[1])
    return torch.empty(shape).uniform_(-bound, bound, generator=generator(seed, name.replace(".lora_A.", ".")))


def adapters(model: nn.Module) -> dict[str, LoRALinear]:
    """The adapted layers by the name of the layer they stand for; empty for a plain model."""
    return {name: module for name, module in model.named_modules() if isinstance(module, LoRALinear)}


@contextmanager
def without_adapters(model: nn.Module) -> Iterator[None]:
    """The base model, for as long as the block lasts: what a policy's adapter was trained from."""
    layers = adapters(model).values()
    for layer in layers:
        layer.enabled = False
    try:
        yield
    finally:
        for layer in layers:
            layer.enabled = True


@dataclass(frozen=True, slots=True)
class MergeError:
    """How far a merged matrix is from base + adapters, which were added in float64."""

    name: str
    max_abs: float
    """Largest rounding error of an element."""
    change: float
    """Frobenius norm of what the adapter changed over that of the base."""


@torch.no_grad()
def merge(model: Transformer, dtype: torch.dtype | None = None) -> list[MergeError]:
    """Add the adapters into the weights and take them away, in place; the model is plain again. Where it is sharded,
    every rank must call it.

    dtype: the precision to which the sums are rounded. Default: that of the weights.
    """
    errors = []
    for name, layer in adapters(model).items():
        weight = layer.base.get_parameter("weight")
        base, delta = whole(weight), layer.delta()
        exact = base.double() + delta.double()
        merged = exact.to(dtype or base.dtype).to(base.dtype)
        change = float(delta.norm() / base.norm().clamp(min=1e-30))
        errors.append(MergeError(name, float((merged.double() - exact).abs().max()), change))
        weight.copy_(like(weight, merged))
        model.set_submodule(name, layer.base)
    model.requires_grad_(True)
    return errors


def adapter_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The adapters by the names that `peft` gives them, sharded where the model is."""
    found: dict[str, Tensor] = {}
    for name, layer in adapters(model).items():
        for part, prefix in peft_prefixes(name):
            if part in layer.lora_A:
                found[f"{prefix}.lora_A.weight"] = layer.lora_A[part].detach()
                found[f"{prefix}.lora_B.weight"] = layer.lora_B[part].detach()
    return found


def peft_prefixes(target: str) -> list[tuple[str, str]]:
    """(projection, name in peft) of the projections in our layer `layers.N.attention.qkv`."""
    _, layer, ours = target.split(".", 2)
    block, parts = _HF_NAMES[ours]
    return [(part, f"base_model.model.model.layers.{layer}.{block}.{part}") for part in parts]


def _rows(config: ModelConfig) -> dict[str, dict[str, Tensor]]:
    """Of each of our matrices, the rows of every projection, in their order (see llama3.model.transformer)."""
    group = config.n_heads // config.n_kv_heads
    qkv = torch.arange(config.n_kv_heads * (group + 2) * config.head_dim)
    by_head = qkv.view(config.n_kv_heads, group + 2, config.head_dim)
    gate, up = torch.arange(2 * config.ffn_dim).view(config.ffn_groups, 2, -1).unbind(1)
    return {
        "attention.qkv": {
            "q_proj": by_head[:, :-2].flatten(),
            "k_proj": by_head[:, -2].flatten(),
            "v_proj": by_head[:, -1].flatten(),
        },
        "attention.out": {"o_proj": torch.arange(config.dim)},
        "ffn.gate_up": {"gate_proj": gate.flatten(), "up_proj": up.flatten()},
        "ffn.down": {"down_proj": torch.arange(config.dim)},
    }


def _refuse_unknown(section: LoRASection) -> None:
    problems = [
        NO_PROJECTION.problem("lora.targets", name=name, projections=list(PROJECTIONS))
        for name in sorted(set(section.targets) - set(PROJECTIONS))
    ]
    if problems:
        raise ConfigError.of(problems)
