"""Conformance of parallel strategies: two processes along the strategy's axis train as one does.

The processes are forks of this one, which has imported torch: so a check takes a second or two.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import tempfile
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from llama3.config.schema import Axis, OptimizerSection
from llama3.errors import Problem
from llama3.model.batch import Batch
from llama3.model.config import ModelConfig
from llama3.model.score import Scored
from llama3.plugins.specs import ParallelSpec
from llama3.testing.conformance import Conformance
from llama3.testing.toys import toy_ids
from llama3.training.algorithm import Algorithm, Term
from llama3.training.estimate import SHARES, SUMS, StepShape
from llama3.training.loop import train
from llama3.training.parallel import MESH, Dims, Parallel, ParallelContext, ParallelStrategy, connect
from llama3.training.placed import PlacedModel
from llama3.training.schedule import Schedule

CONFIG = ModelConfig(dim=32, n_layers=2, n_heads=4, n_kv_heads=2, ffn_dim=64, vocab_size=48, max_seq_len=64)
SIZE = 2
PATIENCE = 120
"""Seconds after which a process that waits for another gives up."""


class ParallelConformance(Conformance):
    """Checks of a strategy on a toy model on the CPU, where its `check` allows two processes along its axis."""

    family = "parallelism"

    def test_it_checks_sizes_without_a_process_group(self) -> None:
        for size in (1, SIZE):
            problems = self._problems(size)
            assert all(isinstance(problem, Problem) for problem in problems)
        assert not self._problems(1), f"refuses a size of 1: {self._problems(1)[0]}"

    def test_it_estimates_what_it_costs(self) -> None:
        """`llama3 plan` asks for any size that `check` allows; alone a strategy waits for nobody."""
        strategy: ParallelStrategy = self.build()
        step = StepShape(microbatches=4, tokens=64, seq_len=32)
        for size in (1, SIZE):
            dims = replace(Dims(), **{self._axis: size})
            if self._problems(size):
                continue
            cost = strategy.estimate(CONFIG, dims, step)
            figures = {name: getattr(cost, name) for name in (*SHARES, *SUMS)}
            odd = [name for name, figure in figures.items() if not (math.isfinite(figure) and figure >= 0)]
            assert not odd, f"at size {size}: {', '.join(f'{name} {figures[name]}' for name in odd)}"
            waits = [
                name
                for name in ("sent", "behind", "messages", "messages_behind", "bubble")
                if size == 1 and figures[name]
            ]
            assert not waits, f"a single rank sends or waits: {', '.join(waits)}"
            assert strategy.choices(CONFIG, dims), "offers no options to compare, not even its defaults"

    def test_one_process_trains_as_without_it(self) -> None:
        self._assert_same(self._trained(1))

    def test_two_processes_train_as_one(self) -> None:
        """Losses, and the weights after three steps; a strategy that refuses two processes has nothing to show."""
        if not self._problems(SIZE):
            self._assert_same(self._trained(SIZE))

    # -- helpers ---------------------------------------------------------------------------------

    @property
    def _axis(self) -> Axis:
        spec = self.spec
        assert isinstance(spec, ParallelSpec)
        assert spec.axis in MESH
        return spec.axis

    def _problems(self, size: int) -> Sequence[Problem]:
        strategy: ParallelStrategy = self.build()
        return strategy.check(CONFIG, replace(Dims(), **{self._axis: size}))

    def _trained(self, size: int) -> list[dict[str, Any]]:
        """What each of `size` processes reports."""
        axis, build = self._axis, self.build
        fork = multiprocessing.get_context("fork")
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            ranks = [fork.Process(target=_rank, args=(folder, rank, size, axis, build)) for rank in range(size)]
            with warnings.catch_warnings():
                # Newer Pythons warn of forks beside threads. A rank has one thread, and needs no lock of others.
                warnings.simplefilter("ignore", DeprecationWarning)
                for process in ranks:
                    process.start()
            for process in ranks:
                process.join(2 * PATIENCE)
                process.kill()
            lost = [_lost(folder, rank, process.exitcode) for rank, process in enumerate(ranks)]
            assert not any(lost), "\n".join(filter(None, lost))
            return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(size)]

    @staticmethod
    def _assert_same(reports: Sequence[Mapping[str, Any]]) -> None:
        alone = work(Parallel(ParallelContext(torch.device("cpu"))))
        for rank, report in enumerate(reports):
            assert abs(report["loss"] - alone["loss"]) < 1e-4, f"rank {rank}: loss {report['loss']} and {alone['loss']}"
            assert report["weights"].keys() == alone["weights"].keys(), "parameters have other names"
            for name, values in report["weights"].items():
                np.testing.assert_allclose(values, alone["weights"][name], atol=1e-3, err_msg=f"rank {rank}: {name}")


class _NextToken(Algorithm):
    def loss(self, scored: Scored, batch: Batch) -> dict[str, Term]:
        assert scored.logps_M is not None
        return {"nll": Term(-scored.logps_M.sum(), per="target")}


class _Rows:
    """Seven rows a step: no two ranks can share them evenly."""

    def examples(self, step: int) -> Sequence[Batch]:
        return [Batch.of_documents(toy_ids(np.random.default_rng((step, row)), 24), [0, 9]) for row in range(7)]


def work(parallel: Parallel) -> dict[str, Any]:
    """Three steps: the last loss, and the weights that came of them."""
    model = PlacedModel.drawn(CONFIG, 0, parallel)
    options = OptimizerSection(lr=1e-2, warmup=0, precision="fp32", microbatch_tokens=48, log_every=1)
    progress = train(
        model,
        _NextToken(),
        _Rows(),
        collate=Batch.concat,
        options=options,
        schedule=Schedule.cosine(peak=options.lr, final=1.0, warmup=0, steps=3),
        seed=0,
    )
    named = {name: parameter.detach() for name, parameter in model.module.named_parameters()}
    weights = {name: tensor.tolist() for name, tensor in model.gathered(named)}
    return {"loss": progress.metrics["loss"], "weights": weights}


def _rank(folder: Path, rank: int, size: int, axis: Axis, build: Callable[[], ParallelStrategy]) -> None:
    """One process: joins the others, trains with the strategy, and leaves its report."""
    os.environ |= {"WORLD_SIZE": str(size), "RANK": str(rank), "LOCAL_RANK": str(rank)}
    torch.set_num_threads(1)
    try:
        meeting = f"file://{folder}/meeting"
        dist.init_process_group("gloo", meeting, timedelta(seconds=PATIENCE), rank=rank, world_size=size)
        context = connect(replace(Dims(), **{axis: size}), torch.device("cpu"))
        report = work(Parallel(context, {axis: build()}))
        written = folder / f"{rank}.tmp"
        written.write_text(json.dumps(report))
        written.rename(folder / f"{rank}.json")
        dist.barrier()
    except BaseException:
        (folder / f"{rank}.error").write_text(traceback.format_exc())
    finally:
        # Without cleaning up: gloo's threads sometimes abort a process that has already done its work.
        os._exit(0)


def _lost(folder: Path, rank: int, code: int | None) -> str | None:
    """Why a rank left no report; None: it did."""
    if (folder / f"{rank}.json").exists():
        return None
    error = folder / f"{rank}.error"
    return f"rank {rank}: {error.read_text()[-1500:] if error.exists() else f'ended with {code}'}"
