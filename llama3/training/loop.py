"""One loop for everything that learns. One step:

    examples(step) -> collate -> for rollouts: draw answers, reward them -> drop what has no reward
      -> prepare (no gradient)
      -> for each epoch and minibatch, one update:
           microbatches: score -> loss -> backward  ->  clip -> finite guard -> optimizer
      -> weight average -> metrics -> checkpoint

A loss term is a sum with its unit. It is divided by the number of these units in the whole update, counted before
the forward over all microbatches and ranks; so neither accumulation nor sharding changes the gradient. Metrics are
terms too. A rank that has nothing to learn goes along with an empty batch, because every rank takes part in every
collective.

Everything random is a function of (seed, step, share of the examples), and examples are a function of the step: what a
checkpoint holds beside the tensors is a few numbers, and a resumed run repeats the uninterrupted one bit for bit on the
same number of ranks and threads.
"""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from llama3.config.schema import OptimizerSection
from llama3.errors import DataError, Interrupted, LlamaError, PluginError
from llama3.model.batch import Batch
from llama3.model.memory import give_back_freed_memory
from llama3.model.precision import autocast
from llama3.model.score import Microbatch, score_stage
from llama3.plugins.specs import Want
from llama3.training.algorithm import Algorithm, Collate, Dataset, Services, Term
from llama3.training.averaging import WeightAverage
from llama3.training.checkpoint import CheckpointStore, check_identity
from llama3.training.interrupt import StopRequest
from llama3.training.meter import Meter
from llama3.training.metrics import Reporter, Throughput
from llama3.training.microbatch import UNITS, count_units, cut, drop_unscorable
from llama3.training.optimizer import build_optimizer, clip_gradients, set_lr, sum_gradients
from llama3.training.placed import PlacedModel
from llama3.training.rollouts import Rollouts
from llama3.training.schedule import Schedule
from llama3.training.state import load_model_tensors, load_optimizer_tensors, optimizer_tensors, trainable

