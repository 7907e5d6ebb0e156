"""How many bytes a forward pass keeps for its backward pass, and which blocks are computed again to keep fewer.

A block can keep everything (`NOTHING` is recomputed); or only what matrix products and attention made, so that norms
and the SwiGLU product are computed again, which costs almost nothing; or only its input, which costs its whole forward
(Chen et al. 2016; the selective form: Korthikanti et al. 2022). A budget is met with the least of that work.

Torch-free. Legend: T tokens, D model dim, H query heads, K key-value heads, C channels per head, F FFN dim, V
vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from llama3.config.precision import AutoPrecision
from llama3.model.config import ModelConfig

RESIDUAL = 4
"""Bytes of a number of the residual stream: float32 in either precision."""
FLOAT = 4
"""Bytes of a float32."""
INDICES = 32
"""Bytes of a token's numbers: its id, its target's, the row that predicts it, its entropy."""
KEPT_LOGITS = 1 << 26
"""Logits of one batch that are kept for the backward pass; beyond this they are computed again, so that a vocabulary of
128,256 costs one more product instead of its size in memory."""


class Recompute(IntEnum):
    """What of a block is computed again in the backward pass."""

    NOTHING = 0
    POINTWISE = 1
    """Norms and the SwiGLU product: what no matrix product made."""
    BLOCK = 2
    """All; only its input is kept."""


@dataclass(frozen=True, slots=True)
class Kept:
    """Numbers that a block keeps of each token for its backward pass, by what they are cut along.

    rows: hidden states between the sublayers, and norms: what these were divided by, in float32; inputs: normed ones,
    which matrices multiply; channels: of heads and of the FFN; keys: keys and values
    """

    rows: int
    norms: int
    inputs: int
    channels: int
    keys: int

    @classmethod
    def of(cls, model: ModelConfig, recompute: Recompute = Recompute.NOTHING, scores: int = 0) -> Kept:
        """Of the transformer of this project: rows 2D, a number of each of two norms, inputs 2D; queries and outputs 2Q
        with Q = HC, gate and up 2F, the product of the two F; keys and values 2KC.

        scores: of attention, kept for a token by all heads; 0 for a fused kernel
        """
        if recompute is Recompute.BLOCK:
            return cls(model.dim, 0, 0, 0, 0)
        channels = 2 * model.n_heads * model.head_dim + 2 * model.ffn_dim + scores
        keys = 2 * model.n_kv_heads * model.head_dim
        if recompute is Recompute.POINTWISE:
            return cls(2 * model.dim, 0, 0, channels, keys)
        return cls(2 * model.dim, 2, 2 * model.dim, channels + model.ffn_dim, keys)


def block_bytes(
    config: ModelConfig,
    tokens: int,
    recompute: Recompute = Recompute.NOTHING,
    *,
    precision: AutoPrecision = "fp32",
    pairs: int = 0,
    tp: int = 1,
) -> int:
    """Bytes that one block keeps of `tokens` tokens on one rank.

    Args:
        tokens: those that the rank computes, before they are cut over `tp`
        precision: of matrix products
        pairs: pairs of a query and a key whose probability is kept, of one head (see `causal_pairs`); 0 for a fused
            kernel, as on a GPU
        tp: ranks that share each matrix, and the rows between the blocks
    """
    kept, product = Kept.of(config, recompute), _bytes(precision)
    shared = tokens * (kept.rows * RESIDUAL + kept.norms * FLOAT + (kept.channels + kept.keys) * product) // tp
    if recompute is not Recompute.BLOCK:
        shared += pairs * config.n_heads * product // tp
    return shared + tokens * kept.inputs * product


def head_bytes(config: ModelConfig, tokens: int, *, precision: AutoPrecision = "fp32", tp: int = 1) -> int:
    """Bytes that embedding, rotary angles, last norm and output matrix keep of `tokens` tokens, all of them targets."""
    part = -(-config.vocab_size // tp)
    logits = tokens * part if tokens * part <= KEPT_LOGITS else 0
    hidden = config.dim * (RESIDUAL // tp + _bytes(precision)) + config.head_dim * _bytes(precision) + INDICES
    return tokens * hidden + logits * _bytes(precision)


def activation_bytes(
    config: ModelConfig,
    tokens: int,
    recompute: Recompute = Recompute.NOTHING,
    *,
    precision: AutoPrecision = "fp32",
    pairs: int = 0,
    tp: int = 1,
) -> int:
    """Bytes that a forward of the whole model keeps where every block recomputes the same; see `block_bytes`."""
    block = block_bytes(config, tokens, recompute, precision=precision, pairs=pairs, tp=tp)
    return config.n_layers * block + head_bytes(config, tokens, precision=precision, tp=tp)


def causal_pairs(tokens: int, query_block: int) -> int:
    """Pairs of a query and a key of a document that the CPU's attention computes, in blocks of so many queries."""
    whole, rest = divmod(tokens, query_block)
    return query_block * query_block * whole * (whole + 1) // 2 + rest * tokens


def recomputed(block: Sequence[int], blocks: int, budget: int) -> list[Recompute]:
    """What each of `blocks` blocks recomputes so that all of them together keep at most `budget` bytes.

    block: bytes that one keeps, by `Recompute`

    The first blocks recompute the most: when their turn comes, what the later ones kept is free again. Where even the
    inputs of all blocks are too many bytes, all are computed again.
    """
    everything, products, least = block
    if (over := blocks * everything - budget) <= 0:
        return [Recompute.NOTHING] * blocks
    if blocks * products <= budget:
        light = min(-(-over // (everything - products)), blocks)
        return [Recompute.POINTWISE] * light + [Recompute.NOTHING] * (blocks - light)
    # A block that is computed again stands whole meanwhile.
    over = blocks * products + everything - budget
    heavy = min(-(-over // (products - least)), blocks)
    return [Recompute.BLOCK] * heavy + [Recompute.POINTWISE] * (blocks - heavy)


def least_bytes(config: ModelConfig, tokens: int, *, precision: AutoPrecision = "fp32", tp: int = 1) -> int:
    """Bytes below which no budget can be kept: the inputs of all blocks, the head, and one block that is computed
    again."""
    inputs = activation_bytes(config, tokens, Recompute.BLOCK, precision=precision, tp=tp)
    return inputs + block_bytes(config, tokens, precision=precision, tp=tp)


def _bytes(precision: AutoPrecision) -> int:
    """Of a number that a product of this precision takes or gives; of the wider one where the machine chooses."""
    return 2 if precision == "bf16" else 4
