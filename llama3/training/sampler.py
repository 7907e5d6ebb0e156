"""Sampling from a model that is cut over ranks: each generates with its own part, and none ever holds the whole.

Ranks that share a model in the run share it here: along `tp` and `pp`, cut by the same strategies. One of them has the
engine (llama3.inference.ranks).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from llama3.errors import LlamaError, Problem
from llama3.inference.completion import Completion
from llama3.inference.engine import Engine
from llama3.inference.pieces import completions_of, rows_of
from llama3.inference.ranks import Leader, follow
from llama3.inference.sampling import Sampling
from llama3.inference.shard import RankAxis, Shard
from llama3.model.build import empty_model
from llama3.model.config import ModelConfig
from llama3.model.shards import like
from llama3.training import messages
from llama3.training.parallel import Parallel, ParallelContext

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

MAX_BATCH = 128


def empty_shard(config: ModelConfig, parallel: Parallel, dtype: torch.dtype) -> Shard:
    """A rank's part of a model without scalar heads, to be filled: of the axes that cut a model, no others."""
    module = empty_model(config, ()).to(dtype)
    parallel.only("tp", "pp").apply(module)
    module.to_empty(device=parallel.context.device).requires_grad_(False)
    if config.tied and None not in (module.embed, module.lm_head):
        module.lm_head.weight = module.embed.weight
    return Shard(module, *axes_of(parallel.context))


def axes_of(context: ParallelContext) -> tuple[RankAxis, RankAxis]:
    """The ranks along tp and along pp."""
    if context.mesh is None:
        return RankAxis(), RankAxis()
    tp, pp = (RankAxis(*context.axis(axis)) for axis in ("tp", "pp"))
    return tp if tp.size > 1 else RankAxis(), pp if pp.size > 1 else RankAxis()


class ShardedSampler:
    """A `Generator` over parts of a model that is trained, each of which every call brings up to date.

    weights: gives the model's weights by name, each whole, one at a time: every rank iterates it to its end
    """

    def __init__(
        self,
        config: ModelConfig,
        parallel: Parallel,
        dtype: torch.dtype,
        weights: Callable[[], Iterator[tuple[str, Tensor]]],
    ) -> None:
        self._context, self._weights = parallel.context, weights
        self._shard = empty_shard(config, parallel, dtype)
        self._parameters = dict(self._shard.model.named_parameters())
        self._leads = self._shard.tp.rank == self._shard.pp.rank == 0

    def generate(self, prompts: Sequence[npt.ArrayLike], sampling: Sampling) -> list[list[Completion]]:
        """Answers to this rank's prompts; those of all ranks that share the model are computed together, each prompt
        once. All of them call it with the same sampling."""
        with torch.no_grad():
            for name, weight in self._weights():
                if name in self._parameters:
                    parameter = self._parameters[name]
                    parameter.copy_(like(parameter, weight))
        mine = [tuple(np.asarray(prompt).tolist()) for prompt in prompts]
        everyones = [tuple(prompt) for row in self._context.gather(mine, "model") for prompt in row]
        asked = list(dict.fromkeys(everyones))
        answers = dict(zip(asked, self._answers(asked, sampling), strict=True))
        return [answers[prompt] for prompt in mine]

    def _answers(self, prompts: list[tuple[int, ...]], sampling: Sampling) -> list[list[Completion]]:
        found: dict[str, list[Any]] = {}
        if self._leads:
            try:
                found["made"] = rows_of(self._made(prompts, sampling))
            except LlamaError as error:
                found["problems"] = [asdict(problem) for problem in error.problems]
        else:
            follow(self._shard)
        for axis in (self._shard.tp, self._shard.pp):
            if axis.group is not None:
                found = messages.broadcast(found, torch.distributed.get_global_rank(axis.group, 0), axis.group)
        if "problems" in found:  # all ranks stop together
            raise LlamaError.of(Problem.of_row(row) for row in found["problems"])
        return completions_of(found["made"])

    def _made(self, prompts: list[tuple[int, ...]], sampling: Sampling) -> list[list[Completion]]:
        leader = Leader(self._shard)
        try:
            engine = Engine(self._shard.model, max_batch=MAX_BATCH, ranks=leader)
            return engine.generate([list(prompt) for prompt in prompts], sampling)
        finally:
            leader.close()
