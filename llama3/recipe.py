"""The herd: every stage from raw text to a release, in the paper's order. Read it top to bottom.

`make` executes one stage: it reads artifacts, writes one, and is skipped when the same request was answered before. So
a run that was stopped, killed or had its config changed goes on from whatever is still valid.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llama3.artifacts import Artifact, Stage
from llama3.config import Config, Loaded
from llama3.data.curate import curate, stamped
from llama3.data.shards import shard
from llama3.data.vocabulary import TokenizerOptions, tokenizer
from llama3.evaluation.report import build_report
from llama3.evaluation.stages import EvaluateOptions, baselines, contamination, evaluate
from llama3.execution import Executor
from llama3.inference.engine import open_generate
from llama3.model.weights import read_config
from llama3.posttraining import rounds
from llama3.release.quantize import QuantizeOptions, quantize
from llama3.release.release import ReleaseOptions, release
from llama3.training.pretrain import PretrainOptions, pretrain

# What each stage is called, what it reads, what it makes, and which part of the config it sees.
CURATE = Stage("curate", curate, {}, "corpus", lambda config: stamped(config.data))
TOKENIZER = Stage("tokenizer", tokenizer, {"corpus": "corpus"}, "tokenizer", TokenizerOptions.of)
SHARD = Stage("shard", shard, {"corpus": "corpus", "tokenizer": "tokenizer"}, "shards", lambda config: config.data)
PRETRAIN = Stage("pretrain", pretrain, {"shards": "shards", "tokenizer": "tokenizer"}, "checkpoint", PretrainOptions.of)
ROUND = rounds.stages(open_generate)
QUANTIZE = Stage("quantize", quantize, {"checkpoint": "checkpoint"}, "checkpoint")
EVALUATE = Stage("evaluate", evaluate, {"checkpoint": "checkpoint", "corpus": "corpus"}, "report", EvaluateOptions.of)
BASELINES = Stage("baselines", baselines, {"corpus": "corpus"}, "report", EvaluateOptions.of)


@dataclass(frozen=True, slots=True)
class Run:
    """A finished run: its directory, its report (`report.json`), and its artifacts by key."""

    path: Path
    report: Mapping[str, Any]
    artifacts: Mapping[str, Artifact]


def run(loaded: Loaded) -> Run:
    """Raise the herd of a checked config.

    Raises `llama3.errors.LlamaError`; what is finished stays on disk, and the same call goes on from there.
    """
    with Executor(loaded) as make:
        report = herd(make, loaded.config)
        return Run(make.run.path, report, dict(make.made))


def herd(make: Executor, config: Config) -> dict[str, Any]:
    """The whole story; returns the report."""
    # Pre-training data (paper 3.1): text in, unique and filtered documents out, then tokens.
    corpus = make(CURATE)
    vocabulary = make(TOKENIZER, corpus=corpus)
    shards = make(SHARD, corpus=corpus, tokenizer=vocabulary)

    # Pre-training (3.4): next-token prediction, annealed to a learning rate of 0, checkpoints averaged.
    base = make(PRETRAIN, shards=shards, tokenizer=vocabulary)

    # Post-training (4): each round samples from the best model so far and finetunes the base model anew.
    sft = final = base
    learnt_from: dict[str, Artifact] = {}
    for number in range(1, config.post_training.rounds + 1):
        dialogs = make(ROUND.reject, f"reject-{number}", checkpoint=final)
        sft = make(ROUND.sft, f"sft-{number}", checkpoint=base, dialogs=dialogs)
        preferences = make(ROUND.preferences, f"preferences-{number}", checkpoint=sft)
        preferred = make(ROUND.prefer, f"prefer-{number}", checkpoint=sft, preferences=preferences)
        final = make(ROUND.average, f"average-{number}", a=sft, b=preferred)
        learnt_from = {"dialogs": dialogs}

    # Inference (6): fewer bits.
    quantized = {
        slot.name: make(QUANTIZE, slot.name, QuantizeOptions.of(config, slot), checkpoint=final)
        for slot in config.quantization
    }

    # Results (5): every model on held-out text and tasks, and what the figures are worth.
    models = {"base": base, "sft": sft, "final": final, **quantized}
    evaluations = {
        name: make(EVALUATE, f"evaluate-{name}", checkpoint=model, corpus=corpus) for name, model in models.items()
    }
    yardsticks = make(BASELINES, corpus=corpus)
    searched = {"corpus": corpus, "tokenizer": vocabulary, **learnt_from}
    leaks = make(Stage("contamination", contamination, types(searched), "report", EvaluateOptions.of), **searched)

    # Release: what to give to others, and the report of the run.
    given = {"checkpoint": final, **quantized, "evaluation": evaluations["final"], "contamination": leaks}
    make(Stage("release", release, types(given), "release", ReleaseOptions.of), **given)
    report = build_report(
        config.run.name,
        corpus=corpus,
        evaluations=evaluations,
        baselines=yardsticks,
        contamination=leaks,
        quantized=quantized,
        metrics=make.run.rows("metrics"),
        model=dataclasses.asdict(read_config(base.path)) | {"parameters": base.metrics["parameters"]},
        policy=config.safety.policy,
        artifacts=make.made,
    )
    make.publish(report)
    return report


def types(inputs: Mapping[str, Artifact]) -> dict[str, str]:
    """Role to type, for stages whose inputs depend on the config."""
    return {role: artifact.type for role, artifact in inputs.items()}
