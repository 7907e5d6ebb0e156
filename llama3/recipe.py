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
from llama3.checkpoints.adopt import AdoptOptions
from llama3.checkpoints.adopt import adopt as adopt_model
from llama3.checkpoints.load import read_config
from llama3.config import Config, Loaded
from llama3.data.curate import curate, stamped
from llama3.data.shards import shard
from llama3.data.vocabulary import TokenizerOptions, tokenizer
from llama3.errors import GateFailed
from llama3.evaluation.audit import AUDIT, AuditOptions, require_auditable, require_passed
from llama3.evaluation.contamination import require_clean
from llama3.evaluation.report import build_report
from llama3.evaluation.stages import EvaluateOptions, baselines, contamination, evaluate
from llama3.execution import Executor
from llama3.inference.engine import open_generate
from llama3.posttraining import rounds
from llama3.release.cast import CastOptions, cast
from llama3.release.quantize import QuantizeOptions, quantize
from llama3.release.release import ReleaseOptions, release
from llama3.tasks.user_data import own_data_stage
from llama3.training.pretrain import PretrainOptions, pretrain

# What each stage is called, what it reads, what it makes, and which part of the config it sees.
CURATE = Stage("curate", curate, {}, "corpus", lambda config: stamped(config.data))
TOKENIZER = Stage("tokenizer", tokenizer, {"corpus": "corpus"}, "tokenizer", TokenizerOptions.of)
SHARD = Stage("shard", shard, {"corpus": "corpus", "tokenizer": "tokenizer"}, "shards", lambda config: config.data)
PRETRAIN = Stage("pretrain", pretrain, {"shards": "shards", "tokenizer": "tokenizer"}, "checkpoint", PretrainOptions.of)
ROUND = rounds.stages(open_generate)
QUANTIZE = Stage("quantize", quantize, {"checkpoint": "checkpoint"}, "checkpoint")
CAST = Stage("cast", cast, {"checkpoint": "checkpoint"}, "checkpoint", CastOptions.of)
ADOPT = Stage("adopt", adopt_model, {}, "checkpoint", AdoptOptions.of)
EVALUATE = Stage("evaluate", evaluate, {"checkpoint": "checkpoint", "corpus": "corpus"}, "report", EvaluateOptions.of)
BASELINES = Stage("baselines", baselines, {"corpus": "corpus"}, "report", EvaluateOptions.of)


@dataclass(frozen=True, slots=True)
class Run:
    """A finished run: its directory, its report (`report.json`), and its artifacts by key."""

    path: Path
    report: Mapping[str, Any]
    artifacts: Mapping[str, Artifact]


def run(loaded: Loaded) -> Run:
    """Execute the recipe of a checked config: `adopt` where `model.path` names a model, else `raise_herd`.

    Raises `llama3.errors.LlamaError`; what is finished stays on disk, and the same call goes on from there.
    """
    with Executor(loaded) as make:
        story = adopt if loaded.config.model.path else raise_herd
        try:
            report = story(make, loaded.config)
        except GateFailed:
            make.withdraw("release")  # an earlier one no longer is what this run made
            raise
        return Run(make.run.path, report, dict(make.made))


def raise_herd(make: Executor, config: Config) -> dict[str, Any]:
    """A herd from raw text; returns the report."""
    # Pre-training data (paper 3.1): text in, unique and filtered documents out, then tokens.
    corpus = make(CURATE)
    vocabulary = make(TOKENIZER, corpus=corpus)
    searched = {"corpus": corpus, "tokenizer": vocabulary}
    given = own_rows(make, config, searched)
    shards = make(SHARD, corpus=corpus, tokenizer=vocabulary)

    # Pre-training (3.4): next-token prediction, annealed to a learning rate of 0, checkpoints averaged.
    base = make(PRETRAIN, shards=shards, tokenizer=vocabulary)

    herd = post_train(make, config, base, given)
    results = measure(make, herd, corpus, searched)
    release_herd(make, herd, results)
    return tell(make, config, herd, results)


