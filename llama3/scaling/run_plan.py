"""What a run will do, told before it does it: its phases, its layout, whether this machine holds it, how long it takes.

A step's time is predicted from what this machine multiplies and reads, and set beside what the run has measured of
itself, or else a probe, which trains three microbatches of random tokens.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from llama3.checkpoints.formats import open_weights
from llama3.config import Loaded, load
from llama3.config.phases import Phase, parts_of
from llama3.cost.gpus import Gpu
from llama3.cost.here import this_machine
from llama3.errors import ConfigError, DoesNotFit, LlamaError, Problem
from llama3.model.activations import KEPT_LOGITS
from llama3.model.attention import KEPT_PROBABILITIES, QUERY_BLOCK
from llama3.model.batch import Batch
from llama3.model.config import ModelConfig
from llama3.model.device import device_of
from llama3.model.needs import memory_here, size
from llama3.model.precision import ComputePrecision, chosen, probe
from llama3.model.remat import AUTO_SHARE
from llama3.model.score import CHUNK_LOGITS, CHUNK_LOGITS_CUDA, CHUNK_ROWS
from llama3.plugins.registry import discover
from llama3.scaling.layouts import RECOMPUTE
from llama3.scaling.memory import RankBytes, rank_bytes
from llama3.scaling.step_time import ON_GPU, Efficiency, step_time
from llama3.training.asked_algorithm import build_algorithm
from llama3.training.estimate import Cost, StepShape, combined
from llama3.training.loop import train
from llama3.training.parallel import Dims, Parallel, ParallelContext, build_strategies, checked, estimated
from llama3.training.placed import PlacedModel
from llama3.training.schedule import Schedule

NO_ROOM = DoesNotFit.declare(
    "L3-PLN-013",
    "{work} needs {needed} on {ranks} ranks of this machine, which has {there}",
    why="each needs {each}: {parts}",
    fix="{fix}",
)

NO_PRETRAINING = ConfigError.declare(
    "L3-PLN-018",
    "nothing is pretrained here",
    why="the model in model.path has that behind it, and no phase makes its context longer",
    fix="leave out model.path to plan a pretraining; llama3 config validate says whether memory holds the rest",
)

ON_CPU = Efficiency(products=1.0, knee=48.0, attention=0.3, link=0.5, memory=0.15)
"""Of a thread's rate in products of training's shape, and of a pass over memory. Fitted to steps of five models of 0.9
to 18 million parameters in both precisions on one core, of which it was off by -37 to +21 %; a probe says how far it is
here."""
PROBE_SECONDS = 20.0
"""A probe that would take longer is not made."""
LEAST_TOKENS = 64


@dataclass(frozen=True)
class RunPlan:
    """A run's phases, its layout, and what one step of its largest phase takes."""

    loaded: Loaded
    model: ModelConfig
    dims: Dims
    strategies: Mapping[str, str]
    phases: list[Phase]
    device: torch.device
    precision: ComputePrecision
    costs: dict[str, Cost]
    step: StepShape
    local_ranks: int

    @classmethod
    def of(cls, loaded: Loaded, environ: Mapping[str, str] = os.environ, model: ModelConfig | None = None) -> RunPlan:
        """`model` is the shape where the config does not tell it, of a size that is cut out of another. Raises what is
        wrong with the model or a strategy."""
        config = loaded.config
        section = config.model
        if model is None:
            path, size = section.path, config.tokenizer.vocab_size
            model = ModelConfig.from_section(section, size) if path is None else open_weights(path).config
        world = _whole(environ, "WORLD_SIZE") or Dims(**config.parallelism.sizes(1)).world
        dims = Dims(**config.parallelism.sizes(world))
        device = device_of(config.run.device)
        before, *stages = parts_of(config.pretrain)
        phases = [phase for part in ([] if section.path else before, *stages) for phase in part]
        if not phases:
            raise NO_PRETRAINING(loaded.place("model.path"))
        precision = chosen(config.pretrain.precision, "training", device)
        strategies = build_strategies(config.parallelism, world, discover())
        if problems := [one for axis, found in strategies.items() for one in checked(axis, found, model, dims)]:
            raise ConfigError.of(problems)
        # The phase whose microbatch keeps the most, and of those the one with the most of them.
        shapes = [_step(model, dims, phase, config.pretrain.microbatch_tokens, precision, device) for phase in phases]
        step = max(shapes, key=lambda shape: (shape.tokens * (1 + shape.scores), shape.microbatches))
        plan = cls(
            loaded=loaded,
            model=model,
            dims=dims,
            strategies={axis: slot.name for axis, slot in config.parallelism.strategies(world).items()},
            phases=phases,
            device=device,
            precision=precision,
            costs={axis: estimated(axis, strategy, model, dims, step) for axis, strategy in strategies.items()},
            step=step,
            local_ranks=_whole(environ, "LOCAL_WORLD_SIZE") or world,
        )
        return replace(plan, step=plan._recomputing(config.parallelism.activation_bytes))

    def _recomputing(self, given: Literal["auto"] | int) -> StepShape:
        """The step with as little computed again as the budget of activations allows (llama3.model.remat)."""
        for recompute in RECOMPUTE:
            step = replace(self.step, recompute=recompute)
            found = self._bytes(step)
            kept = found.activations + found.keys
            if given != "auto":
                budget = float(given)
            elif (there := self.there) is not None:
                budget = AUTO_SHARE * (there / self.local_ranks - (found.total - kept))
            else:
                break
            if kept <= budget:
                break
        return step

    @property
    def bytes(self) -> RankBytes:
        return self._bytes(self.step)

    def _bytes(self, step: StepShape) -> RankBytes:
        together = combined(self.costs.values())
        on_gpu = self.device.type == "cuda"
        chunk = CHUNK_LOGITS_CUDA if on_gpu else max(CHUNK_LOGITS, CHUNK_ROWS * self.model.vocab_size)
        return rank_bytes(self.model, step, together, chunk_logits=chunk, kept_logits=KEPT_LOGITS)

    @property
    def program(self) -> int:
        """Bytes that a process takes without a model: what this one, which has the same libraries, had at most."""
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

    @property
    def there(self) -> int | None:
        """Bytes that the ranks on this machine can share; None where it does not tell."""
        if self.device.type == "cuda":
            cards = range(torch.cuda.device_count())
            return sum(torch.cuda.get_device_properties(card).total_memory for card in cards)
        return memory_here()

    @property
    def needed(self) -> float:
        """Bytes of all ranks on this machine."""
        return self._needed(self.step)

    def _needed(self, step: StepShape) -> float:
        own = 0 if self.device.type == "cuda" else self.program
        return self.local_ranks * (self._bytes(step).total + own)

    def problem(self) -> Problem | None:
        """That this machine does not hold the run, and what to change."""
        there = self.there
        if there is None or self.needed <= there:
            return None
        parts = ", ".join(f"{name} {size(int(value))}" for name, value in asdict(self.bytes).items())
        return NO_ROOM.problem(
            self.loaded.place("pretrain"),
            work="pretraining",
            needed=size(int(self.needed)),
            ranks=self.local_ranks,
            there=size(there),
            each=f"{size(int(self.bytes.total))} and {self.program / 1e9:.1f} GB for the program",
            parts=parts,
            fix=self._change(there),
        )

    def _change(self, there: int) -> str:
        """What would make it fit: smaller microbatches if they can, else fewer bytes of each weight on a rank."""
        tokens = self.step.tokens
        while tokens > LEAST_TOKENS:
            tokens //= 2
            smaller = replace(self.step, tokens=tokens, microbatches=max(2, self.step.microbatches))
            if self._needed(smaller) <= there and tokens >= self.step.seq_len:
                return f"set pretrain.microbatch_tokens: {tokens}"
        states = self.bytes.weights + self.bytes.gradients + self.bytes.optimizer
        machines = -(-int(self.local_ranks * states) // max(1, there // 2))
        return (
            f"choose a smaller model.preset, shorter rows (pretrain.seq_len), or share it: "
            f"parallelism.dp: fsdp on {max(2, machines)} machines like this one"
        )

    # -- time ------------------------------------------------------------------------------------

    def predicted(self) -> float:
        """Seconds of the step, from what this machine multiplies and reads now."""
        on_gpu = self.device.type == "cuda"
        here = this_machine(self.model, "cuda", []) if on_gpu else _this_cpu()
        efficiency, together = (ON_GPU if on_gpu else ON_CPU), combined(self.costs.values())
        found = step_time(self.model, self.dims, self.step, self.costs, together, here, efficiency, self.precision)
        return found.total * (1 if on_gpu else self.local_ranks)  # processes on one CPU share it

    def measured(self) -> tuple[str, float] | None:
        """Seconds of a step as the run has measured them in its last logged steps, if it has: the run of this name,
        where it trains the same in the same way."""
        config = self.loaded.config
        folder = Path(config.run.dir) / config.run.name
        file = folder / "metrics.jsonl"
        if not file.is_file() or not _is_run_of(self.loaded, folder / "config.yaml"):
            return None
        rates = [row["tokens_per_second"] for row in _rows(file) if row.get("stage") == "pretrain"]
        known = [rate for rate in rates if rate]
        if not known:
            return None
        last = self.phases[-1]
        return str(file), last.batch * last.seq_len / statistics.median(known[-5:])

    def probed(self) -> float:
        """Seconds of the step, from microbatches that are trained here, the last of three; one process only."""
        section = self.loaded.config.pretrain.model_copy(
            update={"microbatch_tokens": self.step.tokens, "log_every": 10_000, "checkpoint_every": 10_000}
        )
        model = PlacedModel.drawn(self.model, 0, Parallel(ParallelContext(self.device)))
        algorithm = build_algorithm(section.algorithm)
        clock = _Clock()
        rows = max(1, self.step.tokens // self.step.seq_len)
        data = _Random(self.model.vocab_size, rows, min(self.step.seq_len, self.step.tokens), clock)
        schedule = Schedule.cosine(1e-4, 1.0, 0, 3)
        train(model, algorithm, data, collate=Batch.concat, options=section, schedule=schedule, seed=0)
        return (clock.times[2] - clock.times[1]) * self.step.microbatches


def _is_run_of(loaded: Loaded, file: Path) -> bool:
    """Whether the config of a run asks for the same steps: its model, its text's vocabulary, its phases, its layout."""
    try:
        found = load(file, environ={}).config
    except (LlamaError, OSError):
        return False
    names = ("model", "tokenizer", "pretrain", "parallelism")
    alike = all(getattr(found, name) == getattr(loaded.config, name) for name in names)
    return alike and (found.run.device, found.run.threads) == (loaded.config.run.device, loaded.config.run.threads)


def _this_cpu() -> Gpu:
    """What this CPU does in training, as a description of a device: all threads multiply, and share the memory."""
    rates = probe("training", torch.device("cpu")).gflops
    threads = torch.get_num_threads()
    return Gpu(
        memory=float(memory_here() or 1 << 40),
        bandwidth=_bandwidth(),
        flops={kind: threads * 1e9 * rate for kind, rate in rates.items()},
    )


def _bandwidth() -> float:
    """Bytes a second of a pass that reads and writes 64 MB; of a few tries the fastest."""
    x = torch.ones(1 << 24)
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        x.add_(1.0)
        seconds.append(time.perf_counter() - started)
    return 2 * x.nbytes / min(seconds)


class _Clock:
    """When each step began."""

    def __init__(self) -> None:
        self.times: list[float] = []


class _Random:
    """Rows of random tokens, and the moments at which they were asked for."""

    def __init__(self, vocabulary: int, rows: int, seq_len: int, clock: _Clock) -> None:
        self.vocabulary, self.rows, self.seq_len, self.clock = vocabulary, rows, seq_len, clock

    def examples(self, step: int) -> list[Batch]:
        self.clock.times.append(time.perf_counter())
        draw = np.random.default_rng(step).integers(0, self.vocabulary, (self.rows, self.seq_len))
        return [Batch.of_documents(row, [0]) for row in draw]


def _step(
    model: ModelConfig, dims: Dims, phase: Phase, budget: int, precision: ComputePrecision, device: torch.device
) -> StepShape:
    """A rank's update in a phase: microbatches of as many whole rows as the budget takes, one at least."""
    own = max(1, phase.batch // dims.dp) * phase.seq_len
    tokens = min(own, max(phase.seq_len, budget // phase.seq_len * phase.seq_len))
    scores = 0
    if device.type == "cpu":
        seen = (phase.seq_len + QUERY_BLOCK) // 2
        heads = model.n_heads // dims.tp
        scores = model.n_heads * seen if tokens * seen * heads <= KEPT_PROBABILITIES else 0
    width = 2 if precision == "bf16" else 4
    return StepShape(-(-own // tokens), tokens, phase.seq_len, width=width, stream=4, scores=scores)


def _whole(environ: Mapping[str, str], name: str) -> int:
    text = environ.get(name, "")
    return int(text) if text.isdecimal() else 0


def _rows(file: Path) -> Iterator[dict[str, Any]]:
    """The lines that can be read: a run that was killed may have left half a one."""
    for line in file.read_text("utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            yield row


def report_of(plan: RunPlan, *, with_probe: bool) -> dict[str, Any]:
    """The plan as plain data."""
    if (threads := plan.loaded.config.run.threads) is not None:
        torch.set_num_threads(threads)
    seconds = plan.predicted()
    own = plan.measured()
    measured, source = (None, None) if own is None else (own[1], own[0])
    if measured is None and with_probe and _can_probe(plan, seconds):
        measured, source = plan.probed(), "probe"
    steps = sum(phase.steps for phase in plan.phases)
    tokens = sum(phase.steps * phase.batch * phase.seq_len for phase in plan.phases)
    rate = plan.step.tokens * plan.step.microbatches * plan.dims.dp / (measured or seconds)
    problem = plan.problem()
    return {
        "source": plan.loaded.source,
        "model": {"parameters": plan.model.num_params()},
        "phases": [_phase(plan, number) for number in range(len(plan.phases))],
        "steps": steps,
        "tokens": tokens,
        "layout": {**asdict(plan.dims), "strategies": dict(plan.strategies)},
        "step": {**asdict(plan.step), "precision": plan.precision, "device": plan.device.type},
        "bytes": {**asdict(plan.bytes), "total": plan.bytes.total, "program": plan.program},
        "memory": {"ranks_here": plan.local_ranks, "needed": plan.needed, "there": plan.there, "fits": problem is None},
        "seconds": {
            "predicted": seconds,
            "measured": measured,
            "measured_by": source,
            "error": None if measured is None else seconds / measured - 1,
            "training": tokens / rate,
        },
        "problems": [] if problem is None else [asdict(problem)],
    }


def _can_probe(plan: RunPlan, seconds: float) -> bool:
    there = plan.there
    fits = there is None or plan.bytes.total + plan.program < there / 2
    return plan.dims.world == 1 and fits and 3 * seconds / plan.step.microbatches < PROBE_SECONDS


def _phase(plan: RunPlan, number: int) -> dict[str, Any]:
    phase, schedule = plan.phases[number], Schedule.of(plan.loaded.config.pretrain)
    mix = phase.given.mix or plan.loaded.config.data.mix
    return {
        "steps": phase.steps,
        "tokens": phase.steps * phase.batch * phase.seq_len,
        "batch": phase.batch,
        "seq_len": phase.seq_len,
        "tokens_per_step": phase.batch * phase.seq_len,
        "lr_first": schedule.lr(phase.first_step),
        "lr_highest": _highest(schedule, phase),
        "lr_last": schedule.lr(phase.first_step + phase.steps - 1),
        "mix": dict(mix),
    }


def _highest(schedule: Schedule, phase: Phase) -> float:
    """Of a phase's rates: a curve rises and falls once, so a few steps say it."""
    count = min(phase.steps, 2000)
    steps = {phase.first_step + phase.steps * place // count for place in range(count)}
    return max(schedule.lr(step) for step in steps)


def lines(report: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Layout, memory and time for people; the phases are a table of their own."""
    layout, step, memory, seconds = (report[name] for name in ("layout", "step", "memory", "seconds"))
    sizes = ", ".join(f"{axis} {layout[axis]}" for axis in ("tp", "cp", "pp", "dp"))
    named = ", ".join(f"{axis}: {name}" for axis, name in layout["strategies"].items())
    yield "layout", f"{sizes}{f' ({named})' if named else ''}"
    yield (
        "step",
        (
            f"{step['tokens']:,} tokens in each of {step['microbatches']} microbatches "
            f"on each of {layout['dp']} shares, {step['precision']} on {step['device']}"
        ),
    )
    parts = [field.name for field in fields(RankBytes)]
    yield (
        "a rank needs",
        (
            f"{size(int(report['bytes']['total']))}: "
            + ", ".join(f"{name} {size(int(report['bytes'][name]))}" for name in parts)
        ),
    )
    there = "an unknown amount" if memory["there"] is None else f"{memory['there'] / 1e9:,.1f} GB"
    needed, program = memory["needed"] / 1e9, report["bytes"]["program"] / 1e9
    holds = "holds it" if memory["fits"] else "does not hold it"
    ranks = f"{memory['ranks_here']} processes of {program:.1f} GB besides the model"
    yield "this machine", f"has {there}, {holds}: {needed:,.1f} GB with {ranks}"
    told = "not measured"
    if seconds["measured"] is not None:
        by = "by a probe" if seconds["measured_by"] == "probe" else f"by {seconds['measured_by']}"
        told = f"{seconds['measured']:.3g} s measured {by}, the prediction is {seconds['error']:+.0%} off"
    yield "a step takes", f"{seconds['predicted']:.3g} s predicted, {told}"
    yield "training", f"{report['steps']:,} steps, {report['tokens']:,} tokens, {duration(seconds['training'])}"


PHASE_HEAD = ("PHASE", "STEPS", "TOKENS", "ROWS", "SEQ LEN", "TOKENS/STEP", "LEARNING RATE", "MIX")


def phase_rows(report: Mapping[str, Any]) -> Iterator[list[str]]:
    """A row for each phase."""
    for number, phase in enumerate(report["phases"], start=1):
        first, highest, last = (phase[f"lr_{name}"] for name in ("first", "highest", "last"))
        rates = [first, *([highest] if highest > max(first, last) * 1.001 else []), last]
        yield [
            str(number),
            f"{phase['steps']:,}",
            f"{phase['tokens']:,}",
            f"{phase['batch']:,}",
            f"{phase['seq_len']:,}",
            f"{phase['tokens_per_step']:,}",
            " to ".join(f"{rate:.3g}" for rate in rates),
            ", ".join(f"{name} {weight:g}" for name, weight in phase["mix"].items()) or "by size",
        ]


def duration(seconds: float) -> str:
    """For people."""
    for unit, one in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * one:
            return f"{seconds / one:,.1f} {unit}"
    return f"{seconds:.1f} seconds"
