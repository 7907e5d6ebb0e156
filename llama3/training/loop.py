"""One loop for everything that learns. One step:

    examples(step) -> collate -> for rollouts: draw answers, reward them -> drop what has no reward
      -> prepare (no gradient)
      -> for each epoch and minibatch, one update:
           microbatches: score -> loss -> backward  ->  clip -> finite guard -> optimizer
      -> weight average -> metrics -> checkpoint, which is written behind the next steps

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
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, nullcontext
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from llama3.config.schema import OptimizerSection
from llama3.errors import CheckpointError, ConfigError, DataError, Interrupted, LlamaError
from llama3.model.batch import Batch
from llama3.model.memory import give_back_freed_memory
from llama3.model.precision import autocast
from llama3.model.score import Microbatch, score_stage
from llama3.model.shards import local
from llama3.plugins.specs import Want
from llama3.training.agreement import refuse_together
from llama3.training.algorithm import Algorithm, Collate, Dataset, Services
from llama3.training.asked_algorithm import nothing_learnt, shares
from llama3.training.averaging import WeightAverage
from llama3.training.checkpoint import CheckpointStore, check_identity
from llama3.training.interrupt import StopRequest
from llama3.training.ledger import data_step
from llama3.training.meter import Meter
from llama3.training.metrics import Reporter, Throughput
from llama3.training.microbatch import count_units, cut, drop_unscorable
from llama3.training.optimizer import build_optimizer, clip_gradients, set_lr
from llama3.training.parts import Groups, StoredTensors
from llama3.training.placed import PlacedModel
from llama3.training.recovery import MOST, NO_WAY_BACK, TOO_OFTEN, GoBack
from llama3.training.reliability import Reliability, content_of
from llama3.training.replicas import HandedOver, Member, NotCommitted, SentTensors, number_of, unfit, whole_shapes
from llama3.training.rollouts import Rollouts
from llama3.training.saving import CheckpointSaver
from llama3.training.schedule import Schedule
from llama3.training.spikes import find_spike, remember
from llama3.training.state import (
    load_model_tensors,
    load_optimizer_tensors,
    model_problems,
    optimizer_tensors,
    trainable,
)

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
    learnt: int = 0
    """Updates made."""
    skipped: int = 0
    """Updates left out: a gradient that was not finite, or nothing to train on."""
    bad_in_a_row: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    """Segments with targets that were left out, by reason: `no_reward`, and what algorithms name."""
    metrics: dict[str, float] = field(default_factory=dict)
    """Of the last logged step; deterministic (no timings)."""
    left_out: list[int] = field(default_factory=list)
    """Data that steps pass over, ascending, by the 0-based steps that would have read it."""
    losses: list[float] = field(default_factory=list)
    """The last good ones, by which a spike is told."""
    went_back: int = 0
    """Times that a checkpoint was returned to without a restart, and without getting on in between."""
    turned_at: int = 0
    """The step of the last return."""


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
    reliability: Reliability | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Progress:
    """Train `model` in place over `schedule.total` steps.

    With a `store` it resumes from the newest checkpoint that verifies and refuses one whose `identity` differs.
    `snapshots`: numbers of finished steps; where there are any, the weights are in the end the mean of those.
    `collate` packs examples. With `rollouts` they are prompts to answer, and models are scored at the temperature at
    which answers are drawn. `want` and `want_logged` are those of the algorithm's spec.

    Where a loss spikes (`options.spike`) or memory does not hold what was computed (`reliability`) it goes back to a
    checkpoint by itself.

    Raises Interrupted after saving on Ctrl-C or SIGTERM, LlamaError (L3-TRN-002) when gradients stay non-finite and
    (L3-TRN-005; PluginError, L3-TRN-006, of a third party's algorithm) when none ever was finite, (L3-TRN-051, 053)
    when going back does not help or is not possible, CheckpointError where checkpoints are damaged, of another run, or
    cannot be written.
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
        reliability=reliability or Reliability(),
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
    want: frozenset[Want] = frozenset({"logps"})
    want_logged: frozenset[Want] = frozenset()
    services: Services | None = None
    rollouts: Rollouts | None = None
    store: CheckpointStore | None = None
    identity: Mapping[str, Any] = field(default_factory=dict)
    snapshots: frozenset[int] = frozenset()
    reporter: Reporter = field(default_factory=lambda: Reporter("train"))
    reliability: Reliability = field(default_factory=Reliability)
    throughput: Throughput = field(default_factory=Throughput)

    def __post_init__(self) -> None:
        self.context, self.module = self.model.context, self.model.module
        self.optimizer = build_optimizer(self.module, self.options)
        self.temperature = self.rollouts.sampling.temperature if self.rollouts is not None else 1.0
        self.progress = Progress()
        self.average = WeightAverage()
        self.integrity = self.reliability.integrity(self.module, self.optimizer, self.context)
        self.saver = CheckpointSaver(self.store, self.context, self.reporter.saved) if self.store is not None else None
        self.others = self.context.replicas
        """The replica groups, this one among them, where there may be others; `parted` when the last step is done."""
        self.parted = self.others is None

    def run(self) -> Progress:
        self.require_fit()
        with self.reliability.attempt(self.context, self.schedule.total):
            with self.reliability.watch("restore"):
                self.restore()
            if self.others is None and (order := self.reliability.order(self.context, self.progress.left_out)):
                self.go_back(order)
            self.module.train()
            together = closing(self.others) if self.others is not None else nullcontext()
            with StopRequest() as stop, self.saver or nullcontext(), together:
                while self.progress.step < self.schedule.total or not self.parted:
                    try:
                        self.advance(stop)
                    except GoBack as order:
                        self.go_back(order)
        self.average.copy_to(self.module)
        return self.progress

    def advance(self, stop: StopRequest) -> None:
        """One step, a checkpoint where one is due, and the end where it is asked for."""
        with self.reliability.watch("step"):
            self.meet()
            if self.progress.step == self.schedule.total:
                self.parted = True
                return
            data, began = data_step(self.progress.step, self.progress.left_out), self.reliability.now()
            content = self.step(data) if self.others is None else self.try_step(data)
            stopping = self.context.reduce([stop.requested], "max", "world") == [1]
        if content is not None:
            self.reliability.stepped(self.progress.step, data, content, began)
        if content is not None or stopping:
            with self.reliability.watch("save"):
                self.save_if_due(stopping)
        if stopping:
            self.interrupt()

    # -- with other replica groups (llama3.training.replicas) ------------------------------------

    def require_fit(self) -> None:
        """Raises ConfigError where a step could not be done again together."""
        if self.others is not None:
            draws, goes_back = (
                self.rollouts is not None,
                self.options.spike is not None or bool(self.reliability.asked()),
            )
            if problems := unfit(self.reporter.stage, self.algorithm.plan, draws=draws, goes_back=goes_back):
                raise ConfigError.of(problems)

    def meet(self) -> None:
        """Begin a step with whoever is there, on the state of those that are furthest."""
        if self.others is not None:
            self.others.meet(self.member)
            self.reliability.met(self.progress.step + 1, self.others.count)

    @cached_property
    def member(self) -> Member:
        """This launch, for the others."""
        trained = {**self.identity, "seed": self.seed, "steps": self.schedule.total}
        return Member(
            identity=number_of(trained),
            step=lambda: self.progress.step,
            fingerprint=lambda: number_of(self.integrity.sums()),
            give=self.hand_over,
            take=self.take_over,
        )

    def hand_over(self) -> HandedOver:
        groups, state = self.held()
        parts = {group: {name: local(x).detach() for name, x in held.items()} for group, held in groups.items()}
        return HandedOver({**state, "shapes": whole_shapes(groups)}, parts)

    def take_over(self, told: HandedOver) -> None:
        before, shapes = self.progress.step, told.state["shapes"]
        self.go_on_from(told.state, lambda group: SentTensors(told.tensors[group], shapes[group]))
        self.reliability.healed(before, self.progress.step)
        log.info("took over the state of another replica group, after step %d", self.progress.step)

    def try_step(self, data: int) -> int | None:
        """`step`; None where somebody was lost in it, and all is as it was before."""
        before, state = deepcopy(self.progress), deepcopy(self.algorithm.state_dict())
        try:
            return self.step(data)
        except NotCommitted:
            log.warning("step %d: a replica group was lost; the step is done again", before.step + 1)
            self.progress = before
            self.algorithm.load_state_dict(state)
            return None

    def require_commit(self) -> None:
        """Raises NotCommitted where the sums of this step are not those of all."""
        if self.others is not None and not self.others.commit():
            raise NotCommitted

    # -- one step --------------------------------------------------------------------------------

    def step(self, data: int) -> int:
        """Learn from what the dataset has for step `data`; returns what `content_of` says of it, over all ranks."""
        step, plan = self.progress.step, self.algorithm.plan
        torch.manual_seed(random_seed(self.seed, step, self.context.dp_rank))
        set_lr(self.optimizer, self.schedule.lr(step))
        logged = (step + 1) % self.options.log_every == 0 or step + 1 == self.schedule.total
        batch, content = self.load(step, data)
        updates = [
            self.update(minibatch, logged)
            for epoch in range(plan.epochs)
            for minibatch in self.minibatches(batch, epoch)
        ]
        self.progress.step += 1
        if self.progress.step == self.schedule.total:
            self.require_learnt()
        if self.progress.step in self.snapshots:
            self.average.add(self.module)
        if logged:
            give_back_freed_memory(generation=1)
            self.report(updates)
        elif self.context.is_main:
            self.reporter.advanced(1, {})
        return content

    def load(self, step: int, data: int) -> tuple[Batch, int]:
        """This rank's share of a step as a prepared batch, and the content of all shares."""
        examples = self.dataset.examples(data)
        share = examples[self.context.dp_rank :: self.context.dp_shares]
        batch = self.collate(share) if len(share) else self.collate(examples[:1]).select([])
        content = content_of(batch)
        batch = self.numbered(batch.to(self.context.device))
        with torch.no_grad():
            if self.rollouts is not None:
                plan = self.algorithm.plan
                batch = self.rollouts.draw(batch, plan.samples, random_seed(self.seed, step), plan.own)
                self.require_rewards(batch)
            drawn = batch
            batch = self.algorithm.prepare(drop_unscorable(batch), self.services)  # type: ignore[arg-type]
        return batch, self.count(drawn.num_tokens, batch.dropped, content)

    def require_rewards(self, drawn: Batch) -> None:
        """Raises DataError, on all ranks together, where no answer of the first step has a reward."""
        if self.progress.tokens == 0 and (reward_S := drawn.per_segment.get("reward")) is not None:
            reward_N = reward_S[drawn.per_segment["is_answer"]]
            answers, known = self.context.reduce([len(reward_N), int((~reward_N.isnan()).sum())], "sum")
            if not known:
                raise NO_REWARDS(self.reporter.stage, answers=int(answers))

    def count(self, tokens: int, dropped: Mapping[str, int], content: int) -> int:
        """Add a step's tokens and what was dropped, over all ranks, to the progress; returns the content of all."""
        counts = [tokens, sum(dropped.values()), content]
        tokens, any_dropped, content = map(int, self.context.reduce(counts, "sum"))
        self.progress.tokens += tokens
        self.throughput.add(tokens)
        if any_dropped:
            told, so_far = self.context.sum_by_name(dropped), self.progress.dropped
            self.progress.dropped = {
                why: so_far.get(why, 0) + int(told.get(why, 0)) for why in sorted({*so_far, *told})
            }
        return content % (1 << 32)

    def numbered(self, batch: Batch) -> Batch:
        """With the numbers of its trees among those of all ranks, which take turns: per_tree["number"]."""
        number_R = torch.arange(batch.num_trees, device=batch.tokens_T.device)
        return batch.with_(per_tree={"number": number_R * self.context.dp_shares + self.context.dp_rank})

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
            self.require_commit()
            return self.skip("nothing to train on")
        (passes,) = self.context.reduce([len(parts)], "max", "loss")
        parts += [batch.select([])] * (int(passes) - len(parts))

        meter = Meter() if logged else None
        want = self.want | self.want_logged if logged else self.want
        self.optimizer.zero_grad(set_to_none=True)
        microbatches = [Microbatch.of(part, want, self.module.multiple) for part in parts]
        self.model.runner.forward_backward(microbatches, partial(self.loss, counts, want, meter))
        self.model.parallel.sum_gradients(self.module)
        parameters = dict(self.module.named_parameters())
        norm = clip_gradients(parameters, self.options.clip, self.context, self.model.stages)
        metrics = {**meter.read(self.context), "grad_norm": norm} if meter is not None else {}
        self.require_commit()
        if not math.isfinite(norm):
            self.progress.bad_in_a_row += 1
            if self.progress.bad_in_a_row >= MAX_BAD_UPDATES:
                self.require_learnt()
                raise self.diverged(norm)
            return self.skip(f"the gradient norm is {norm}")
        self.progress.bad_in_a_row = 0
        self.integrity.check()
        self.optimizer.step()
        self.progress.learnt += 1
        self.integrity.mark(self.progress.step)
        return metrics

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
        step = self.progress.step
        self.reliability.unlearnt("skipped", step + 1, data_step(step, self.progress.left_out), why, self.dataset)
        log.warning("step %d: %s; update skipped (%d so far)", self.progress.step + 1, why, self.progress.skipped)
        return {}

    def require_learnt(self) -> None:
        """Raises LlamaError where not one gradient was finite: what would be kept is what training began with."""
        if not self.progress.learnt and self.progress.bad_in_a_row:
            raise nothing_learnt(self.reporter.stage, self.algorithm, self.progress.bad_in_a_row)

    def diverged(self, norm: float) -> Exception:
        """The end of training; where spikes are left out, an order to leave out the data of these steps."""
        step, left_out = self.progress.step, self.progress.left_out
        error = DIVERGED(f"step {step + 1}", count=MAX_BAD_UPDATES, norm=norm)
        if self.options.spike is None:
            return error
        first = max(step + 1 - MAX_BAD_UPDATES, 0)
        return GoBack("loss spike", error, first, [data_step(at, left_out) for at in range(first, step + 1)])

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
        if "loss" in metrics and self.options.spike is not None:
            self.require_no_spike(metrics["loss"], self.options.spike)

    def require_no_spike(self, loss: float, factor: float) -> None:
        """Raises GoBack where the loss of the step that is finished is a spike."""
        progress = self.progress
        if order := find_spike(progress.losses, loss, factor, progress.step, self.options.log_every, progress.left_out):
            raise order
        remember(progress.losses, loss)

    def save_if_due(self, stopping: bool) -> None:
        """Begin to save a step that is due, and wait for it where it is the last."""
        if self.saver is None:
            return
        step = self.progress.step
        last = stopping or step == self.schedule.total
        if last or step % self.options.checkpoint_every == 0:
            self.integrity.check()
            began = time.monotonic()
            self.reliability.saving()
            groups, state = self.held()
            self.saver.save(step, groups, state, last=last)
            self.reliability.saved(step, time.monotonic() - began)
        else:
            self.saver.settle()

    def held(self) -> tuple[Groups, dict[str, Any]]:
        """All that training goes on from."""
        groups: Groups = {
            "model": trainable(self.module),
            "optimizer": optimizer_tensors(self.module, self.optimizer),
            "average": self.average.sums,
        }
        return groups, {
            "identity": self.identity,
            "seed": self.seed,
            "progress": asdict(self.progress),
            "average_count": self.average.count,
            "algorithm": self.algorithm.state_dict(),
        }

    def go_on_from(self, state: Mapping[str, Any], tensors: Callable[[str], StoredTensors]) -> None:
        """Take what `held` was, here or elsewhere."""
        before = self.progress.step
        load_model_tensors(self.module, tensors("model"))
        self.optimizer.state.clear()
        load_optimizer_tensors(self.module, self.optimizer, tensors("optimizer"))
        self.average.load(self.module, tensors("average"), state["average_count"])
        self.algorithm.load_state_dict(state["algorithm"])
        self.progress = Progress(**state["progress"])
        self.integrity.forget()
        if self.context.is_main:
            self.reporter.advanced(self.progress.step - before, self.progress.metrics)

    def restore(self, at_most: int | None = None) -> bool:
        """Go on where the newest good checkpoint (of step `at_most` or before) stands; start anew where there is none.
        Returns whether there was one."""
        began = time.monotonic()
        if self.saver is not None:
            self.saver.settle(wait=True)
        checkpoint = self.store.load(at_most, self.context) if self.store is not None else None
        if checkpoint is None:
            self.reliability.resumed(self.progress.step, time.monotonic() - began)
            return False
        state, where = checkpoint.state, str(checkpoint.path)
        check_identity(
            {**state["identity"], "seed": state["seed"]}, {**self.identity, "seed": self.seed}, checkpoint.path
        )
        held = set().union(*self.context.gather(list(trainable(self.module)), "model"))
        tensors = checkpoint.tensors("model")
        refuse_together(model_problems(self.module, tensors, held, where), self.context, CheckpointError)
        self.go_on_from(state, checkpoint.tensors)
        log.info("resumed from %s", where)
        self.reliability.resumed(self.progress.step, time.monotonic() - began)
        return True

    def go_back(self, order: GoBack) -> None:
        """Return to a checkpoint, and pass over the data that is to be left out. Raises LlamaError where that is not
        possible, or did not help."""
        reached = self.progress
        if order.at_most is not None and reached.step <= order.at_most:
            return self.pass_over(order, reached)  # no step has read it yet
        got_on = reached.step >= reached.turned_at + self.options.checkpoint_every
        times = 1 if got_on else reached.went_back + 1
        log.warning("step %d: %s; going back to a checkpoint", reached.step, order)
        if times > MOST:
            raise TOO_OFTEN(self.reporter.stage, times=MOST, why=order.error)
        self.reliability.going_back(reached.step, order)
        with self.reliability.watch("restore"):
            found = self.restore(order.at_most)
        if not found:
            raise NO_WAY_BACK(self.reporter.stage, why=order.error, step=order.at_most or reached.step)
        if self.store is not None and self.context.is_main:
            self.store.forget_after(self.progress.step)
        self.context.barrier()
        self.progress.went_back, self.progress.turned_at = times, reached.step
        self.pass_over(order, reached)

    def pass_over(self, order: GoBack, reached: Progress) -> None:
        self.progress.left_out = sorted({*reached.left_out, *order.left_out})
        for data in order.left_out:
            self.reliability.unlearnt("left_out", reached.step, data, order.cause, self.dataset)

    def interrupt(self) -> NoReturn:
        saved = "is saved" if self.store is not None else "was not saved: this run keeps no checkpoints"
        raise STOPPED(self.reporter.stage, step=self.progress.step, total=self.schedule.total, saved=saved)


def random_seed(*numbers: int) -> int:
    """A seed made of numbers (run, step, share of the examples), so that no generator state must be saved."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])