def adopt(make: Executor, config: Config) -> dict[str, Any]:
    """A released model made better on the user's tasks, released only if an audit finds nothing lost."""
    base = make(ADOPT)
    corpus = make(CURATE)  # its held-out documents: text that the model must not become worse at

    # What cannot be released in the end is refused before anything is trained.
    searched = {"corpus": corpus, "tokenizer": base}
    given = own_rows(make, config, searched)
    before = make(EVALUATE, "evaluate-base", checkpoint=base, corpus=corpus)
    require_auditable(before, AuditOptions.of(config))

    herd = post_train(make, config, base, given)
    results = measure(make, herd, corpus, searched, base=before)
    audited = make(AUDIT, before=before, after=results.evaluations["final"])

    # The gate: where it closes, the report says what was lost and there is no release.
    tell(make, config, herd, results, audited)
    require_passed(audited, herd.final)
    release_herd(make, herd, results, audit=audited, adopted=base)
    return tell(make, config, herd, results, audited)


@dataclass(frozen=True, slots=True)
class Herd:
    """What training made: the checkpoints by name (base, sft, final, int8 ...) and the data they learnt from."""

    base: Artifact
    sft: Artifact
    final: Artifact
    quantized: Mapping[str, Artifact]
    learnt_from: Mapping[str, Artifact]

    @property
    def models(self) -> dict[str, Artifact]:
        """All of them by name; what no stage changed stands once."""
        sft = {} if self.sft in (self.base, self.final) else {"sft": self.sft}
        return {"base": self.base, **sft, "final": self.final, **self.quantized}


Searched = Mapping[str, Artifact]
"""Where held-out tasks must not stand, beside the data of post-training: the corpus, and the tokenizer to read it."""


def own_rows(make: Executor, config: Config, searched: Searched) -> Artifact | None:
    """The user's own rows, if any (`post_training.data`). Rows that hold a held-out task are refused."""
    if config.post_training.data is None:
        return None
    given = make(own_data_stage(config))
    require_clean(find_leaks(make, {given.type: given}, searched))
    return given


def post_train(make: Executor, config: Config, base: Artifact, given: Artifact | None) -> Herd:
    """Post-training (paper 4) of a base model, on `given` rows or its own answers, and the fewer bits (6) of what it
    makes."""
    taught = in_rounds(make, config, base) if given is None else on_own_rows(make, config, base, given)
    sft, trained, learnt_from = taught
    final = make(CAST, "final", checkpoint=trained)
    quantized = {
        slot.name: make(QUANTIZE, slot.name, QuantizeOptions.of(config, slot), checkpoint=final)
        for slot in config.quantization
    }
    return Herd(base, final if sft is trained else sft, final, quantized, learnt_from)


Taught = tuple[Artifact, Artifact, dict[str, Artifact]]
"""The sft checkpoint, the last one, and what they learnt from."""


def in_rounds(make: Executor, config: Config, base: Artifact) -> Taught:
    """Each round samples from the best model so far and finetunes the base model anew."""
    sft = final = base
    learnt_from: dict[str, Artifact] = {}
    for number in range(1, config.post_training.rounds + 1):
        dialogs = make(ROUND.reject, f"reject-{number}", checkpoint=final)
        sft = make(ROUND.sft, f"sft-{number}", checkpoint=base, dialogs=dialogs)
        preferences = make(ROUND.preferences, f"preferences-{number}", checkpoint=sft)
        preferred = prefer(make, config, f"-{number}", checkpoint=sft, preferences=preferences)
        final = average(make, config, f"average-{number}", base, a=sft, b=preferred)
        learnt_from = {"dialogs": dialogs, "preferences": preferences}
    return sft, final, learnt_from


