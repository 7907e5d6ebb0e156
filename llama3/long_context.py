"""Long-context stages: train on longer rows, measure, go on only where both gates are passed (paper 3.4.2).

    model ──> pretrain (longer rows) ──> short: the suites of `evaluation.tasks`, at the length before all stages
                 ^                   └─> gate:  the suites of `pretrain.gate.tasks`, at the new length
                 └── again, while a suite is worse than before all stages or an item is wrong, and rounds are left

Every round and every measurement is an artifact, so a run that was stopped, or whose gate was widened, goes on.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llama3.artifacts import Artifact
from llama3.config import Config
from llama3.config.phases import Phase, parts_of, window_of
from llama3.config.schema import GateSection, PhaseSection
from llama3.errors import GateFailed, Problem
from llama3.evaluation.audit import AuditOptions, audit, read_suites, require_auditable
from llama3.evaluation.stages import EvaluateOptions, evaluate
from llama3.execution import Executor
from llama3.training.pretrain import PartOptions, PretrainOptions, pretrain

NOT_RECOVERED = GateFailed.declare(
    "L3-CTX-010",
    "the short-context scores have not recovered",
    why="{why}",
    fix="give the stage more tokens or a gentler rate, raise pretrain.gate.rounds, or widen audit.margins",
)
NOT_PERFECT = GateFailed.declare(
    "L3-CTX-011",
    "the model does not find everything in its context",
    why="{why}",
    fix="give the stage more tokens, raise pretrain.gate.rounds, or mix in text that needs what it said long before",
)

Held = Callable[[Artifact, Sequence[Problem]], None]

EVERY = 1 << 30
"""A gate asks all items of its suites."""


@dataclass(frozen=True, slots=True)
class Base:
    """What stages start from: the model, the text it is trained on and measured by, and what has its tokenizer."""

    model: Artifact
    corpus: Artifact
    shards: Artifact
    tokenizer: Artifact


def has_stages(config: Config) -> bool:
    """Whether anything follows the pretraining of a new model."""
    return len(parts_of(config.pretrain)) > 1


def lengthen(make: Executor, config: Config, base: Base, held_back: Held) -> Artifact:
    """The model after all stages. One that does not pass a gate is told to `held_back`, with what it lacks.

    Raises GateFailed then, and where no model could pass: a suite has failed, or too few items to tell.
    """
    first, *parts = parts_of(config.pretrain)
    short = first[-1].seq_len if first else config.pretrain.seq_len
    done = [] if config.model.path else [phase.spelt_out for phase in first]
    before = make(evaluate, "short-base", _short(config, short), checkpoint=base.model, corpus=base.corpus)
    if any(part[0].given.gated for part in parts):
        require_auditable(before, _margins(config))
    story = _Stages(make, config, base, done, len(done), before, short, _window(parts))
    model = base.model
    for number, part in enumerate(parts, start=1):
        if not part[0].given.gated:
            model = story.train(model, part, "anneal" if part is parts[-1] else f"extend-{number}")
            continue
        model, lost = story.pass_through(model, part, f"extend-{number}")
        if lost:
            held_back(model, lost)
            raise GateFailed.of(lost)
    return model


@dataclass(slots=True)
class _Stages:
    make: Executor
    config: Config
    base: Base
    done: list[PhaseSection]
    """All phases so far, a phase that was trained again as often as it was."""
    first: int
    """The phases before all stages, which read a stream of rows of their own."""
    before: Artifact
    """The evaluation of the model before all stages, at the context `short`."""
    short: int
    window: int

    def pass_through(self, model: Artifact, part: Sequence[Phase], key: str) -> tuple[Artifact, list[Problem]]:
        """The model after a gated part, trained again until it passes, and what it lacks in the end."""
        gate, lost = self.config.pretrain.gate or GateSection(), list[Problem]()
        for again in range(1, gate.rounds + 1):
            model = self.train(model, part, f"{key}-{again}")
            lost = self.lacks(model, part[0].seq_len, f"{key}-{again}", gate)
            if not lost:
                break
        return model, lost

    def train(self, model: Artifact, part: Sequence[Phase], key: str) -> Artifact:
        """The model after a part."""
        options = PartOptions(reads=self.first, trains=len(self.done), window=self.window)
        self.done += [phase.spelt_out for phase in part]
        return self.make(
            pretrain,
            key,
            PretrainOptions.of_part(self.config, self.done, options),
            shards=self.base.shards,
            tokenizer=self.base.tokenizer,
            checkpoint=model,
        )

    def lacks(self, model: Artifact, length: int, key: str, gate: GateSection) -> list[Problem]:
        """What keeps a model from passing the gate of the stage to `length` tokens."""
        make, corpus = self.make, self.base.corpus
        short = make(evaluate, f"short-{key}", _short(self.config, self.short), checkpoint=model, corpus=corpus)
        audited = make(audit, f"audit-{key}", _margins(self.config), before=self.before, after=short)
        asked = make(evaluate, f"gate-{key}", _gate(self.config, gate), checkpoint=model, corpus=corpus)
        where = f"{key}: context of {length:,} tokens"
        problems = [NOT_RECOVERED.problem(where, why=why) for why in _lost(audited.metrics)]
        return [*problems, *(NOT_PERFECT.problem(where, why=why) for why in unsolved(asked, length))]


def _window(parts: Sequence[Sequence[Phase]]) -> int:
    return window_of([phase for part in parts for phase in part])


def _short(config: Config, context: int) -> EvaluateOptions:
    """The configured suites, as of a model with a short context."""
    return EvaluateOptions.of(config).model_copy(update={"context": context})


def _gate(config: Config, gate: GateSection) -> EvaluateOptions:
    return EvaluateOptions.of(config).model_copy(update={"tasks": gate.tasks, "limit": EVERY})


def _margins(config: Config) -> AuditOptions:
    """No worse than before; nothing need be better."""
    return AuditOptions.of(config).model_copy(update={"must_improve": []})


def _lost(audited: Mapping[str, Any]) -> Iterator[str]:
    yield from audited["faults"]
    yield from (f"suite {name}: {row['why']}" for name, row in audited["suites"].items() if row["passed"] is not True)


def unsolved(asked: Artifact, length: int) -> Iterator[str]:
    """What an evaluation lacks to be perfect up to `length` tokens: a suite that failed, an item that is not right, no
    item of that length."""
    for name, suite in read_suites(asked).items():
        rows = list(suite.rows.values())
        wrong = [row for row in rows if row.get("score") != 1]
        longest = max((row.get("length", 0) for row in rows), default=0)
        if suite.error:
            yield f"suite {name} failed: {suite.error}"
        elif longest < length:
            yield f"suite {name} asks at most at {longest:,} tokens"
        elif wrong:
            told = {key: value for key, value in wrong[-1].items() if key in ("length", "depth", "answer", "reference")}
            yield f"suite {name}: {len(wrong)} of {len(rows)} items are wrong, such as {json.dumps(told)}"
