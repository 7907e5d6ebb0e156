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
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from llama3.model.activations import Recompute
from llama3.model.attention import Attention, KVCache, forest_attention
from llama3.model.batch import Batch
from llama3.model.config import ModelConfig
from llama3.model.embedding_noise import noisy
from llama3.model.ops import Linear, rms_norm, rotate, swiglu
from llama3.model.remat import Rematerialisation
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

    def forward(self, qkv: Tensor, rope: tuple[Tensor, Tensor], layer: int, attention: Attention) -> Tensor:
        """qkv: what the matrix of that name gives for every token"""
        # As many heads as the matrix has here: a shard of its rows has some of them.
        qkv = qkv.unflatten(-1, (-1, self.group + 2, self.head_dim))
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

    def forward(self, gate_up: Tensor) -> Tensor:
        """gate_up: what the matrix of that name gives for every token"""
        return self.down(swiglu(gate_up.unflatten(-1, (-1, 2, self.group))).flatten(1))


class Block(nn.Module):
    """One layer: attention and feed-forward, each around a residual connection."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.dim, config.norm_eps)
        self.attention = SelfAttention(config)
        self.ffn_norm = RMSNorm(config.dim, config.norm_eps)
        self.ffn = FeedForward(config)

    def forward(
        self, x_TD: Tensor, rope: tuple[Tensor, Tensor], layer: int, attention: Attention, keep_pointwise: bool = True
    ) -> Tensor:
        """keep_pointwise: whether norms and the SwiGLU product are kept for the backward pass, or computed again"""
        # Each part begins with what is cheap and ends in a matrix product, before which recomputation stops. A compiled
        # block decides by itself what it computes again.
        run = _once if keep_pointwise or torch.compiler.is_compiling() else again
        qkv = run(lambda x_TD: self.attention.qkv(self.attention_norm(x_TD)), x_TD)
        x_TD = x_TD + self.attention(qkv, rope, layer, attention)
        gate_up = run(lambda x_TD: self.ffn.gate_up(self.ffn_norm(x_TD)), x_TD)
        return x_TD + run(self.ffn, gate_up)


def again(function: Callable[..., Tensor], *arguments: Any) -> Tensor:
    """`function(*arguments)`, of which nothing but the arguments is kept for the backward pass: that computes it again,
    up to the last thing that it needs."""
    return checkpoint(function, *arguments, use_reentrant=False, preserve_rng_state=False)  # nothing random in a block


def _once(function: Callable[..., Tensor], *arguments: Any) -> Tensor:
    return function(*arguments)


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
    in_flight: int = 1
    """Of how many forwards what they keep for their backward stands at once, at most: more in a pipeline."""
    compiled: Mapping[str, Callable[..., Tensor]] | None = None
    """What runs in place of each layer in `forward`, if it was compiled."""
    remat: Rematerialisation | None = None
    """Which blocks a forward with gradient keeps nothing of, and computes again; None: every block keeps all."""
    embedding_noise: float = 0.0
    """The alpha of NEFTune: a forward with gradient, in training, adds noise to embeddings that stand here whole."""

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
        if x_TD is None and self.embedding_noise and self.training and torch.is_grad_enabled():
            x_TD = noisy(self.embed(rows.tokens_T), batch, self.embedding_noise)
        x_TD = self._run(rows.tokens_T, rows.positions_T, rows.attention, x_TD, layers, self.compiled)
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

    def step(
        self, tokens_T: Tensor, positions_T: Tensor, cache: KVCache, x_TD: Tensor | None = None, chunk: int = 0
    ) -> Tensor:
        """Final normalised hidden states of new tokens whose past is in `cache`: one token of each running sequence
        (decoding), or a chunk of a prompt. The cache knows which token belongs to which sequence. A stage takes and
        gives hidden states as in `forward`."""
        layers = self.layers.keys() if self.chunks is None else self.chunks[chunk]
        x_TD = self._run(tokens_T, positions_T, cache, x_TD, layers)
        if self.norm is None or (self.chunks is not None and chunk < len(self.chunks) - 1):
            return x_TD
        return self.norm(x_TD)

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
        compiled: Mapping[str, Callable[..., Tensor]] | None = None,
    ) -> Tensor:
        """Hidden states after `layers` (default: all), by what was compiled of them where it is given."""
        x_TD = self.embed(tokens_T) if x_TD is None else x_TD
        rope = rope_table(self.config, positions_T, compute_dtype(x_TD))
        layers = list(self.layers if layers is None else layers)
        recompute = [Recompute.NOTHING] * len(layers)
        if self.remat is not None and torch.is_grad_enabled():
            recompute = self.remat.of_blocks(len(layers), len(tokens_T), compute_dtype(x_TD), attention, self.in_flight)
        blocks: Mapping[str, Callable[..., Tensor]] = compiled or self.layers  # type: ignore[assignment]
        for index, what in zip(layers, recompute, strict=True):
            run = again if what is Recompute.BLOCK else _once
            x_TD = run(blocks[index], x_TD, rope, int(index), attention, what is not Recompute.POINTWISE)
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
