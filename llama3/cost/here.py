"""What this machine does: how fast it reads, multiplies and gets from one operation to the next, and how fast a model
decodes and reads prompts through the engine that serves it.

A step is timed on a cache whose sequences are as long as was asked for, each in blocks of its own, filled with one
number: keys and values cost the same whatever they are, and computing them for every answer would take minutes. Their
prompts are admitted and freed, so the engine finds them in its prefix cache and computes only their last token.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from llama3.config.serving import KvDtype
from llama3.cost.bound import KERNELS
from llama3.cost.gpus import FactorType, Gpu
from llama3.inference.engine import PREFILL_TOKENS, Engine
from llama3.inference.sampling import Sampling
from llama3.model.build import init_weights
from llama3.model.config import ModelConfig
from llama3.model.needs import memory_here
from llama3.model.ops import Linear
from llama3.model.precision import DTYPES
from llama3.model.transformer import Transformer

BLOCK = 16
"""Tokens of a block of the cache."""
STEPS = BLOCK - 1
"""Tokens of an answer; all but the first are timed. So many fill the last block of a context of whole blocks."""
ENOUGH_STEPS, ENOUGH_SECONDS = 3, 2.0
"""After so many steps and seconds no further one is timed."""
READ_WIDTH = 8192
"""Rows and columns of the matrix whose reading is timed: 134 MB in bfloat16, more than caches hold."""
PRODUCT_WIDTH = {"cpu": 1024, "cuda": 8192}
"""Rows and columns of the matrices that are multiplied: enough to keep a device busy."""
SAMPLES = 5
UNKNOWN_MEMORY = 1 << 62
"""Bytes of a machine that does not tell how many it has: nothing is refused there."""


def this_machine(config: ModelConfig, device: str, factors: Iterable[FactorType]) -> Gpu:
    """What this machine offers for models of the shape `config`: products of the types `factors` and of the dtypes."""
    layers = ModelConfig(64, config.n_layers, 1, 1, 64, 64, max_seq_len=64)
    weightless = init_weights(Transformer(layers), 0).to(device, torch.bfloat16)
    with torch.inference_mode():
        return Gpu(
            memory=_memory(device),
            bandwidth=max(_bandwidth(device, dtype) for dtype in DTYPES.values()),
            flops={kind: _flops(device, kind) for kind in dict.fromkeys((*DTYPES, *factors)) if kind != "fp8"},
            launch=decode_seconds(weightless, 1, layers.max_seq_len) / (KERNELS * config.n_layers),
        )


def decode_seconds(model: Transformer, batch: int, context: int, kv_dtype: KvDtype = "auto") -> float:
    """Seconds of a step (the median) that adds a token to each of `batch` answers of up to `context` tokens, BLOCK or
    more."""
    length = (context - STEPS - 1) // BLOCK * BLOCK + 1  # its last token alone is in no full block
    engine = _engine(model, batch, context, kv_dtype)
    engine.cache.kv.fill_(1)
    prompts = [_prompt(model.config, length, seed) for seed in range(batch)]
    for prompt in prompts:
        admitted = engine.pool.admit(prompt)
        assert admitted is not None, "there are blocks for all"
        engine.pool.free(admitted[0])
    requests = [engine.submit(prompt, Sampling(STEPS, temperature=0.0)) for prompt in prompts]
    seconds: list[float] = []
    engine.step()  # the last tokens of the prompts
    while not requests[0].is_over and (len(seconds) < ENOUGH_STEPS or sum(seconds) < ENOUGH_SECONDS):
        seconds.append(_seconds_of(engine.step, model.embed.weight.device.type))
    return statistics.median(seconds)


def prompt_seconds(model: Transformer, tokens: int, limit: float, kv_dtype: KvDtype = "auto") -> float | None:
    """Seconds from a prompt to the first token of its answer; None where it takes more than `limit`."""
    engine = _engine(model, 1, tokens + 1, kv_dtype)
    best: float | None = None
    began = time.perf_counter()
    # The first time pays for making kernels, so a short prompt is read again.
    while best is None or time.perf_counter() - began < min(ENOUGH_SECONDS / 2, limit):
        engine.pool.reset()
        request = engine.submit(_prompt(model.config, tokens, 0), Sampling(1, temperature=0.0))
        started = time.perf_counter()
        while not request.is_over:
            engine.step()
            if time.perf_counter() - started > limit:
                engine.cancel(request)
                return best
        seconds = time.perf_counter() - started
        best = seconds if best is None else min(best, seconds)
    return best


def _engine(model: Transformer, batch: int, context: int, kv_dtype: KvDtype) -> Engine:
    """One whose cache holds `batch` sequences of `context` tokens."""
    blocks = batch * -(-context // BLOCK)
    blocks += blocks // 50 + 2  # the null block, and what admission leaves free
    return Engine(
        model,
        num_blocks=blocks,
        block_size=BLOCK,
        max_batch=batch,
        prefill_tokens=max(PREFILL_TOKENS, batch),
        kv_dtype=kv_dtype,
    )


def _prompt(config: ModelConfig, length: int, seed: int) -> npt.NDArray[np.int64]:
    return np.random.default_rng(seed).integers(0, config.vocab_size, length)


def _memory(device: str) -> float:
    if device == "cuda":
        return float(torch.cuda.get_device_properties(0).total_memory)
    return float(memory_here() or UNKNOWN_MEMORY)


def _bandwidth(device: str, dtype: torch.dtype) -> float:
    """Bytes a second of weights, read as a step reads them: by the product of a matrix and one token."""
    layer = Linear(READ_WIDTH, READ_WIDTH).to(device, dtype)
    x = torch.ones(1, READ_WIDTH, device=device, dtype=dtype)
    return layer.weight.nbytes / _fastest(lambda: layer(x), device)


def _flops(device: str, kind: FactorType) -> float:
    """Operations a second of products of this type."""
    width = PRODUCT_WIDTH[device]
    if kind == "int8":
        codes = torch.ones(width, width, device=device, dtype=torch.int8)
        return 2 * width**3 / _fastest(lambda: torch._int_mm(codes, codes.t()), device)
    x = torch.ones(width, width, device=device, dtype=DTYPES["fp32" if kind == "fp32" else "bf16"])
    return 2 * width**3 / _fastest(lambda: F.linear(x, x), device)


def _fastest(work: Callable[[], object], device: str) -> float:
    """Seconds of the fastest of a few times; the first, which makes kernels, is left out."""
    return min([_seconds_of(work, device) for _ in range(1 + SAMPLES)][1:])


def _seconds_of(work: Callable[[], object], device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started
