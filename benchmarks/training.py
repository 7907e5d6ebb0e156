"""A pretraining step beside a plain loop over transformers and torch, and what wrapping and several processes cost.

Same weights, same batch, same precision, AdamW with the same constants and clipping on both sides. Losses must be equal
to 1e-4 before anything is timed. Rows are packed documents that do not see each other, as `pretrain` trains on them
(paper 3.2), or one document each.

Run: make bench-training. On a machine that other programs share: python benchmarks/training.py --cpu-time --threads 1
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import common
import numpy as np
import torch

from llama3.config.schema import OptimizerSection, ParallelismSection
from llama3.model.batch import Batch
from llama3.model.config import ModelConfig
from llama3.model.precision import probe
from llama3.plugins.registry import discover
from llama3.training.loop import Trainer
from llama3.training.metrics import Reporter, Throughput
from llama3.training.parallel import Parallel, ParallelContext, start
from llama3.training.placed import PlacedModel
from llama3.training.schedule import Schedule
from llama3_plugins.algorithms.next_token import NextToken

MODEL = ModelConfig(512, 8, 8, 4, 1536, 8192, tied=True, max_seq_len=512)
"""29.4 million parameters."""
LENGTH, SHORTEST = 512, 32
TOLERANCE = 1e-4
LR, BETAS, EPS, DECAY, CLIP = 1e-3, (0.9, 0.95), 1e-8, 0.1, 1.0
CPU = torch.device("cpu")
Row = tuple[np.ndarray, list[int]]
"""Token ids, and where documents begin."""


def rows_of(step: int, rows: int, packed: bool) -> list[Row]:
    """The rows of a step. Lengths of packed documents are log-uniform from SHORTEST to a whole row."""
    rng = np.random.default_rng((11, step))
    return [(rng.integers(0, MODEL.vocab_size, LENGTH), _starts(rng) if packed else [0]) for _ in range(rows)]


def _starts(rng: np.random.Generator) -> list[int]:
    starts = [0]
    while (end := starts[-1] + int(np.exp(rng.uniform(np.log(SHORTEST), np.log(LENGTH))))) <= LENGTH - SHORTEST:
        starts.append(end)
    return starts


class Ours:
    """Steps of this project's own training loop."""

    def __init__(self, parallel: Parallel, precision: str, rows: int, packed: bool, log_every: int = 10) -> None:
        self.losses: list[float] = []
        options = OptimizerSection.model_validate(
            {"lr": LR, "warmup": 0, "clip": CLIP, "precision": precision, "log_every": log_every}
        )
        examples = lambda step: [Batch.of_documents(ids, starts) for ids, starts in rows_of(step, rows, packed)]
        keep = lambda _, metrics: self.losses.append(metrics["loss"]) if metrics else None
        self.trainer = Trainer(
            PlacedModel.drawn(MODEL, 0, parallel),
            NextToken(),
            SimpleNamespace(examples=examples),  # type: ignore[arg-type]
            options=options,
            schedule=Schedule.cosine(LR, 1.0, 0, 1000),
            seed=0,
            collate=Batch.concat,
            want=frozenset({"logps"}),
            want_logged=frozenset(),
            services=None,
            rollouts=None,
            store=None,
            identity={},
            snapshots=frozenset(),
            reporter=Reporter("bench", progress=keep),
            throughput=Throughput(time.perf_counter),
        )
        self.trainer.module.train()

    def step(self) -> None:
        self.trainer.step(self.trainer.progress.step)


