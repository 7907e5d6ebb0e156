"""One loop for everything that learns. One step:

    examples(step) -> collate -> prepare (no gradient) -> drop what cannot be scored
      -> for each epoch and minibatch, one update:
           microbatches: score -> loss -> backward  ->  clip -> finite guard -> AdamW
      -> weight average -> metrics -> checkpoint

A loss term is a sum with its unit. It is divided by the number of these units in the whole update, counted before
the forward over all microbatches and ranks; so neither accumulation nor sharding changes the gradient.

Everything random is a function of (seed, step, rank), and examples are a function of the step: what a checkpoint
holds beside the tensors is a few numbers, and a resumed run repeats the uninterrupted one bit for bit on the same
number of ranks and threads.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor, nn

from llama3.config.schema import OptimizerSection
from llama3.errors import Interrupted, LlamaError, Problem
from llama3.model.batch import Batch
from llama3.model.memory import give_back_freed_memory
from llama3.model.score import Want, score
from llama3.plugins.specs import Need
from llama3.training.algorithm import Algorithm, Dataset, Services
from llama3.training.averaging import WeightAverage, snapshot_steps
from llama3.training.checkpoint import CheckpointStore, check_identity
from llama3.training.interrupt import StopRequest
from llama3.training.meter import Meter
from llama3.training.metrics import Reporter, Throughput
from llama3.training.microbatch import UNITS, count_units, cut, drop_unscorable
from llama3.training.optimizer import build_optimizer, clip_gradients, set_lr
from llama3.training.parallel import Microbatch, Parallel, ParallelContext
from llama3.training.rollouts import RolloutWatch
from llama3.training.schedule import Schedule
from llama3.training.state import (
    load_model_tensors,
    load_optimizer_tensors,
    model_tensors,
    optimizer_tensors,
    whole,
)

log = logging.getLogger(__name__)

MAX_BAD_UPDATES = 5
"""Updates in a row whose gradient is not finite before training stops: the weights no longer recover by waiting."""


@dataclass
class Progress:
    """Where a training run stands; saved with every checkpoint."""

    step: int = 0
    """Finished steps."""
    tokens: int = 0
    """Tokens seen, over all ranks."""
    skipped: int = 0
    """Updates left out: a gradient that was not finite, or nothing to train on."""
    bad_in_a_row: int = 0
    dropped: int = 0
    """Segments left out because their reward could not be computed."""
    metrics: dict[str, float] = field(default_factory=dict)
    """Of the last logged step; deterministic (no timings)."""


def train(
    model: nn.Module,
    algorithm: Algorithm,
    dataset: Dataset,
    *,
    options: OptimizerSection,
    schedule: Schedule,
    seed: int,
    parallel: Parallel | None = None,
    needs: frozenset[Need] = frozenset(),
    services: Services | None = None,
    store: CheckpointStore | None = None,
    identity: Mapping[str, Any] | None = None,
    average_last: int = 0,
    sampling_temperature: float = 1.0,
    watch: RolloutWatch | None = None,
    reporter: Reporter | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Progress:
    """Train `model` (on its device, strategies applied) in place over `schedule.total` steps.

    With a `store` it resumes from the newest checkpoint that verifies and refuses one whose `identity` differs.
    `average_last` > 0: in the end the weights are the mean of that many snapshots of the anneal.
    `sampling_temperature`: at which the services' sampler draws; `watch` is shown what it drew.

    Raises Interrupted after saving on Ctrl-C or SIGTERM, LlamaError (L3-TRN-002) when gradients stay non-finite,
    CheckpointError where checkpoints are damaged, of another run, or cannot be written.
    """
    trainer = Trainer(
        model,
        algorithm,
        dataset,
        options=options,
        schedule=schedule,
        seed=seed,
        parallel=parallel or Parallel(ParallelContext(next(model.parameters()).device)),
        needs=needs,
        services=services,
        store=store,
        identity=identity or {},
        average_last=average_last,
        temperature=algorithm.plan.scored_at(sampling_temperature),
        watch=watch or RolloutWatch(),
        reporter=reporter or Reporter("train"),
        throughput=Throughput(clock),
    )
    return trainer.run()


@dataclass(kw_only=True)
class Trainer:
    """The state of one `train` call and its steps, in the order in which they happen."""

    model: nn.Module = field(kw_only=False)
    algorithm: Algorithm = field(kw_only=False)
    dataset: Dataset = field(kw_only=False)
    options: OptimizerSection
    schedule: Schedule
    seed: int
    parallel: Parallel
    needs: frozenset[Need]
    services: Services | None
    store: CheckpointStore | None
    identity: Mapping[str, Any]
    average_last: int
    temperature: float
    watch: RolloutWatch
    reporter: Reporter
    throughput: Throughput

    def __post_init__(self) -> None:
        self.context = self.parallel.context
        self.runner = self.parallel.runner(self.model)
        self.optimizer = build_optimizer(self.model, self.options)
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.want = wants(self.needs)
        self.progress = Progress()
        self.average = WeightAverage()
        self.snapshots = snapshot_steps(self.schedule.steps, self.schedule.anneal, self.average_last)

    def run(self) -> Progress:
        self.restore()
        self.model.train()
        with StopRequest() as stop:
            while self.progress.step < self.schedule.total:
                self.step()
                stopping = self.context.reduce([stop.requested], "max") == [1]
                self.save_if_due(stopping)
                if stopping:
                    self.interrupt()
        self.average.copy_to(self.model)
        return self.progress

    # -- one step --------------------------------------------------------------------------------

    def step(self) -> None:
        step, plan = self.progress.step, self.algorithm.plan
        torch.manual_seed(random_seed(self.seed, step, self.context.rank))
        set_lr(self.optimizer, self.schedule.lr(step))
        logged = (step + 1) % self.options.log_every == 0 or step + 1 == self.schedule.total
        batch, live = self.load(step)
        updates = [
            self.update(minibatch, live and filled, logged)
            for epoch in range(plan.epochs)
            for minibatch, filled in self.minibatches(batch, epoch)
        ]
        self.progress.step += 1
        if self.progress.step in self.snapshots:
            self.average.add(self.model)
        if logged:
            give_back_freed_memory()
            self.report(updates, live)
        elif self.context.is_main:
            self.reporter.advanced(1, {})

    def load(self, step: int) -> tuple[Batch, bool]:
        """This rank's share of a step as a prepared batch. A rank without a share borrows examples that count for
        nothing (live=False), because every rank must take part in every collective."""
        examples = self.dataset.examples(step)
        share = examples[self.context.dp_rank :: self.context.dims.dp]
        batch = self.algorithm.collate(share if len(share) else examples[:1]).to(self.context.device)
        with torch.no_grad():
            batch = self.algorithm.prepare(batch, self.services)  # type: ignore[arg-type]
        kept, dropped = drop_unscorable(batch)
        mine = [batch.num_tokens, dropped] if len(share) else [0, 0]
        tokens, dropped = map(int, self.context.reduce(mine, "sum"))
        self.progress.tokens += tokens
        self.progress.dropped += dropped
        self.throughput.add(tokens)
        live = len(share) > 0 and kept.num_trees > 0
        return (kept if kept.num_trees else batch), live

    def minibatches(self, batch: Batch, epoch: int) -> list[tuple[Batch, bool]]:
        """The updates of one pass: all trees, in an order drawn anew for every pass when there are several. Where
        there are fewer trees than updates, some borrow the batch without counting (False)."""
        count = self.algorithm.plan.minibatches
        if count == 1:
            return [(batch, True)]
        rng = np.random.default_rng((self.seed, self.progress.step, epoch, self.context.dp_rank))
        parts = batch.select(torch.from_numpy(rng.permutation(batch.num_trees))).split(count)
        return [(part, True) if part.num_trees else (batch, False) for part in parts]

    # -- one update ------------------------------------------------------------------------------

    def update(self, batch: Batch, live: bool, logged: bool) -> dict[str, float]:
        """One optimizer update; its metrics if they are logged. Where nothing can be learnt it is left out, counted."""
        microbatches = [Microbatch(cut_, live) for cut_ in cut(batch, self.options.microbatch_tokens)]
        counts = self.context.reduce(count_units(batch) if live else [0, 0, 0], "sum")
        if not any(counts):
            return self.skip("nothing to train on")
        (passes,) = self.context.reduce([len(microbatches)], "max")
        microbatches += [Microbatch(microbatches[0].batch, live=False)] * (int(passes) - len(microbatches))

        meter = Meter(self.algorithm if logged else None)
        self.optimizer.zero_grad(set_to_none=True)
        self.runner.forward_backward(microbatches, lambda microbatch: self.loss(microbatch, counts, meter))
        norm = float(clip_gradients(self.parameters, self.options.clip))
        if not math.isfinite(norm):
            self.progress.bad_in_a_row += 1
            if self.progress.bad_in_a_row >= MAX_BAD_UPDATES:
                raise self.diverged(norm)
            return self.skip(f"the gradient norm is {norm}")
        self.progress.bad_in_a_row = 0
        self.optimizer.step()
        return {**meter.read(self.context), "grad_norm": norm} if logged else {}

    def loss(self, microbatch: Microbatch, counts: Sequence[float], meter: Meter) -> Tensor:
        """The microbatch's share of the update's loss: each term over the update's count of its unit."""
        batch = self.parallel.shard_batch(microbatch.batch)
        autocast = torch.autocast(batch.tokens_T.device.type, torch.bfloat16, enabled=self.options.precision == "bf16")
        with autocast:
            scored = score(self.model, batch, self.want, self.temperature)
        terms = self.algorithm.loss(scored, batch)
        shares = {
            name: term.sum * (term.weight / max(counts[UNITS.index(term.per)], 1.0) * microbatch.live)
            for name, term in terms.items()
        }
        meter.add(shares, scored, microbatch)
        return torch.stack(list(shares.values())).sum()

    def skip(self, why: str) -> dict[str, float]:
        self.progress.skipped += 1
        log.warning("step %d: %s; update skipped (%d so far)", self.progress.step + 1, why, self.progress.skipped)
        return {}

    def diverged(self, norm: float) -> LlamaError:
        what = f"{MAX_BAD_UPDATES} updates in a row had no finite gradient (norm {norm})"
        why = "the weights or the data are broken, or the learning rate is too high"
        fix = "lower lr or lengthen warmup, and look at the examples of these steps; checkpoints are kept"
        return LlamaError(Problem("L3-TRN-002", f"step {self.progress.step + 1}", what, why, fix))

    # -- reporting and checkpoints ---------------------------------------------------------------

    def report(self, updates: Sequence[Mapping[str, float]], live: bool) -> None:
        """Metrics of a logged step: means over its updates, figures of its rollouts, and the loop's own numbers."""
        progress = self.progress
        done = [update for update in updates if update]
        names = done[0] if done else ()
        means = {name: sum(update[name] for update in done) / len(done) for name in names}
        metrics = (
            means
            | self.watch.metrics(self.context, live)
            | {
                "lr": self.schedule.lr(progress.step - 1),
                "tokens": progress.tokens,
                "skipped": progress.skipped,
                "dropped": progress.dropped,
            }
        )
        progress.metrics = {name: value for name, value in metrics.items() if math.isfinite(value)}
        if self.context.is_main:
            metrics["tokens_per_second"] = self.throughput.read()
            self.reporter.logged(progress.step, metrics, self.watch.samples())
            self.reporter.advanced(1, metrics)

    def save_if_due(self, stopping: bool) -> None:
        step = self.progress.step
        due = stopping or step == self.schedule.total or step % self.options.checkpoint_every == 0
        if self.store is None or not due:
            return
        main = self.context.is_main
        groups = {
            "model": model_tensors(self.model, keep=main),
            "optimizer": optimizer_tensors(self.model, self.optimizer, keep=main),
            "average": whole(self.average.sums, keep=main),
        }
        if main:
            state = {
                "identity": self.identity,
                "seed": self.seed,
                "progress": asdict(self.progress),
                "average_count": self.average.count,
                "algorithm": self.algorithm.state_dict(),
            }
            self.reporter.saved(step, self.store.save(step, groups, state))
        self.context.barrier()

    def restore(self) -> None:
        """Go on where the newest good checkpoint stands; start anew where there is none."""
        checkpoint = self.store.load() if self.store is not None else None
        if checkpoint is None:
            return
        state, where = checkpoint.state, str(checkpoint.path)
        check_identity(
            {**state["identity"], "seed": state["seed"]}, {**self.identity, "seed": self.seed}, checkpoint.path
        )
        load_model_tensors(self.model, checkpoint.tensors("model"), where)
        load_optimizer_tensors(self.model, self.optimizer, checkpoint.tensors("optimizer"))
        self.average.load(self.model, checkpoint.tensors("average"), state["average_count"])
        self.algorithm.load_state_dict(state["algorithm"])
        self.progress = Progress(**state["progress"])
        log.info("resumed from %s", where)
        if self.context.is_main:
            self.reporter.advanced(self.progress.step, self.progress.metrics)

    def interrupt(self) -> NoReturn:
        saved = "is saved" if self.store is not None else "was not saved: this run keeps no checkpoints"
        what = f"stopped after step {self.progress.step} of {self.schedule.total}, which {saved}"
        raise Interrupted(Problem("L3-TRN-001", self.reporter.stage, what, fix="run the same command again to go on"))


def wants(needs: frozenset[Need]) -> frozenset[Want]:
    """What the log-prob engine must compute for an algorithm with these needs."""
    columns: dict[Need, Want] = {"value": "values", "score_head": "score", "rollouts": "entropy"}
    return frozenset({"logps", *(column for need, column in columns.items() if need in needs)})


def random_seed(seed: int, step: int, rank: int) -> int:
    """Seed of torch's generator for one step on one rank, so that no generator state must be saved."""
    return int(np.random.SeedSequence((seed, step, rank)).generate_state(1, np.uint64)[0])
