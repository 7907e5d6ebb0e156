"""The Llama 3 transformer ("The Llama 3 Herd of Models", section 3.2): RMSNorm before each sublayer, rotary positions,
grouped-query attention, SwiGLU, no biases.

One model for training, scoring and serving. `hidden` reads a whole packed forest; `step` reads new tokens whose past
is in a cache. Both run the same layers; only the `Attention` object differs.

Query, key and value matrices are one parameter, as are gate and up: one product instead of three or two (measured on
CPU: a tenth of a training step). Rows of the former are grouped by key-value head, [G queries, key, value] each, and
those of the latter into as many groups, [gate, up] each, so that a row shard is a set of whole heads, or of whole pairs
of gate and up. Rotary pairs are channels (i, i + C/2), Hugging Face's layout; Meta's own
files pair (2i, 2i + 1), which is the same model with the rows of the query and key matrices permuted.

Legend: T tokens, D model dim, K key-value heads, G query heads per key-value head, C channels per head, F FFN dim, V
vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llama3.model.attention import Attention, KVCache, forest_attention
from llama3.model.batch import Batch
from llama3.model.config import ModelConfig
from llama3.model.ops import Linear, rms_norm, rotate
from llama3.model.rows import ForestRows

T = TypeVar("T")
KVSink = Callable[[int, Tensor, Tensor], None]
"""Receives (layer, k_TKC, v_TKC) of a forward pass, keys already rotated."""


class RMSNorm(nn.Module):
    """x / rms(x) * weight, over the last axis."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x_TD: Tensor) -> Tensor:
        return rms_norm(x_TD, self.weight, self.eps)


class SelfAttention(nn.Module):
    """Grouped-query attention with rotary positions."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.group, self.head_dim = config.n_heads // config.n_kv_heads, config.head_dim
        self.qkv = Linear(config.dim, config.n_kv_heads * (self.group + 2) * self.head_dim)
        self.out = Linear(config.n_heads * config.head_dim, config.dim)

    def forward(self, x_TD: Tensor, rope: tuple[Tensor, Tensor], layer: int, attention: Attention) -> Tensor:
        # As many heads as the matrix has here: a shard of its rows has some of them.
        qkv = self.qkv(x_TD).unflatten(-1, (-1, self.group + 2, self.head_dim))
        qk, v_TKC = rotate(qkv[:, :, :-1], *rope), qkv[:, :, -1]
        o_TKGC = attention.attend(layer, qk[:, :, :-1], qk[:, :, -1], v_TKC)
        return self.out(o_TKGC.flatten(1))


class FeedForward(nn.Module):
    """SwiGLU: down(silu(gate(x)) * up(x)). Legend: N groups of the rows of gate and up."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.group = config.ffn_dim // config.ffn_groups
        self.gate_up = Linear(config.dim, 2 * config.ffn_dim)
        self.down = Linear(config.ffn_dim, config.dim)

    def forward(self, x_TD: Tensor) -> Tensor:
        gate_TNF, up_TNF = self.gate_up(x_TD).unflatten(-1, (-1, 2, self.group)).unbind(-2)
        return self.down((F.silu(gate_TNF) * up_TNF).flatten(1))


