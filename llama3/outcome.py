"""What a recipe came to: the models that training made, how they are measured, published and told of."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llama3.artifacts import Artifact
from llama3.checkpoints.load import read_config
from llama3.config import Config
from llama3.errors import Problem
from llama3.evaluation.report import build_report
from llama3.evaluation.stages import EvaluateOptions, baselines, evaluate
from llama3.execution import Executor
from llama3.given import Searched, find_leaks
from llama3.release.release import ReleaseOptions, release


@dataclass(frozen=True, slots=True)
class Round:
    """A round of post-training: what it learnt from, and its models."""

    asked: Artifact
    """The model's own answers, with its pass rates."""
    dialogs: Artifact
    pairs: Artifact
    all_pairs: Artifact
    """Those of the rounds before too."""
    judge: Artifact | None
    """The reward model."""
    tuned: Artifact
    preferred: Artifact
    final: Artifact


@dataclass(frozen=True, slots=True)
class Trained:
    """What training made: one model at its stations, and the data that it learnt from by type."""

    base: Artifact
    sft: Artifact
    final: Artifact
    learnt_from: Mapping[str, Artifact]
    quantized: Mapping[str, Artifact] = dataclasses.field(default_factory=dict)
    rounds: tuple[Round, ...] = ()

    @property
    def checkpoints(self) -> dict[str, Artifact]:
        """All of them by name; what no stage changed stands once."""
        tuned = {} if self.sft in (self.base, self.final) else {"sft": self.sft}
        return {"base": self.base, **tuned, "final": self.final, **self.quantized}


@dataclass(frozen=True, slots=True)
class Raising:
    """What came of a config: its models, and the report of them."""

    trained: Trained
    report: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Results:
    """What was measured (paper 5)."""

    evaluations: Mapping[str, Artifact]
    """Of each checkpoint, by its name."""
    corpus: Artifact
    baselines: Artifact
    contamination: Artifact
    """How much of the held-out tasks was trained on."""


def measure(make: Executor, config: Config, trained: Trained, searched: Searched, **known: Artifact | None) -> Results:
    """Every checkpoint on held-out text and tasks, and what the figures are worth; but what is `known` already, by the
    name of the checkpoint or as `contamination`."""
    corpus, options = searched["corpus"], EvaluateOptions.of(config)
    evaluations = {
        name: known.get(name) or make(evaluate, f"evaluate-{name}", options, checkpoint=checkpoint, corpus=corpus)
        for name, checkpoint in trained.checkpoints.items()
    }
    leaks = known.get("contamination") or find_leaks(make, config, trained.learnt_from, searched)
    return Results(evaluations, corpus, make(baselines, "baselines", corpus=corpus), leaks)


def publish(make: Executor, config: Config, trained: Trained, results: Results, **known: Artifact) -> Artifact:
    """What is given to others: the weights with everything that is known of them."""
    return make(
        release,
        "release",
        ReleaseOptions.of(config),
        checkpoint=trained.final,
        **trained.quantized,
        evaluation=results.evaluations["final"],
        contamination=results.contamination,
        **known,
    )


def tell(
    make: Executor,
    config: Config,
    trained: Trained,
    results: Results,
    audited: Artifact | None = None,
    held_back: Sequence[Problem] = (),
) -> dict[str, Any]:
    """Write the report of the run; returns it."""
    report = build_report(
        config.run.name,
        corpus=results.corpus,
        evaluations=results.evaluations,
        baselines=results.baselines,
        contamination=results.contamination,
        audit=audited,
        held_back=[f"{problem.where}: {problem.why}" for problem in held_back],
        quantized=trained.quantized,
        metrics=make.run.rows_of("metrics", make.made),
        samples=make.run.rows_of("samples", make.made),
        seconds=make.run.seconds_of(make.made),
        model=dataclasses.asdict(read_config(trained.base.path)) | {"parameters": trained.base.metrics["parameters"]},
        policy=config.safety.policy,
        artifacts=make.made,
    )
    make.publish(report)
    return report


def tell_held_back(
    make: Executor,
    config: Config,
    base: Artifact,
    searched: Searched,
    model: Artifact,
    lost: Sequence[Problem],
    *,
    before: Artifact | None = None,
) -> None:
    """The report of a run whose `model` did not pass a long-context stage; `before` is the evaluation of its base."""
    trained = Trained(base, sft=base, final=model, learnt_from={})
    tell(make, config, trained, measure(make, config, trained, searched, base=before), held_back=lost)
