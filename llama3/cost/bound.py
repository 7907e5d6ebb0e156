"""The least time that a step can take on a device: what it reads over the bandwidth, or what it multiplies over the
rate of products, whichever is longer, then the launches of its kernels and what GPUs send each other.

    seconds = turns * (max(bytes / bandwidth, sum of 2 * weights * tokens / rate + attention / rate) + launches + sent)

of one micro-batch in one stage. A decoding step of B answers of X tokens reads the weights and B * X keys and values.
Along tp each GPU has a part of every matrix, and after the two row-parallel products of a layer all add up their hidden
states (a ring all-reduce). Along pp each has a part of the layers and sends hidden states to the next stage. With M
micro-batches under way a token takes max(M, pp) turns, in which M stages have work (Llama 3 paper, 6.1): the same batch
is cut into smaller ones, or so many more answers run beside each other.

Legend: B answers, X tokens in the cache, M micro-batches.
"""

from __future__ import annotations

from dataclasses import dataclass

from llama3.cost.footprint import Footprint
from llama3.cost.gpus import Gpu
from llama3.cost.layout import ALONE, GpuLayout
from llama3.inference.engine import PREFILL_TOKENS
from llama3.model.config import ModelConfig
from llama3.model.precision import DTYPES

KERNELS = 11
"""Of a layer: two norms, four products, rotation, writing to the cache, attention, the gate's activation, additions."""


@dataclass(frozen=True, slots=True)
class Bound:
    """The parts of the least time, in seconds."""

    read: float
    compute: float
    launch: float
    send: float

    @property
    def seconds(self) -> float:
        return max(self.read, self.compute) + self.launch + self.send

    def times(self, turns: float) -> Bound:
        """So often."""
        return Bound(self.read * turns, self.compute * turns, self.launch * turns, self.send * turns)


@dataclass(frozen=True, slots=True)
class Bounds:
    """Of a model in one format on a GPU, or several that share it."""

    config: ModelConfig
    footprint: Footprint
    gpu: Gpu
    layout: GpuLayout = ALONE

    def step(self, batch: int, context: int) -> Bound:
        """Adding a token to each of `batch` answers, `context` tokens of each in the cache."""
        micro = -(-batch // self.layout.microbatches)
        bytes_read = self.footprint.read + micro * context * self.footprint.cache
        seconds = self._products(micro, scored=micro) + self._attention(micro * context)
        return self._stage(bytes_read, seconds, tokens=micro, steps=1).times(self.layout.turns)

    def prompt(self, tokens: int) -> Bound:
        """Reading a prompt, alone, to the first token of its answer, as many tokens a step as the engine takes. With
        micro-batches the steps follow each other through the stages; without, each goes through all of them first."""
        steps = -(-tokens // PREFILL_TOKENS)
        turns = self.layout.pp if self.layout.microbatches == 1 else 1 + (self.layout.pp - 1) / steps
        return self._read(tokens).times(turns)

    def prompts(self, tokens: int) -> Bound:
        """What each prompt takes where one follows the other."""
        return self._read(tokens).times(self.layout.pp / self.layout.microbatches)

    def _read(self, tokens: int) -> Bound:
        """One stage's part of reading a prompt."""
        steps = -(-tokens // PREFILL_TOKENS)
        pairs = tokens * (tokens + 1) // 2  # every token sees those before it and itself
        before = (steps - 1) * steps // 2 * PREFILL_TOKENS
        bytes_read = steps * self.footprint.read + before * self.footprint.cache
        seconds = self._products(tokens, scored=1) + self._attention(pairs)
        return self._stage(bytes_read, seconds, tokens=tokens, steps=steps)

    def _stage(self, bytes_read: int, seconds: float, *, tokens: int, steps: int) -> Bound:
        tp, pp, layers = self.layout.tp, self.layout.pp, self.config.n_layers
        states = tokens * self.config.dim * DTYPES[self.footprint.dtype].itemsize
        ring = 2 * (tp - 1) / tp * 2 * layers / pp * states
        send = ring / self._rate(tp) if ring else 0.0
        if pp > 1:  # each rank of a stage sends its share of the rows
            send += states / tp / self._rate(tp * pp)
        return Bound(
            read=bytes_read / self.layout.count / self.gpu.bandwidth,
            compute=seconds / self.layout.count,
            launch=steps * layers / pp * KERNELS * self.gpu.launch,
            send=send,
        )

    def _rate(self, gpus: int) -> float:
        """Bytes a second that each of so many neighbours sends: over the network, where they are not of one node."""
        rate = (self.gpu.link or 0.0) / 2 if gpus <= self.gpu.node else self.gpu.network
        assert rate, "whoever asks about several GPUs has said how they are joined"
        return rate

    def _products(self, tokens: int, *, scored: int) -> float:
        """Seconds of one device for the products of `tokens`, of which the output matrix meets `scored`."""
        layers = sum(2 * tokens * weights / self.gpu.rate(kind) for kind, weights in self.footprint.factors.items())
        return layers + 2 * scored * self.footprint.head / self.gpu.rate(self.footprint.dtype)

    def _attention(self, pairs: int) -> float:
        """Seconds of one device for the scores and sums of so many pairs of a token and one that it sees."""
        operations = 4 * pairs * self.config.n_layers * self.config.n_heads * self.config.head_dim
        return operations / self.gpu.rate(self.footprint.dtype)
