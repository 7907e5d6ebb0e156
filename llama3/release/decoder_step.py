"""`DecoderStep`: a transformer as one graph, its cache among the inputs and outputs, for runtimes that know no Python.

The same graph computes a prompt (nothing is past) and each token after it. Inputs and outputs have the names and shapes
of Optimum's decoder exports:

    input_ids [B, T]  attention_mask [B, X]  position_ids [B, T]  past_key_values.LAYER.key, .value [B, K, P, C]
    logits [B, T, V]  present.LAYER.key, .value [B, K, X, C]

Sequences of different lengths are padded on the left; `attention_mask` is 0 there.

Legend: B sequences, T new tokens of each, P past ones, X = P + T keys, K key-value heads, G query heads per key-value
head, C channels per head, D model dim, V vocabulary.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from llama3.checkpoints.hf import parse_config, read_raw_config
from llama3.model.config import ModelConfig
from llama3.model.transformer import Transformer, rope_frequencies
from llama3.release.exporter import VerifyReport
from llama3.release.probe import check_logps

StepRuntime = Callable[[Sequence[Tensor]], Sequence[Tensor]]
"""The inputs of a step, in order -> its outputs."""


class DecoderStep(nn.Module):
    """`Transformer.step` over keys and values that come in and go out."""

    def __init__(self, model: Transformer) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens_BT: Tensor, mask_BX: Tensor, positions_BT: Tensor, *past: Tensor) -> tuple[Tensor, ...]:
        cache = _GrowingCache(past, _visible(mask_BX, tokens_BT.shape[1]))
        h_TD = self.model.step(tokens_BT.flatten(), positions_BT.flatten(), cache)
        return self.model.logits(h_TD).unflatten(0, tokens_BT.shape), *cache.present


class _GrowingCache:
    """Keys and values [B, K, P, C] of each layer in turn, to which every layer appends its new ones."""

    def __init__(self, past: Sequence[Tensor], visible_BTX: Tensor) -> None:
        self.past, self.visible_BTX = past, visible_BTX
        self.present: list[Tensor] = []

    def attend(self, layer: int, q_TKGC: Tensor, k_TKC: Tensor, v_TKC: Tensor) -> Tensor:
        batch, new, _ = self.visible_BTX.shape
        group = q_TKGC.shape[2]
        k_BKXC, v_BKXC = (
            torch.cat([old, x_TKC.unflatten(0, (batch, new)).transpose(1, 2)], dim=2)
            for old, x_TKC in zip(self.past[2 * layer : 2 * layer + 2], (k_TKC, v_TKC), strict=True)
        )
        self.present += [k_BKXC, v_BKXC]
        # The query group is folded into the query length, so that keys and values are never repeated.
        q_BKQC = q_TKGC.unflatten(0, (batch, new)).permute(0, 2, 3, 1, 4).flatten(2, 3)
        visible_B1QX = self.visible_BTX.repeat(1, group, 1)[:, None]
        o_BKQC = F.scaled_dot_product_attention(q_BKQC, k_BKXC, v_BKXC, attn_mask=visible_B1QX)
        return o_BKQC.unflatten(2, (group, new)).permute(0, 3, 1, 2, 4).flatten(0, 1)


def _visible(mask_BX: Tensor, new: int) -> Tensor:
    """Which keys each new token sees: those up to itself that are no padding. Padding sees itself, so that no row of
    the softmax is empty."""
    key_X = torch.arange(mask_BX.shape[1], device=mask_BX.device)
    query_T1 = key_X[-new:, None]
    return (key_X <= query_T1) & ((mask_BX != 0)[:, None] | (key_X == query_T1))


def input_names(config: ModelConfig) -> list[str]:
    """Names of a step's inputs, in order."""
    return ["input_ids", "attention_mask", "position_ids", *_cache_names(config, "past_key_values")]


def output_names(config: ModelConfig) -> list[str]:
    """Names of a step's outputs, in order."""
    return ["logits", *_cache_names(config, "present")]


def _cache_names(config: ModelConfig, prefix: str) -> list[str]:
    return [f"{prefix}.{layer}.{part}" for layer in range(config.n_layers) for part in ("key", "value")]


def export_step(model: Transformer) -> ExportedProgram:
    """The step of a model traced by `torch.export`, with free numbers of sequences, new tokens and past ones."""
    rope_frequencies(model.config)  # kept from now on: what is first computed while tracing is no number
    batch, new, past = 2, 3, 5  # unequal, so that no two of them are taken for one
    cache = empty_cache(model.config, model.embed.weight.dtype, batch, past)
    example = step_inputs(torch.zeros(batch, new, dtype=torch.int64), cache)
    batch_dim, new_dim, past_dim = Dim("batch"), Dim("new"), Dim("past", min=0)
    tokens = {0: batch_dim, 1: new_dim}
    shapes = (tokens, {0: batch_dim, 1: Dim.AUTO}, tokens, ({0: batch_dim, 2: past_dim},) * len(cache))
    with torch.no_grad():
        return torch.export.export(DecoderStep(model).eval(), tuple(example), dynamic_shapes=shapes)


def empty_cache(config: ModelConfig, dtype: torch.dtype, batch: int = 1, past: int = 0) -> list[Tensor]:
    """Keys and values of `past` tokens, all 0."""
    shape = (batch, config.n_kv_heads, past, config.head_dim)
    return [torch.zeros(shape, dtype=dtype) for _ in range(2 * config.n_layers)]


def step_inputs(tokens_BT: Tensor, past: Sequence[Tensor]) -> list[Tensor]:
    """The inputs of a step that puts tokens behind what is past, without padding. Contiguous: compiled code does not
    look at strides."""
    batch, new = tokens_BT.shape
    length = past[0].shape[2]
    positions_BT = torch.arange(length, length + new).expand(batch, new).contiguous()
    return [tokens_BT.contiguous(), torch.ones(batch, length + new, dtype=torch.int64), positions_BT, *past]


@torch.no_grad()
def check_step(
    folder: Path, run: StepRuntime, tolerance: float, runtime: str, dtype: torch.dtype = torch.float32
) -> VerifyReport:
    """Compare a step that `runtime` computes with the probe in `folder`, whose config.json says the model's shape.

    The first half of each text is computed as a prompt, the rest token by token through the cache.
    """
    config = parse_config(read_raw_config(folder), folder)

    def logps_of(tokens_T: Tensor) -> Tensor:
        cache: Sequence[Tensor] = empty_cache(config, dtype)
        cuts = [0, *range(max(1, len(tokens_T) // 2), len(tokens_T) + 1)]
        logits = []
        for start, end in itertools.pairwise(cuts):
            logits_BTV, *cache = run(step_inputs(tokens_T[None, start:end], cache))
            logits.append(logits_BTV[0])
        return torch.cat(logits).float().log_softmax(-1)

    return check_logps(folder, logps_of, tolerance, runtime)