class Transformers:
    """The plain loop: LlamaForCausalLM, its own loss, clipping, torch's fused AdamW."""

    def __init__(self, folder: Path, precision: str, rows: int, packed: bool) -> None:
        from transformers import LlamaForCausalLM

        self.precision, self.packed = precision, packed
        self.model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa").train()
        matrices, vectors = ([p for p in self.model.parameters() if (p.ndim > 1) is many] for many in (True, False))
        groups = [{"params": matrices, "weight_decay": DECAY}, {"params": vectors, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=LR, betas=BETAS, eps=EPS, fused=True)
        self.rows, self.steps, self.losses = rows, count(), list[float]()

    def step(self) -> None:
        rows = rows_of(next(self.steps), self.rows, self.packed)
        ids = torch.from_numpy(np.stack([ids for ids, _ in rows]))
        labels, positions = ids.clone(), torch.arange(LENGTH).repeat(len(rows), 1)
        for row, (_, starts) in enumerate(rows):
            for first in starts:
                labels[row, first] = -100
                positions[row, first:] = torch.arange(LENGTH - first)
        # Positions that begin anew tell transformers where documents end.
        more = {"position_ids": positions} if self.packed else {}
        with torch.autocast("cpu", torch.bfloat16, enabled=self.precision == "bf16"):
            loss = self.model(input_ids=ids, labels=labels, use_cache=False, **more).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.losses.append(loss.item())


def alone(**section: Any) -> Parallel:
    """This process, without a process group."""
    return Parallel(ParallelContext(CPU), section=ParallelismSection.model_validate(section))


def same_losses(folder: Path, packed: bool) -> dict[str, list[float]]:
    """Two steps in float32 on both sides, of two rows; ends the program where the losses differ."""
    ours, theirs = Ours(alone(), "fp32", 2, packed, log_every=1), Transformers(folder, "fp32", 2, packed)
    for _ in range(2):
        ours.step()
        theirs.step()
    if not np.allclose(ours.losses, theirs.losses, rtol=0, atol=TOLERANCE):
        sys.exit(f"not timed: losses differ: {ours.losses} and {theirs.losses}")
    return {"llama3": ours.losses, "transformers": theirs.losses}


def beside_transformers(options: argparse.Namespace, folder: Path, kinds: Mapping[str, bool]) -> dict[str, Any]:
    """Medians of steps that take turns, for each precision and kind of row."""
    found: dict[str, Any] = {}
    for precision in options.precisions:
        for kind, packed in kinds.items():
            steps: dict[str, Any] = {"llama3": Ours(alone(), precision, options.rows, packed)}
            if options.compiled:
                steps["llama3, compiled"] = Ours(alone(compile=True), precision, options.rows, packed)
            steps["transformers"] = Transformers(folder, precision, options.rows, packed)
            timings = common.interleaved(
                {name: side.step for name, side in steps.items()},
                rounds=options.rounds, warmup=2, clock=options.clock,
            )  # fmt: skip
            found[f"{precision}, {kind}"] = told(f"{precision}, {kind}", timings, "transformers", options)
    return found


def wrapped(options: argparse.Namespace) -> dict[str, Any]:
    """FSDP over one process beside the bare model in the same process."""
    os.environ |= {"WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    section = ParallelismSection.model_validate({"dp": {"name": "fsdp", "size": 1}})
    fsdp = start(section, MODEL, CPU, discover())
    precision = options.precisions[-1]
    sides = {"fsdp over one process": Ours(fsdp, precision, options.rows, True)}
    sides["bare"] = Ours(alone(), precision, options.rows, True)
    timings = common.interleaved(
        {name: side.step for name, side in sides.items()}, rounds=options.rounds, warmup=2, clock=options.clock
    )
    return told("wrapped", timings, "bare", options)


def two_processes(options: argparse.Namespace) -> dict[str, Any]:
    """Two processes of one thread each (FSDP) beside one process of two threads, started in turn."""
    seconds: dict[str, list[float]] = {"two processes": [], "one process": []}
    for _ in range(3):
        for name, processes in (("two processes", 2), ("one process", 1)):
            seconds[name] += worker(processes, 2 // processes, options)
    timings = {name: common.Timing(values) for name, values in seconds.items()}
    return told("two processes of one thread, one of two", timings, "one process", options)


def worker(processes: int, threads: int, options: argparse.Namespace) -> list[float]:
    """Seconds of steps in fresh processes."""
    launch = [sys.executable]
    if processes > 1:
        launch += ["-m", "torch.distributed.run", "--nproc-per-node", str(processes), "--rdzv-backend", "c10d"]
        launch += ["--rdzv-endpoint", "127.0.0.1:0"]
    command = [*launch, __file__, "--worker", "--threads", str(threads), "--rows", str(options.rows)]
    command += ["--rounds", str(options.rounds), "--precisions", options.precisions[-1]]
    environment = {k: v for k, v in os.environ.items() if k not in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_PORT")}
    environment["OMP_NUM_THREADS"] = str(threads)
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def work(options: argparse.Namespace) -> None:
    """What `worker` starts: prints the seconds of each step."""
    parallel = start(ParallelismSection(), MODEL, CPU, discover())
    side = Ours(parallel, options.precisions[-1], options.rows, True)
    seconds: list[float] = []
    for _ in range(2 + options.rounds):
        parallel.context.barrier()
        begun = time.perf_counter()
        side.step()
        parallel.context.barrier()
        seconds.append(time.perf_counter() - begun)
    if parallel.context.is_main:
        print(json.dumps(seconds[2:]), flush=True)
    parallel.context.barrier()
    os._exit(0)


def told(title: str, timings: dict[str, common.Timing], baseline: str, options: argparse.Namespace) -> dict[str, Any]:
    """Prints a table; the figures, with the speed of each beside the baseline's."""
    tokens, base = options.rows * LENGTH, timings[baseline].median
    table = [
        {
            "candidate": name,
            "s/step": timing.median,
            "tokens/s": tokens / timing.median,
            f"x {baseline}": base / timing.median,
            "spread": timing.spread,
        }
        for name, timing in timings.items()
    ]
    print(f"\n{title}\n{common.table(table)}", flush=True)
    return {
        name: {**timing.summary(), "tokens_per_s": tokens / timing.median, "speed": base / timing.median}
        for name, timing in timings.items()
    }


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    fast = ["fp32", *(["bf16"] if probe("training", CPU).precision == "bf16" else [])]
    parser.add_argument("--rows", type=int, default=16, help=f"rows of {LENGTH} tokens a step")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--precisions", nargs="+", default=fast, choices=["fp32", "bf16"])
    parser.add_argument("--compiled", action="store_true", help="also with compiled blocks (a minute more each)")
    parser.add_argument("--cpu-time", action="store_true", help="CPU time of the process in place of the wall's")
    parser.add_argument("--only", choices=["transformers", "wrapped", "processes"], help="one part; nothing is written")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(given)
    options.clock = time.process_time if options.cpu_time else time.perf_counter
    return options


def main() -> None:
    options = arguments()
    torch.set_num_threads(options.threads)
    if options.worker:
        return work(options)
    results: dict[str, Any] = {}
    if options.only in (None, "transformers"):
        with tempfile.TemporaryDirectory() as folder:
            PlacedModel.drawn(MODEL, 0, alone()).save(Path(folder))
            kinds = {"packed documents": True, "one document a row": False}
            results["losses"] = {kind: same_losses(Path(folder), packed) for kind, packed in kinds.items()}
            results["step"] = beside_transformers(options, Path(folder), kinds)
    if options.only in (None, "processes"):
        results["two processes"] = two_processes(options)
    if options.only in (None, "wrapped"):
        results["wrapped"] = wrapped(options)
    if options.only is None:
        workload = {"model": dataclasses.asdict(MODEL), "parameters": MODEL.num_params(), "rows": options.rows}
        content = {
            "command": "make bench-training",
            "versions": common.versions("torch", "transformers"),
            "workload": {**workload, "tokens": LENGTH, "threads": options.threads, "clock": options.clock.__name__},
            **results,
        }
        print(f"\nwritten to {common.write_results('training', content)}")


if __name__ == "__main__":
    main()
