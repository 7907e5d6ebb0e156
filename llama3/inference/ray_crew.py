"""Actors of Ray that draw answers: on this machine, or on all of the cluster that RAY_ADDRESS names (extra [ray]).

The weights are an object in Ray's store, put there once per call. An actor of the same machine maps it, so that its
model lies there; to another machine Ray sends it once. How Ray packs what it sends is its own affair: what we give it
are bytes (a piece, its answers) and an array of bytes (the weights).
"""

from __future__ import annotations

import logging
import os
import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from llama3 import _core
from llama3.inference.engine import Engine
from llama3.inference.fleet import MAX_BATCH, Hand, HandLostError
from llama3.inference.pieces import answer
from llama3.inference.shared_model import model_over, weights_size
from llama3.model.build import assign
from llama3.model.config import ModelConfig


class RayActor:
    """What runs on an actor: a model over the weights that came last."""

    def __init__(self, config: dict[str, Any], dtype: str, threads: int) -> None:
        torch.set_num_threads(threads)
        _core.set_num_threads(threads)
        self._config, self._dtype = ModelConfig.from_hf(config), getattr(torch, dtype)
        self._weights: npt.NDArray[np.uint8] | None = None
        self._engine: Engine | None = None

    def answer(self, weights: npt.NDArray[np.uint8], asked: bytes) -> bytes:
        """A piece's answers with these weights."""
        return answer(self._with(weights), asked)

    def _with(self, weights: npt.NDArray[np.uint8]) -> Engine:
        if self._weights is None or self._weights.ctypes.data != weights.ctypes.data:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # they are read-only, and nobody writes them
                model = model_over(self._config, self._dtype, torch.from_numpy(weights))
            if self._engine is None:
                self._engine = Engine(model, max_batch=MAX_BATCH)
            else:
                assign(self._engine.model, dict(model.named_parameters()))
        self._weights = weights  # keeps the object in the store as long as the model lies in it
        assert self._engine is not None
        return self._engine


class RayCrew:
    """Actors for a model, each of `threads` CPUs."""

    def __init__(self, config: ModelConfig, dtype: torch.dtype, size: int, threads: int | None) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        import ray

        self._ray = ray
        self._started = not ray.is_initialized()
        if self._started:
            ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.WARNING)
        self.size = size
        self._threads = threads or max(1, torch.get_num_threads() // size)
        self._order = (config.to_hf(), str(dtype).removeprefix("torch."), self._threads)
        self._bytes = np.zeros(weights_size(config, dtype), np.uint8)
        self.module = model_over(config, dtype, torch.from_numpy(self._bytes))
        self._actor = ray.remote(RayActor)
        self._weights: Any = None

    def hire(self) -> Hand:
        return _Actor(self, self._actor.options(num_cpus=self._threads).remote(*self._order))

    def publish(self) -> None:
        self._weights = self._ray.put(self._bytes)

    def ask(self, actor: Any, asked: bytes) -> bytes:
        """An actor's answers. Raises HandLostError where it is gone."""
        try:
            told: bytes = self._ray.get(actor.answer.remote(self._weights, asked))
        except self._ray.exceptions.RayActorError as error:
            raise HandLostError(f"(an actor of Ray) ended: {str(error).splitlines()[0]}") from error
        return told

    def kill(self, actor: Any) -> None:
        """Let an actor go."""
        self._ray.kill(actor)

    def close(self) -> None:
        self._weights = None
        if self._started:
            self._ray.shutdown()


class _Actor:
    def __init__(self, crew: RayCrew, actor: Any) -> None:
        self._crew, self._actor = crew, actor

    def ask(self, asked: bytes) -> bytes:
        return self._crew.ask(self._actor, asked)

    def let_go(self) -> None:
        self._crew.kill(self._actor)
