"""Tensor parallelism with sequence-parallel norms (Shoeybi et al. 2019; Korthikanti et al. 2022), along `tp`.

A rank has some of the heads, of the FFN's channels and of the vocabulary, and between the blocks some of the rows:

    rows of a rank -> norm -> gather rows -> its heads (channels) -> add up over ranks, each keeps its rows -> residual

Scores over the vocabulary never stand whole on one rank; neither do the hidden states between the blocks.

Legend: T tokens, t those of a rank, D model dim, O outputs, I inputs of a matrix, V vocabulary.
"""

from __future__ import annotations

import math
from typing import cast

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import Shard, distribute_tensor

from llama3.errors import ConfigError, Problem
from llama3.parallelism import (
    Cost,
    Dims,
    LoRALinear,
    ModelConfig,
    ParallelContext,
    ParallelStrategy,
    StepShape,
    Transformer,
    local,
    rms_norm,
)
from llama3_plugins.parallelism.collectives import gather_rows, gather_same, same_on_all, scatter_sums

UNEVEN_HEADS = ConfigError.declare(
    "L3-PAR-010",
    "{ranks} ranks cannot share {heads} key-value heads evenly",
    why="a rank computes whole heads",
    fix="set parallelism.tp to one of {fitting}",
)
UNEVEN_FFN = ConfigError.declare(
    "L3-PAR-011",
    "{ranks} ranks cannot share an FFN of {width} channels evenly",
    why="its rows stand in {groups} groups, and a rank has whole ones",
    fix="choose an ffn_dim that {heads} (n_kv_heads) divides, or a smaller parallelism.tp",
)
FEW_TOKENS = ConfigError.declare(
    "L3-PAR-012",
    "{ranks} ranks leave some of them without a token of a vocabulary of {size}",
    why="each has {part} tokens but the last ones",
    fix="set a smaller parallelism.tp",
)


class TensorParallel(ParallelStrategy):
    """Rows and columns of every matrix over the ranks, and of adapters (LoRA) what follows them. Any vocabulary: the
    last rank has what is left."""

    places_adapters = True

    def check(self, model: ModelConfig, dims: Dims) -> list[Problem]:
        ranks, part = dims.tp, math.ceil(model.vocab_size / dims.tp)
        problems = []
        if model.n_kv_heads % ranks:
            fitting = [size for size in range(1, model.n_kv_heads + 1) if model.n_kv_heads % size == 0]
            heads = model.n_kv_heads
            problems.append(UNEVEN_HEADS.problem("parallelism.tp", ranks=ranks, heads=heads, fitting=fitting))
        elif model.ffn_groups % ranks:
            width, groups, heads = model.ffn_dim, model.ffn_groups, model.n_kv_heads
            where = "parallelism.tp"
            problems.append(UNEVEN_FFN.problem(where, ranks=ranks, width=width, groups=groups, heads=heads))
        if (ranks - 1) * part >= model.vocab_size:
            problems.append(FEW_TOKENS.problem("parallelism.tp", ranks=ranks, size=model.vocab_size, part=part))
        return problems

    def estimate(self, model: ModelConfig, dims: Dims, step: StepShape) -> Cost:
        """Everything is shared but the norms, and the gathered rows that matrices multiply. Each block exchanges its
        rows four times forward and four times backward; what is computed again is exchanged again."""
        ranks, rows = dims.tp, step.tokens / dims.cp
        norms = (2 * model.n_layers + 1) * model.dim
        again = {"none": 0, "selective": 2, "full": 4}[step.recompute]
        # The embedding's rows, the last norm's and what goes back from the vocabulary are exchanged once each.
        exchanges = step.microbatches * ((8 + again) * model.n_layers / dims.pp + 4)
        return Cost(
            work=1 / ranks,
            weights=1 / ranks + (1 - 1 / ranks) * norms / model.num_params(),
            rows=1 / ranks,
            channels=1 / ranks,
            keys=1 / ranks,
            logits=1 / ranks,
            sent=exchanges * (1 - 1 / ranks) * rows * model.dim * step.width,
            messages=exchanges * (ranks > 1),
        )

    def apply(self, model: nn.Module, context: ParallelContext) -> None:
        if context.mesh is None or context.dims.tp == 1:
            return
        assert isinstance(model, Transformer)
        mesh, (group, rank, ranks) = context.mesh["tp"], context.axis("tp")
        model.multiple *= ranks
        for block in model.layers.values():
            for name in ("attention_norm", "ffn_norm"):
                block.set_submodule(name, RowsNorm(block.get_submodule(name), group))
            for name in ("attention.qkv", "ffn.gate_up"):
                block.set_submodule(name, _columns(block.get_submodule(name), mesh))
            for name in ("attention.out", "ffn.down"):
                block.set_submodule(name, _rows(block.get_submodule(name), mesh))
        if model.embed is not None:
            model.set_submodule("embed", CutEmbedding(_cut(model.embed.weight, 0, mesh), group, rank))
        if model.norm is not None:
            model.set_submodule("norm", LastNorm(model.norm, group))
            model.lm_head.weight = _cut(model.lm_head.weight, 0, mesh)
            if model.config.tied and model.embed is not None:
                model.lm_head.weight = model.embed.weight


def _columns(layer: nn.Module, mesh: DeviceMesh) -> nn.Module:
    if isinstance(layer, LoRALinear):
        return ColumnLoRA(layer, mesh)
    return ColumnLinear(_cut(layer.get_parameter("weight"), 0, mesh))


