"""What a parallel strategy costs a rank, told without devices: the figures that `llama3 plan` composes. Torch-free.

A strategy says which share of the model's work and memory is left to the fullest rank along its axis, and what it
sends. Shares of several strategies multiply, bytes and messages add up (`combined`), so that a strategy need know only
its own axis.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from operator import attrgetter
from typing import Literal, Protocol, get_args

from llama3.model import activations
from llama3.model.activations import Kept
from llama3.model.config import ModelConfig

Recompute = Literal["none", "selective", "full"]
"""What the backward pass computes again: nothing; norms and the gate's product; every block from its input."""
_RECOMPUTE = dict(zip(get_args(Recompute), activations.Recompute, strict=True))


@dataclass(frozen=True, slots=True)
class StepShape:
    """One update, as a rank computes it.

    microbatches: forwards and backwards one after the other
    tokens: of one microbatch, on all ranks that share it
    seq_len: tokens of a row
    width: bytes of a number in products; stream: in the hidden states between sublayers, which mixed precision by
        autocast leaves in float32
    scores: numbers of attention scores that are kept for each token and layer; 0 for a fused kernel
    """

    microbatches: int
    tokens: int
    seq_len: int
    width: int = 2
    stream: int = 2
    recompute: Recompute = "none"
    scores: int = 0

    def kept(self, model: ModelConfig) -> Kept:
        """Numbers that a layer keeps of each token for its backward pass."""
        return Kept.of(model, _RECOMPUTE[self.recompute], self.scores)


@dataclass(frozen=True, slots=True)
class Cost:
    """What is left to the fullest rank along an axis. A strategy without an opinion costs nothing: `Cost()`.

    Shares, which multiply over the strategies of a layout:
        work: of the products
        weights: of the weights that it computes with
        states: of those, what it keeps in float32: weights, gradients and moments
        rows, inputs, channels, keys: of what one microbatch keeps for the backward pass (`Kept`); above 1 where
            several microbatches are alive at once
        logits: of the scores over the vocabulary

    What adds up:
        gathered: bytes of weights and gradients that it has beside its own
        sent: bytes that it sends in a step while it waits; behind: those that it sends while it computes
        messages: exchanges of a step that it waits for; messages_behind: those while it computes
        bubble: time that it waits for its turn, over the time that it works
    """

    work: float = 1.0
    weights: float = 1.0
    states: float = 1.0
    rows: float = 1.0
    inputs: float = 1.0
    channels: float = 1.0
    keys: float = 1.0
    logits: float = 1.0
    gathered: float = 0.0
    sent: float = 0.0
    behind: float = 0.0
    messages: float = 0.0
    messages_behind: float = 0.0
    bubble: float = 0.0


# In the order of the fields.
SHARES = ("work", "weights", "states", "rows", "inputs", "channels", "keys", "logits")
SUMS = ("gathered", "sent", "behind", "messages", "messages_behind", "bubble")


_SHARES, _SUMS = attrgetter(*SHARES), attrgetter(*SUMS)


def combined(costs: Iterable[Cost]) -> Cost:
    """What several strategies cost together."""
    found = list(costs)
    shares = map(math.prod, zip(*map(_SHARES, found), strict=True))
    sums = map(sum, zip(*map(_SUMS, found), strict=True))
    return Cost(*shares, *sums)


class PipelineTurn(Protocol):
    """One forward or backward of one microbatch through one of the parts of the model that a rank of a pipeline has; of
    a backward in two halves the second one is of kind "weights"."""

    @property
    def kind(self) -> Literal["forward", "backward", "weights"]: ...
    @property
    def chunk(self) -> int: ...
    @property
    def microbatch(self) -> int: ...
