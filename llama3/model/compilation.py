"""Per-block compilation (torch.compile): the blocks are alike, so that one graph serves all of them.

Parameters keep their names: what is compiled stands beside the layers. A forward of `Transformer.forward` runs it; the
sampling engine, whose attention writes into a cache, runs the layers themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from llama3.model.attention import Attention, kept_pairs
from llama3.model.batch import Batch
from llama3.model.rows import ForestRows
from llama3.model.transformer import Transformer


def is_compiled(wanted: Literal["auto"] | bool, device: torch.device) -> bool:
    """Whether blocks are compiled. "auto": on a GPU; on a CPU compilation takes longer than it saves in a short run."""
    return device.type == "cuda" if wanted == "auto" else wanted


def compile_blocks(model: Transformer, device: torch.device) -> None:
    """Compile every block that stands here.

    Hidden states must be plain tensors before the first block (one that was still under way broke compiled blocks:
    pytorch issue 180614): the embedding of a strategy that communicates waits for what it receives.
    """
    model.compiled = {name: torch.compile(block) for name, block in model.layers.items()}
    if device.type == "cpu":  # on a GPU attention is one kernel, which a graph can hold
        model.rows = partial(_Rows, model.rows, torch.compiler.disable(_attend))


def _attend(attention: Attention, layer: int, q_TKGC: Tensor, k_TKC: Tensor, v_TKC: Tensor) -> Tensor:
    return attention.attend(layer, q_TKGC, k_TKC, v_TKC)


class _Rows(ForestRows):
    """Rows whose attention compiled blocks call without looking into it: its steps differ from forest to forest."""

    def __init__(self, rows: Callable[[Batch], ForestRows], attend: Callable[..., Tensor], forest: Batch) -> None:
        given = rows(forest)
        self.tokens_T, self.positions_T = given.tokens_T, given.positions_T
        self.held, self.joined = given.held, given.joined  # type: ignore[method-assign]
        self.attention = _Outside(given.attention, attend)


class _Outside:
    def __init__(self, attention: Attention, attend: Callable[..., Tensor]) -> None:
        self._attention, self._attend = attention, attend

    def kept_pairs(self, heads: int) -> int:
        return kept_pairs(self._attention, heads)

    def attend(self, layer: int, q_TKGC: Tensor, k_TKC: Tensor, v_TKC: Tensor) -> Tensor:
        return self._attend(self._attention, layer, q_TKGC, k_TKC, v_TKC)