class Block(nn.Module):
    """One layer: attention and feed-forward, each around a residual connection."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.dim, config.norm_eps)
        self.attention = SelfAttention(config)
        self.ffn_norm = RMSNorm(config.dim, config.norm_eps)
        self.ffn = FeedForward(config)

    def forward(self, x_TD: Tensor, rope: tuple[Tensor, Tensor], layer: int, attention: Attention) -> Tensor:
        x_TD = x_TD + self.attention(self.attention_norm(x_TD), rope, layer, attention)
        return x_TD + self.ffn(self.ffn_norm(x_TD))


class Transformer(nn.Module):
    """A Llama 3 model.

    value_head: one number per token (PPO's baseline); score_head: one number per segment (a reward model)

    A pipeline's stage is a model with a part of the `layers` (they keep their names), with `embed` on the first stage
    and `norm` and heads on the last one only: elsewhere they are None. Where a process has several stages, `chunks`
    names the layers of each, in the order of the model.
    """

    rows: Callable[[Batch], ForestRows] = ForestRows
    """Which rows of a forest are computed here."""
    multiple: int = 1
    """Of how many tokens a forest must be, for its rows to be cut evenly over ranks."""
    chunks: Sequence[Sequence[str]] | None = None
    set_gradient_sync: Callable[[bool], None] = staticmethod(lambda last: None)
    """Told before a backward pass whether it is the last of its update. A strategy that exchanges gradients during
    backward passes puts itself here, to do so in the last one only; where nobody tells, it does in all, and where none
    is the last, in `sum_gradients`."""

    def __init__(self, config: ModelConfig, *, value_head: bool = False, score_head: bool = False) -> None:
        super().__init__()
        self.config = config
        self.embed = nn.Embedding(config.vocab_size, config.dim)
        self.layers = nn.ModuleDict({str(index): Block(config) for index in range(config.n_layers)})
        self.norm = RMSNorm(config.dim, config.norm_eps)
        self.lm_head = Linear(config.dim, config.vocab_size)
        if config.tied:
            self.lm_head.weight = self.embed.weight
        self.value_head = Linear(config.dim, 1) if value_head else None
        self.score_head = Linear(config.dim, 1) if score_head else None

    def forward(
        self,
        batch: Batch,
        head: Callable[[Transformer, Tensor, ForestRows], T],
        x_TD: Tensor | None = None,
        chunk: int = 0,
    ) -> T | Tensor:
        """`head(self, hidden(batch), rows)`: everything that touches parameters happens inside one call of the module,
        so that wrappers which gather parameters around `forward` (FSDP) see it.

        x_TD: what the stage before returned. A stage before the last returns its hidden states for the next one.
        """
        rows = self.rows(batch)
        layers = self.layers.keys() if self.chunks is None else self.chunks[chunk]
        x_TD = self._run(rows.tokens_T, rows.positions_T, rows.attention, x_TD, layers)
        if self.norm is None or (self.chunks is not None and chunk < len(self.chunks) - 1):
            return x_TD
        return head(self, self.norm(x_TD), rows)

    def hidden(self, batch: Batch, kv_sink: KVSink | None = None) -> Tensor:
        """Final normalised hidden states h_TD of every token of a forest; `kv_sink` is shown each layer's keys and
        values (the engine's prefill stores them)."""
        attention = forest_attention(batch)
        if kv_sink is not None:
            attention = _Recorded(attention, kv_sink)
        return self.norm(self._run(batch.tokens_T, batch.positions_T, attention))

    def step(self, tokens_T: Tensor, positions_T: Tensor, cache: KVCache) -> Tensor:
        """Final normalised hidden states of new tokens whose past is in `cache`: one token of each running sequence
        (decoding), or a chunk of a prompt. The cache knows which token belongs to which sequence."""
        return self.norm(self._run(tokens_T, positions_T, cache))

    def logits(self, h_TD: Tensor) -> Tensor:
        """Scores over the vocabulary, in the dtype of the computation."""
        return self.lm_head(h_TD)

    def _run(
        self,
        tokens_T: Tensor,
        positions_T: Tensor,
        attention: Attention,
        x_TD: Tensor | None = None,
        layers: Iterable[str] | None = None,
    ) -> Tensor:
        """Hidden states after `layers` (default: all)."""
        x_TD = self.embed(tokens_T) if x_TD is None else x_TD
        rope = rope_table(self.config, positions_T, compute_dtype(x_TD))
        for index in self.layers if layers is None else layers:
            x_TD = self.layers[index](x_TD, rope, int(index), attention)
        return x_TD


class _Recorded:
    """An attention whose keys and values are also shown to a sink."""

    def __init__(self, attention: Attention, sink: KVSink) -> None:
        self.attention, self.sink = attention, sink

    def attend(self, layer: int, q_TKGC: Tensor, k_TKC: Tensor, v_TKC: Tensor) -> Tensor:
        self.sink(layer, k_TKC, v_TKC)
        return self.attention.attend(layer, q_TKGC, k_TKC, v_TKC)


def compute_dtype(x: Tensor) -> torch.dtype:
    """The dtype in which matrix products of `x` run here: autocast's where it is on, else x's own."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


@lru_cache(maxsize=16)
def rope_frequencies(config: ModelConfig) -> Tensor:
    """Radians per position of each rotary pair, float32[C/2].

    Llama 3.1 stretches the slow ones: wavelengths above original_max_position / low_freq_factor are divided by
    `factor`, those below original_max_position / high_freq_factor are kept, those between are blended.
    """
    pair = torch.arange(0, config.head_dim, 2, dtype=torch.float32)
    frequency = 1.0 / config.rope_theta ** (pair / config.head_dim)
    scaling = config.rope_scaling
    if scaling is None:
        return frequency
    turns = scaling.original_max_position * frequency / (2 * math.pi)
    keep = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    keep = keep.clamp(0, 1)
    return keep * frequency + (1 - keep) * frequency / scaling.factor


@lru_cache(maxsize=16)
def _copy_of_frequencies(config: ModelConfig, device: torch.device) -> Tensor:
    return rope_frequencies(config).to(device)


def _frequencies_on(config: ModelConfig, device: torch.device) -> Tensor:
    """A GPU keeps its own: a step that copies them from the host cannot be captured as a CUDA graph."""
    return _copy_of_frequencies(config, device) if device.type == "cuda" else rope_frequencies(config).to(device)


def rope_table(config: ModelConfig, positions_T: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """cos and sin of each token's rotary angles, [T, 1, 1, C/2] in `dtype`; the angles are computed in float32."""
    angles = positions_T.float()[:, None] * _frequencies_on(config, positions_T.device)
    return angles.cos().to(dtype)[:, None, None], angles.sin().to(dtype)[:, None, None]
