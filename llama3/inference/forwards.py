"""Forwards of an engine's steps: what is to be computed (`ForwardPlan`), and who computes it (`Forwards`).

One process computes a plan at once (`WholeForwards`). Several share a model and may have several plans under way, one
in each stage of a pipeline (llama3.inference.ranks). Either way results come in the order in which plans were given.

Legend: T new tokens, B sequences, D model dim, V vocabulary, R places whose next token is drawn, S places whose hidden
states are shown.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
from torch import Tensor

from llama3.inference.core_step import CoreStep
from llama3.inference.paged_attention import Ints, to_device
from llama3.inference.paged_cache import PagedCache
from llama3.inference.step_graphs import StepGraphs
from llama3.model.transformer import Transformer


@dataclass(frozen=True)
class ForwardPlan:
    """New tokens of some rows of the cache, back to back: the tokens `starts_B[i]` to `ends_B[i]` of row `rows_B[i]`.
    `scored_R` and `shown_S` are places among the T tokens."""

    tokens_T: npt.NDArray[np.uint32]
    rows_B: Ints
    starts_B: Ints
    ends_B: Ints
    scored_R: Ints
    shown_S: Ints


class OutputHead(Protocol):
    """Makes scores over the vocabulary of final hidden states."""

    def logits(self, h_TD: Tensor) -> Tensor:
        """h_TD -> logits_TV."""
        ...


class Forwards(OutputHead, Protocol):
    """Computes plans. `depth` of them may be under way at once; `cache` is this process's part of the KV cache."""

    depth: int
    cache: PagedCache

    def launch(self, plan: ForwardPlan) -> None:
        """Begin to compute, or compute, a plan. Copies that forks need are made first."""
        ...

    def collect(self) -> tuple[Tensor, Tensor]:
        """Of the oldest plan that was not collected: logits_RV and h_SD."""
        ...

    def wipe(self) -> None:
        """Drop what is under way and zero all keys and values."""
        ...

    def follow_weights(self) -> None:
        """The model's weights were changed."""
        ...

    def check(self) -> None:
        """Raises LlamaError where nothing will be computed any more."""
        ...


class WholeForwards(Forwards):
    """Of a model in this process: by the Rust core, by CUDA graphs, or layer by layer."""

    depth = 1

    def __init__(self, model: Transformer, cache: PagedCache) -> None:
        self.model, self.cache = model, cache
        has_graphs = cache.kv.device.type == "cuda" and cache.ways.few == "triton"
        self._core_step = CoreStep(model, cache)
        self.graphs = StepGraphs(model, cache) if has_graphs else None
        self._computed: deque[tuple[Tensor, Tensor]] = deque()

    def launch(self, plan: ForwardPlan) -> None:
        """Compute it."""
        h_TD = self.hidden(plan)
        logits_RV = self.logits(h_TD[to_device(plan.scored_R, h_TD.device)])
        shown = to_device(plan.shown_S, h_TD.device) if len(plan.shown_S) else slice(0)
        self._computed.append((logits_RV, h_TD[shown]))

    def hidden(self, plan: ForwardPlan) -> Tensor:
        """Final hidden states of all its tokens."""
        rows, starts, ends = plan.rows_B, plan.starts_B, plan.ends_B
        if self.graphs is not None and self.graphs.serve(ends - starts):
            return self.graphs.step(plan.tokens_T, rows, starts, ends)
        positions_T = self.cache.plan(rows, starts, ends)
        tokens_T = to_device(plan.tokens_T.astype(np.int64), positions_T.device)
        return self._core_step.step(tokens_T, positions_T)

    def collect(self) -> tuple[Tensor, Tensor]:
        """What was computed first."""
        return self._computed.popleft()

    def logits(self, h_TD: Tensor) -> Tensor:
        """By the model's output matrix."""
        return self.model.logits(h_TD)

    def wipe(self) -> None:
        """What a failed forward left behind may not be a number."""
        self._computed.clear()
        self.cache.wipe()

    def follow_weights(self) -> None:
        """Graphs may have to be captured anew."""
        if self.graphs is not None:
            self.graphs.follow_weights()

    def check(self) -> None:
        """A process that is asked is there."""