def _rows(layer: nn.Module, mesh: DeviceMesh) -> nn.Module:
    if isinstance(layer, LoRALinear):
        return RowLoRA(layer, mesh)
    return RowLinear(_cut(layer.get_parameter("weight"), 1, mesh), mesh.get_group())


def _cut(weight: Tensor, dim: int, mesh: DeviceMesh) -> nn.Parameter:
    """A weight, cut over the ranks."""
    cut = distribute_tensor(weight.detach(), mesh, [Shard(dim)], src_data_rank=None)
    return nn.Parameter(cut, requires_grad=weight.requires_grad)


class RowsNorm(nn.Module):
    """RMSNorm of a rank's rows, which are then gathered for matrices that each rank has others of."""

    def __init__(self, norm: nn.Module, group: dist.ProcessGroup) -> None:
        super().__init__()
        self.weight, self.eps, self.group = norm.get_parameter("weight"), norm.eps, group

    def forward(self, x_tD: Tensor) -> Tensor:
        return gather_rows(self._normal(x_tD), self.group)

    def _normal(self, x_tD: Tensor) -> Tensor:
        return rms_norm(x_tD, same_on_all(self.weight, self.group), self.eps)  # type: ignore[arg-type]


class LastNorm(RowsNorm):
    """The last norm: all ranks compute the same with what it gives (llama3.model.vocabulary adds up over parts)."""

    def forward(self, x_tD: Tensor) -> Tensor:
        return gather_same(self._normal(x_tD), self.group)


class ColumnLinear(nn.Module):
    """A rank's outputs, of all inputs: a part of the rows of W [O, I]."""

    def __init__(self, weight: nn.Parameter) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, x_TI: Tensor) -> Tensor:
        return F.linear(x_TI, local(self.weight))


class RowLinear(nn.Module):
    """All outputs, of a rank's inputs (a part of the columns of W), added up over ranks; each keeps its rows."""

    def __init__(self, weight: nn.Parameter, group: dist.ProcessGroup) -> None:
        super().__init__()
        self.weight, self.group = weight, group

    def part(self, x_TI: Tensor) -> Tensor:
        """A rank's share of the sum."""
        return F.linear(x_TI, local(self.weight))

    def forward(self, x_TI: Tensor) -> Tensor:
        return scatter_sums(self.part(x_TI), self.group)


class ColumnLoRA(LoRALinear):
    """Adapters of a `ColumnLinear`: A whole on every rank, of B the rows that are the rank's outputs."""

    here_O: Tensor

    def __init__(self, layer: LoRALinear, mesh: DeviceMesh) -> None:
        super().__init__(*_parts(layer))
        self.group, ranks, rank = mesh.get_group(), mesh.size(), mesh.get_local_rank()
        weight = layer.base.get_parameter("weight")
        self.base = ColumnLinear(_cut(weight, 0, mesh))
        self.lora_B = nn.ParameterDict([(name, _cut(b, 0, mesh)) for name, b in self.lora_B.items()])
        # A rank has whole heads and whole groups of gate and up, hence an equal share of every projection.
        first = len(weight) // ranks * rank
        here = [own_O.chunk(ranks)[rank] - first for own_O in layer.rows.values()]
        self.register_buffer("here_O", torch.cat(here), persistent=False)

    def forward(self, x_TI: Tensor) -> Tensor:
        y_TO = self.base(x_TI)
        if not self.enabled:
            return y_TO
        a = [same_on_all(a, self.group) for a in self.lora_A.values()]
        b = [local(b) for b in self.lora_B.values()]
        return y_TO + self.low_rank(x_TI, a, b, self.here_O, y_TO.shape[-1])


class RowLoRA(LoRALinear):
    """Adapters of a `RowLinear`: of A the columns that are the rank's inputs, B whole on every rank. What they add is
    added up over ranks with what the layer gives."""

    def __init__(self, layer: LoRALinear, mesh: DeviceMesh) -> None:
        super().__init__(*_parts(layer))
        self.group = mesh.get_group()
        self.base: RowLinear = RowLinear(_cut(layer.base.get_parameter("weight"), 1, mesh), self.group)
        self.lora_A = nn.ParameterDict([(name, _cut(a, 1, mesh)) for name, a in self.lora_A.items()])

    def forward(self, x_TI: Tensor) -> Tensor:
        if not self.enabled:
            return self.base(x_TI)
        y_TO = self.base.part(x_TI)
        a = [local(a) for a in self.lora_A.values()]
        b = [same_on_all(b, self.group) for b in self.lora_B.values()]
        return scatter_sums(y_TO + self.low_rank(x_TI, a, b, self.rows_O, y_TO.shape[-1]), self.group)


def _parts(layer: LoRALinear) -> tuple[nn.Linear, dict[str, Tensor], dict[str, int], float]:
    """What a layer with adapters is made of."""
    return cast(nn.Linear, layer.base), layer.rows, {name: len(a) for name, a in layer.lora_A.items()}, layer.scale


class CutEmbedding(nn.Module):
    """A rank's part of the vocabulary; a token's embedding comes from the rank that has it."""

    def __init__(self, weight: nn.Parameter, group: dist.ProcessGroup, rank: int) -> None:
        super().__init__()
        self.weight, self.group = weight, group
        self.first = rank * math.ceil(len(weight) / dist.get_world_size(group))

    def forward(self, tokens_T: Tensor) -> Tensor:
        part_VD = local(self.weight)
        here_T = (tokens_T >= self.first) & (tokens_T < self.first + len(part_VD))
        row_T = (tokens_T - self.first).clamp(0, len(part_VD) - 1)
        return scatter_sums(F.embedding(row_T, part_VD) * here_T[:, None], self.group)
