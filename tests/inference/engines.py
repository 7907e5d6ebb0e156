"""What tests of the engine have in common: small models, the oracle, a model that fails, threads."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from llama3.inference import Engine, Sampling
from llama3.model.batch import Batch
from llama3.model.build import init_weights
from llama3.model.config import ModelConfig, RopeScaling
from llama3.model.transformer import Transformer

VOCAB = 61
CONFIGS = {
    "grouped": ModelConfig(32, 2, 4, 2, 64, VOCAB, max_seq_len=128),
    "scaled-rope": ModelConfig(
        24, 3, 3, 1, 40, VOCAB, rope_scaling=RopeScaling(8.0, 1.0, 4.0, 32), tied=True, max_seq_len=128
    ),
    "multi-head": ModelConfig(16, 1, 2, 2, 32, VOCAB, max_seq_len=128),
}
GREEDY = Sampling(12, temperature=0)


def make_model(name: str = "grouped", seed: int = 0) -> Transformer:
    model = init_weights(Transformer(CONFIGS[name]), seed)
    with torch.no_grad():
        for parameter in model.parameters():  # larger weights, for scores that differ clearly
            parameter.mul_(2.5)
    return model


def random_prompts(count: int, longest: int, seed: int = 0) -> list[list[int]]:
    random = np.random.default_rng(seed)
    return [random.integers(0, VOCAB, random.integers(1, longest + 1)).tolist() for _ in range(count)]


def dense(model: Transformer, prompt: list[int], tokens: int) -> list[int]:
    """Greedy generation that computes the whole sequence for every token."""
    ids = list(prompt)
    with torch.no_grad():
        for _ in range(tokens):
            ids.append(int(model.logits(model.hidden(Batch.of_documents(ids))[-1]).argmax()))
    return ids[len(prompt) :]


def assert_clean(engine: Engine) -> None:
    stats = engine.pool.stats()
    assert engine.pool.check() == []
    assert (stats["free"], stats["rows"], stats["promised"]) == (stats["blocks"], 0, 0)


class Failing(Transformer):
    """Fails, or computes nonsense, in one step."""

    error: BaseException | None = None
    spoil = False
    countdown = 0

    def step(self, tokens_T, positions_T, cache):  # type: ignore[no-untyped-def]
        self.countdown -= 1
        if self.countdown == 0:
            if self.error is not None:
                super().step(tokens_T[:1], positions_T[:1], _FirstLayerOnly(cache, self.error))
            return super().step(tokens_T, positions_T, cache) * float("nan")
        return super().step(tokens_T, positions_T, cache)


class _FirstLayerOnly:
    def __init__(self, cache, error: BaseException) -> None:  # type: ignore[no-untyped-def]
        self.cache, self.error = cache, error

    def attend(self, layer, q_TKGC, k_TKC, v_TKC):  # type: ignore[no-untyped-def]
        self.cache.kv[:, layer] = float("nan")
        raise self.error


def in_threads(*work: Callable[[], object]) -> list[object]:
    """Results of functions that start together, each in a thread of its own."""
    start = threading.Barrier(len(work))

    def run(function: Callable[[], object]) -> object:
        start.wait()
        return function()

    with ThreadPoolExecutor(len(work)) as threads:
        return [found.result(timeout=60) for found in [threads.submit(run, function) for function in work]]


def failure_of(function: Callable[[], object]) -> BaseException | None:
    try:
        function()
    except BaseException as error:
        return error
    return None
