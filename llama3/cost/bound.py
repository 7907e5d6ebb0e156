"""The least time that a step can take on a device: what it reads over the bandwidth, or what it multiplies over the
rate of products, whichever is longer, then the launches of its kernels and what GPUs send each other.

    seconds = max(bytes / bandwidth, sum of 2 * weights * tokens / rate + attention / rate) + launches + sent / link

A decoding step of B answers of X tokens reads the weights and B * X keys and values. Matrices are split over N GPUs by
tensor parallelism: each has an N-th of everything, and after the two row-parallel products of a layer all add up their
hidden states (a ring all-reduce). Legend: B answers, X tokens in the cache, N GPUs.
"""

from __future__ import annotations

from dataclasses import dataclass

from llama3.cost.footprint import Footprint
from llama3.cost.gpus import Gpu
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


@dataclass(frozen=True, slots=True)
class Bounds:
    """Of a model in one format on `count` of a GPU."""

    config: ModelConfig
    footprint: Footprint
    gpu: Gpu
    count: int = 1

    def step(self, batch: int, context: int) -> Bound:
        """A step that adds a token to each of `batch` answers, `context` tokens of each in the cache."""
        bytes_read = self.footprint.read + batch * context * self.footprint.cache
        seconds = self._products(batch, scored=batch) + self._attention(batch * context)
        return self._bound(bytes_read, seconds, tokens=batch, steps=1)

    def prompt(self, tokens: int) -> Bound:
        """Reading a prompt to the first token of its answer, as many tokens a step as the engine takes."""
        steps = -(-tokens // PREFILL_TOKENS)
        pairs = tokens * (tokens + 1) // 2  # every token sees those before it and itself
        before = (steps - 1) * steps // 2 * PREFILL_TOKENS
        bytes_read = steps * self.footprint.read + before * self.footprint.cache
        seconds = self._products(tokens, scored=1) + self._attention(pairs)
        return self._bound(bytes_read, seconds, tokens=tokens, steps=steps)

    def _bound(self, bytes_read: int, seconds: float, *, tokens: int, steps: int) -> Bound:
        layers = self.config.n_layers
        sent = 2 * layers * tokens * self.config.dim * DTYPES[self.footprint.dtype].itemsize
        ring = 2 * (self.count - 1) / self.count * sent
        return Bound(
            read=bytes_read / self.count / self.gpu.bandwidth,
            compute=seconds / self.count,
            launch=steps * layers * KERNELS * self.gpu.launch,
            send=ring / (self.gpu.link / 2) if self.gpu.link and ring else 0.0,
        )

    def _products(self, tokens: int, *, scored: int) -> float:
        """Seconds of one device for the products of `tokens`, of which the output matrix meets `scored`."""
        layers = sum(2 * tokens * weights / self.gpu.rate(kind) for kind, weights in self.footprint.factors.items())
        return layers + 2 * scored * self.footprint.head / self.gpu.rate(self.footprint.dtype)

    def _attention(self, pairs: int) -> float:
        """Seconds of one device for the scores and sums of so many pairs of a token and one that it sees."""
        operations = 4 * pairs * self.config.n_layers * self.config.n_heads * self.config.head_dim
        return operations / self.gpu.rate(self.footprint.dtype)