STOPPED = Interrupted.declare(
    "L3-TRN-001", "stopped after step {step} of {total}, which {saved}", fix="run the same command again to go on"
)
DIVERGED = LlamaError.declare(
    "L3-TRN-002",
    "{count} updates in a row had no finite gradient (norm {norm})",
    why="the weights or the data are broken, or the learning rate is too high",
    fix="lower lr or lengthen warmup, and look at the examples of these steps; checkpoints are kept",
)
NO_REWARDS = DataError.declare(
    "L3-TRN-004",
    "none of the {answers} answers of the first step can be scored",
    why="a reward answers None (or NaN) for tasks that are not its own",
    fix="name the reward that the tasks come from under post_training.rewards",
)
NO_TERM = PluginError.declare(
    "L3-TRN-003",
    "{names}: a {type} in place of a Term",
    why="losses and metrics are sums with their unit, so that they do not depend on how a step is cut",
    fix='return Term(x_M.sum(), per="target"), or per segment or tree; see docs/plugins.md',
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
    dropped: dict[str, int] = field(default_factory=dict)
    """Segments with targets that were left out, by reason: `no_reward`, and what algorithms name."""
    metrics: dict[str, float] = field(default_factory=dict)
    """Of the last logged step; deterministic (no timings)."""


def train(
    model: PlacedModel,
    algorithm: Algorithm,
    dataset: Dataset,
    *,
    collate: Collate,
    options: OptimizerSection,
    schedule: Schedule,
    seed: int,
    want: frozenset[Want] = frozenset({"logps"}),
    want_logged: frozenset[Want] = frozenset(),
    services: Services | None = None,
    rollouts: Rollouts | None = None,
    store: CheckpointStore | None = None,
    identity: Mapping[str, Any] | None = None,
    snapshots: frozenset[int] = frozenset(),
    reporter: Reporter | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Progress:
    """Train `model` in place over `schedule.total` steps.

    With a `store` it resumes from the newest checkpoint that verifies and refuses one whose `identity` differs.
    `snapshots`: numbers of finished steps; where there are any, the weights are in the end the mean of those.
    `collate` packs examples. With `rollouts` they are prompts to answer, and models are scored at the temperature at
    which answers are drawn. `want` and `want_logged` are those of the algorithm's spec.

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
        collate=collate,
        want=want,
        want_logged=want_logged,
        services=services,
        rollouts=rollouts,
        store=store,
        identity=identity or {},
        snapshots=snapshots,
        reporter=reporter or Reporter("train"),
        throughput=Throughput(clock),
    )
    return trainer.run()


@dataclass(kw_only=True)
class Trainer:
    """The state of one `train` call and its steps, in the order in which they happen."""

    model: PlacedModel = field(kw_only=False)
    algorithm: Algorithm = field(kw_only=False)
    dataset: Dataset = field(kw_only=False)
    options: OptimizerSection
    schedule: Schedule
    seed: int
    collate: Collate
    want: frozenset[Want]
    want_logged: frozenset[Want]
    services: Services | None
    rollouts: Rollouts | None
    store: CheckpointStore | None
    identity: Mapping[str, Any]
    snapshots: frozenset[int]
    reporter: Reporter
    throughput: Throughput

    def __post_init__(self) -> None:
        self.context, self.module = self.model.context, self.model.module
        self.optimizer = build_optimizer(self.module, self.options)
        self.temperature = self.rollouts.sampling.temperature if self.rollouts is not None else 1.0
        self.progress = Progress()
        self.average = WeightAverage()

    def run(self) -> Progress:
        self.restore()
        self.module.train()
        with StopRequest() as stop:
            while self.progress.step < self.schedule.total:
                self.step()
                stopping = self.context.reduce([stop.requested], "max", "world") == [1]
                self.save_if_due(stopping)
                if stopping:
                    self.interrupt()
        self.average.copy_to(self.module)
        return self.progress

    # -- one step --------------------------------------------------------------------------------

    def step(self) -> None:
        step, plan = self.progress.step, self.algorithm.plan
        torch.manual_seed(random_seed(self.seed, step, self.context.dp_rank))
        set_lr(self.optimizer, self.schedule.lr(step))
        logged = (step + 1) % self.options.log_every == 0 or step + 1 == self.schedule.total
        batch = self.load(step)
        updates = [
            self.update(minibatch, logged)
            for epoch in range(plan.epochs)
            for minibatch in self.minibatches(batch, epoch)
        ]
        self.progress.step += 1
        if self.progress.step in self.snapshots:
            self.average.add(self.module)
        if logged:
            give_back_freed_memory()
            self.report(updates)
        elif self.context.is_main:
            self.reporter.advanced(1, {})

    def load(self, step: int) -> Batch:
        """This rank's share of a step as a prepared batch."""
        examples = self.dataset.examples(step)
        share = examples[self.context.dp_rank :: self.context.dims.dp]
        batch = self.collate(share) if len(share) else self.collate(examples[:1]).select([])
        batch = self.numbered(batch.to(self.context.device))
        with torch.no_grad():
            if self.rollouts is not None:
                batch = self.rollouts.draw(batch, self.algorithm.plan.samples, random_seed(self.seed, step))
                self.require_rewards(batch)
            drawn = batch
            batch = self.algorithm.prepare(drop_unscorable(batch), self.services)  # type: ignore[arg-type]
        self.count(drawn.num_tokens, batch.dropped)
        return batch

    def require_rewards(self, drawn: Batch) -> None:
        """Raises DataError, on all ranks together, where no answer of the first step has a reward."""
        if self.progress.tokens == 0 and (reward_S := drawn.per_segment.get("reward")) is not None:
            reward_N = reward_S[drawn.per_segment["is_answer"]]
            answers, known = self.context.reduce([len(reward_N), int((~reward_N.isnan()).sum())], "sum")
            if not known:
                raise NO_REWARDS(self.reporter.stage, answers=int(answers))

    def count(self, tokens: int, dropped: Mapping[str, int]) -> None:
        """Add a step's tokens and what was dropped, over all ranks, to the progress."""
        tokens, any_dropped = map(int, self.context.reduce([tokens, sum(dropped.values())], "sum"))
        self.progress.tokens += tokens
        self.throughput.add(tokens)
        if any_dropped:
            told, so_far = self.context.sum_by_name(dropped), self.progress.dropped
            self.progress.dropped = {
                why: so_far.get(why, 0) + int(told.get(why, 0)) for why in sorted({*so_far, *told})
            }

    def numbered(self, batch: Batch) -> Batch:
        """With the numbers of its trees among those of all ranks, which take turns: per_tree["number"]."""
        number_R = torch.arange(batch.num_trees, device=batch.tokens_T.device)
        return batch.with_(per_tree={"number": number_R * self.context.dims.dp + self.context.dp_rank})

    def minibatches(self, batch: Batch, epoch: int) -> list[Batch]:
        """The updates of one pass, whose trees are drawn anew for every pass. A tree's update depends on its number
        only, not on the number of ranks; where there are fewer trees than updates, some are empty."""
        count = self.algorithm.plan.minibatches
        if count == 1:
            return [batch]
        kept = batch if "number" in batch.per_tree else self.numbered(batch)  # `prepare` may have made new trees
        numbers = kept.per_tree["number"].tolist()
        (last,) = self.context.reduce([max(numbers, default=-1)], "max")
        places = np.random.default_rng((self.seed, self.progress.step, epoch)).permutation(int(last) + 1)
        updates = [int(places[number]) * count // len(places) for number in numbers]
        return [batch.select([tree for tree, of in enumerate(updates) if of == update]) for update in range(count)]

    # -- one update ------------------------------------------------------------------------------

    def update(self, batch: Batch, logged: bool) -> dict[str, float]:
        """One optimizer update; its metrics if they are logged. Where nothing can be learnt it is left out, counted."""
        parts = cut(batch, self.options.microbatch_tokens)
        counts = self.context.reduce(count_units(batch), "sum")
        if not any(counts):
            return self.skip("nothing to train on")
        (passes,) = self.context.reduce([len(parts)], "max")
        parts += [batch.select([])] * (int(passes) - len(parts))

        meter = Meter() if logged else None
        want = self.want | self.want_logged if logged else self.want
        self.optimizer.zero_grad(set_to_none=True)
        microbatches = [Microbatch.of(part, want, self.module.multiple) for part in parts]
        self.model.runner.forward_backward(microbatches, partial(self.loss, counts, want, meter))
        sum_gradients(self.module.parameters(), self.context)
        parameters = dict(self.module.named_parameters())
        norm = clip_gradients(parameters, self.options.clip, self.context, self.model.stages)
        if not math.isfinite(norm):
            self.progress.bad_in_a_row += 1
            if self.progress.bad_in_a_row >= MAX_BAD_UPDATES:
                raise self.diverged(norm)
            return self.skip(f"the gradient norm is {norm}")
        self.progress.bad_in_a_row = 0
        self.optimizer.step()
        return {**meter.read(self.context), "grad_norm": norm} if meter is not None else {}

    def loss(
        self,
        counts: Sequence[float],
        want: frozenset[Want],
        meter: Meter | None,
        microbatch: Microbatch,
        x_TD: Tensor | None,
    ) -> Tensor:
        """The microbatch's share of the update's loss, or what this stage of a pipeline makes of the hidden states
        `x_TD` for the next. `meter`: of a logged step, takes its metrics too."""
        batch = microbatch.batch
        with autocast(self.options.precision, batch.tokens_T.device):
            scored = score_stage(self.module, microbatch, want, self.temperature, x_TD)
        if isinstance(scored, Tensor):
            return scored
        losses = shares(self.algorithm.loss(scored, batch), counts)
        if meter is not None:
            with torch.no_grad():
                meter.add(losses, shares(self.algorithm.metrics(scored, batch), counts))
        return torch.stack(list(losses.values())).sum()

    def skip(self, why: str) -> dict[str, float]:
        self.progress.skipped += 1
        log.warning("step %d: %s; update skipped (%d so far)", self.progress.step + 1, why, self.progress.skipped)
        return {}

    def diverged(self, norm: float) -> LlamaError:
        return DIVERGED(f"step {self.progress.step + 1}", count=MAX_BAD_UPDATES, norm=norm)

    # -- reporting and checkpoints ---------------------------------------------------------------

    def report(self, updates: Sequence[Mapping[str, float]]) -> None:
        """Metrics of a logged step: means over its updates, figures of its rollouts, and the loop's own numbers."""
        progress, watch = self.progress, self.rollouts.watch if self.rollouts is not None else None
        done = [update for update in updates if update]
        names = done[0] if done else ()
        means = {name: sum(update[name] for update in done) / len(done) for name in names}
        metrics = (
            means
            | (watch.metrics(self.context) if watch is not None else {})
            | {
                "lr": self.schedule.lr(progress.step - 1),
                "tokens": progress.tokens,
                "skipped": progress.skipped,
                "dropped": sum(progress.dropped.values()),
            }
            | {f"dropped/{why}": count for why, count in progress.dropped.items()}
        )
        # In the order in which a checkpoint gives them back: a run that is resumed at its end makes the same bytes.
        progress.metrics = {name: metrics[name] for name in sorted(metrics) if math.isfinite(metrics[name])}
        if self.context.is_main:
            metrics["tokens_per_second"] = self.throughput.read()
            self.reporter.logged(progress.step, metrics, watch.samples() if watch is not None else ())
            self.reporter.advanced(1, metrics)

    def save_if_due(self, stopping: bool) -> None:
        step = self.progress.step
        due = stopping or step == self.schedule.total or step % self.options.checkpoint_every == 0
        if self.store is None or not due:
            return
        groups = {
            "model": self.model.gathered(trainable(self.module)),
            "optimizer": self.model.gathered(optimizer_tensors(self.module, self.optimizer)),
            "average": self.model.gathered(self.average.sums),
        }
        if self.context.is_main:
            state = {
                "identity": self.identity,
                "seed": self.seed,
                "progress": asdict(self.progress),
                "average_count": self.average.count,
                "algorithm": self.algorithm.state_dict(),
            }
            self.reporter.saved(step, self.store.save(step, groups, state))
        for tensors in groups.values():  # all ranks gather what rank 0 writes
            deque(tensors, maxlen=0)
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
        held = set().union(*self.context.gather(list(trainable(self.module)), "model"))
        load_model_tensors(self.module, checkpoint.tensors("model"), held, where)
        load_optimizer_tensors(self.module, self.optimizer, checkpoint.tensors("optimizer"))
        self.average.load(self.module, checkpoint.tensors("average"), state["average_count"])
        self.algorithm.load_state_dict(state["algorithm"])
        self.progress = Progress(**state["progress"])
        log.info("resumed from %s", where)
        if self.context.is_main:
            self.reporter.advanced(self.progress.step, self.progress.metrics)

    def interrupt(self) -> NoReturn:
        saved = "is saved" if self.store is not None else "was not saved: this run keeps no checkpoints"
        raise STOPPED(self.reporter.stage, step=self.progress.step, total=self.schedule.total, saved=saved)


def shares(terms: Mapping[str, Term], counts: Sequence[float]) -> dict[str, Tensor]:
    """Each term over the update's count of its unit. Raises PluginError for what is no term."""
    if wrong := sorted(name for name, term in terms.items() if not isinstance(term, Term)):
        raise NO_TERM("algorithm", names=wrong, type=type(terms[wrong[0]]).__name__)
    return {name: term.sum * (term.weight / max(counts[UNITS.index(term.per)], 1.0)) for name, term in terms.items()}


def random_seed(*numbers: int) -> int:
    """A seed made of numbers (run, step, share of the examples), so that no generator state must be saved."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])
