"""`StepGraphs`: the step of decoding as CUDA graphs, one for each of a few numbers of tokens.

A step of a small model is some hundred short kernels; launching them one by one takes longer than they run. A graph
launches them all at once, but computes with the same shapes and addresses each time. So tokens, positions, slots and
block tables lie in buffers that stay, and a step is padded to the next power of two of tokens. A padding token is
token 0 at position 0; its keys and values go to the null block, which no sequence reads.

Only steps whose sequences all have few new tokens are computed so: their attention (`triton`, see paged_attention.py)
needs no shape but the number of tokens. A step with a piece of a long prompt is launched as it comes.

Legend: T tokens of the padded step, L the largest of these, P blocks of the longest sequence.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from llama3.errors import LlamaError
from llama3.inference.paged_attention import Ints, TritonReads, to_device
from llama3.inference.paged_cache import FEW_TOKENS, PagedCache
from llama3.model.transformer import Transformer

log = logging.getLogger(__name__)

NOT_CAPTURED = LlamaError.declare(
    "L3-GEN-032",
    "a step of {tokens} tokens was not captured as a CUDA graph, so decoding is slower",
    why="{reason}",
    fix="leave it: the answers are the same",
)

LARGEST = 256
"""Tokens of the largest graph. Beyond, the arithmetic takes longer than the launches."""
WARM_UPS = 2
"""Runs before a capture: in the first, kernels are compiled and libraries make their workspaces."""

Replay = Callable[[], Tensor]


class StepGraphs:
    """Computes steps of few new tokens for each sequence with graphs, which are captured when first needed.

    capture: makes of a computation what repeats it and returns its result; a test's may compute it anew each time
    """

    def __init__(
        self, model: Transformer, cache: PagedCache, capture: Callable[[Callable[[], Tensor]], Replay] | None = None
    ) -> None:
        self.model, self.cache = model, cache
        device, lines = cache.kv.device, (LARGEST, cache.pool.max_blocks)
        self._numbers_3L = torch.zeros(3, LARGEST, dtype=torch.int64, device=device)  # tokens, positions, slots
        self._seen_L = torch.ones(LARGEST, dtype=torch.int32, device=device)
        self._table_LP = torch.zeros(lines, dtype=torch.int32, device=device)
        self._capture = Capture(device) if capture is None else capture
        self._replays: dict[int, Replay] = {}
        self._addresses = self._weight_addresses()

    def serve(self, new: Ints) -> bool:
        """Whether a step of so many new tokens of each sequence is computed here."""
        return bool((new <= FEW_TOKENS).all()) and 0 < int(new.sum()) <= LARGEST

    def step(self, tokens: npt.NDArray[np.uint32], rows: Ints, starts: Ints, ends: Ints) -> Tensor:
        """What `PagedCache.plan` and `Transformer.step` give: final hidden states of the tokens. They are overwritten
        by the next call."""
        count = len(tokens)
        size = 1 << (count - 1).bit_length()
        self.cache.copy_blocks()
        self._fill(size, tokens, rows, starts, ends)
        if size not in self._replays:
            self._replays[size] = self._captured(size)
        return self._replays[size]()[:count]

    def follow_weights(self) -> None:
        """Forget the graphs if the weights lie elsewhere now; those that were changed in place are read anew."""
        if (addresses := self._weight_addresses()) != self._addresses:
            self._replays.clear()
            self._addresses = addresses

    def _weight_addresses(self) -> list[int]:
        return [tensor.data_ptr() for tensor in (*self.model.parameters(), *self.model.buffers())]

    def _fill(self, size: int, tokens: npt.NDArray[np.uint32], rows: Ints, starts: Ints, ends: Ints) -> None:
        count, device = len(tokens), self.cache.kv.device
        numbers_3T, seen_T = np.zeros((3, size), np.int64), np.ones(size, np.int32)
        positions, slots = self.cache.places(rows, starts, ends)
        numbers_3T[:, :count] = tokens, positions, slots
        seen_T[:count] = positions + 1
        blocks = -(-int(seen_T.max()) // self.cache.pool.block_size)
        table_TP = np.zeros((size, blocks), np.int32)
        table_TP[:count] = self.cache.pool.block_table[np.repeat(rows, ends - starts), :blocks]
        self._numbers_3L[:, :size].copy_(to_device(numbers_3T, device))
        self._seen_L[:size].copy_(to_device(seen_T, device))
        self._table_LP[:size, :blocks].copy_(to_device(table_TP, device))  # what is right of them nobody reads

    def _captured(self, size: int) -> Replay:
        compute = lambda: self._compute(size)
        try:
            return self._capture(compute)
        except RuntimeError as error:  # a layer that asks the device for a number cannot be captured
            log.warning("%s", NOT_CAPTURED.problem("the engine", tokens=size, reason=error))
            return compute

    def _compute(self, size: int) -> Tensor:
        tokens_T, positions_T, slots_T = self._numbers_3L[:, :size]
        self.cache.follow(slots_T, TritonReads(self._table_LP[:size], self._seen_L[:size]))
        return self.model.step(tokens_T, positions_T, self.cache)


class Capture:
    """Makes CUDA graphs that share their memory: no two of them run at once."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.memory = torch.cuda.graph_pool_handle()

    def __call__(self, compute: Callable[[], Tensor]) -> Replay:
        """Computes once or more, which must do no harm, and returns what repeats it. Raises RuntimeError where it
        cannot be captured."""
        with torch.cuda.device(self.device):
            aside = torch.cuda.Stream()
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):
                for _ in range(WARM_UPS):
                    compute()
            torch.cuda.current_stream().wait_stream(aside)
            graph = torch.cuda.CUDAGraph()
            # Other threads, which encode text or read answers, may use the device meanwhile.
            with torch.cuda.graph(graph, pool=self.memory, capture_error_mode="thread_local"):
                result = compute()

        def replay() -> Tensor:
            graph.replay()
            return result

        return replay