def average(make: Executor, config: Config, key: str, base: Artifact, **inputs: Artifact) -> Artifact:
    """The mean of what a round made; with a third weight, of the base model too."""
    if len(config.post_training.average) == 2:
        return make(ROUND.average, key, **inputs)
    return make(rounds.anchored(ROUND.average), key, **inputs, base=base)


def on_own_rows(make: Executor, config: Config, base: Artifact, given: Artifact) -> Taught:
    """The user's own rows: dialogs are finetuned on, pairs, labels and prompts go to the preference stage."""
    if given.type == "dialogs":
        sft = trained = make(ROUND.sft, "sft", checkpoint=base, dialogs=given)
    else:
        sft, trained = base, prefer(make, config, "", checkpoint=base, preferences=given)
    anchored = len(config.post_training.average) == 3  # else the mean of one checkpoint is that checkpoint
    final = average(make, config, "average", base, a=trained, b=trained) if anchored else trained
    return sft, final, {given.type: given}


def prefer(make: Executor, config: Config, suffix: str, **inputs: Artifact) -> Artifact:
    """The preference stage; with `post_training.reward` a model that learns from the same pairs joins its rewards."""
    if config.post_training.reward is None:
        return make(ROUND.prefer, f"prefer{suffix}", **inputs)
    reward = make(ROUND.reward, f"reward{suffix}", **inputs)
    return make(rounds.rewarded(ROUND.prefer), f"prefer{suffix}", **inputs, reward=reward)


@dataclass(frozen=True, slots=True)
class Results:
    """What was measured (paper 5)."""

    evaluations: Mapping[str, Artifact]
    """Of each model, by its name."""
    corpus: Artifact
    baselines: Artifact
    contamination: Artifact
    """How much of the held-out tasks was trained on."""


def measure(make: Executor, herd: Herd, corpus: Artifact, searched: Searched, **known: Artifact) -> Results:
    """Every model on held-out text and tasks but those whose evaluation is `known`, and what the figures are worth."""
    evaluations = {
        name: known.get(name) or make(EVALUATE, f"evaluate-{name}", checkpoint=model, corpus=corpus)
        for name, model in herd.models.items()
    }
    leaks = find_leaks(make, herd.learnt_from, searched)
    return Results(evaluations, corpus, make(BASELINES, corpus=corpus), leaks)


def find_leaks(make: Executor, learnt_from: Mapping[str, Artifact], searched: Searched) -> Artifact:
    """The report of how much of the held-out tasks stands in the data of training."""
    inputs = {**searched, **learnt_from}
    return make(Stage("contamination", contamination, types(inputs), "report", EvaluateOptions.of), **inputs)


def release_herd(make: Executor, herd: Herd, results: Results, **known: Artifact) -> Artifact:
    """What is given to others: the weights with everything that is known of them."""
    given = {
        "checkpoint": herd.final,
        **herd.quantized,
        "evaluation": results.evaluations["final"],
        "contamination": results.contamination,
        **known,
    }
    return make(Stage("release", release, types(given), "release", ReleaseOptions.of), **given)


def tell(make: Executor, config: Config, herd: Herd, results: Results, audit: Artifact | None = None) -> dict[str, Any]:
    """Write the report of the run; returns it."""
    report = build_report(
        config.run.name,
        corpus=results.corpus,
        evaluations=results.evaluations,
        baselines=results.baselines,
        contamination=results.contamination,
        audit=audit,
        quantized=herd.quantized,
        metrics=make.run.rows("metrics"),
        samples=make.run.rows("samples"),
        model=dataclasses.asdict(read_config(herd.base.path)) | {"parameters": herd.base.metrics["parameters"]},
        policy=config.safety.policy,
        artifacts=make.made,
    )
    make.publish(report)
    return report


def types(inputs: Mapping[str, Artifact]) -> dict[str, str]:
    """Role to type, for stages whose inputs depend on the config."""
    return {role: artifact.type for role, artifact in inputs.items()}
