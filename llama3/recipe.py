"""The recipe: every stage from raw text to a release, in the paper's order. Read it top to bottom.

`make(stage, key, options, inputs)` gives the artifact of one stage: it is found where the same request was answered
before, else made. So a run that was stopped, killed or had its config changed goes on from whatever is still valid.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from llama3.artifacts import Artifact
from llama3.checkpoints.adopt import AdoptOptions, adopt
from llama3.checkpoints.load import read_config
from llama3.config import Config, Loaded
from llama3.config.schema import TeacherSection
from llama3.data.vocabulary import TokenizerOptions, tokenizer
from llama3.errors import GateFailed, Problem
from llama3.evaluation.audit import AuditOptions, audit, require_auditable, require_passed
from llama3.evaluation.report import build_report
from llama3.evaluation.stages import EvaluateOptions, baselines, evaluate
from llama3.execution import Executor
from llama3.given import Searched, curated, find_leaks, own_rows, tokenised
from llama3.long_context import Base, has_stages, lengthen
from llama3.model.device import device_of
from llama3.posttraining.average import AverageOptions, average
from llama3.posttraining.finetune import PreferOptions, RewardOptions, SFTOptions, prefer, reward, sft
from llama3.posttraining.preferences import PreferencesOptions, preferences
from llama3.posttraining.reject import RejectOptions, reject
from llama3.quality_rounds import chosen
from llama3.release.cast import CastOptions, cast
from llama3.release.quantize import QuantizeOptions, quantize
from llama3.release.release import ReleaseOptions, release
from llama3.safe_rounds import about_safety, try_judges, with_safety
from llama3.safety.carried import try_policy
from llama3.tasks.rewards import try_rewards
from llama3.training.pretrain import PretrainOptions, pretrain
from llama3.training.room import require_room


@dataclass(frozen=True, slots=True)
class Run:
    """A finished run: its directory, its report (`report.json`), and its artifacts by key."""

    path: Path
    report: Mapping[str, Any]
    artifacts: Mapping[str, Artifact]


def run(loaded: Loaded) -> Run:
    """Execute the recipe of a checked config: `improve` where `model.path` names a model, else `raise_model`.

    Raises `llama3.errors.LlamaError`; what is finished stays on disk, and the same call goes on from there.
    """
    # What cannot come to an end is refused before any work.
    require_room(loaded.config, device_of(loaded.config.run.device))
    try_policy(loaded.config.safety.policy)
    post = loaded.config.post_training
    if post.rewards and (post.rounds or post.data):
        try_rewards(post.rewards, loaded.config.run.device, must_ask=post.data is None)
    if post.rounds or post.data:
        try_judges(loaded.config, str(device_of(loaded.config.run.device)))
    with Executor(loaded) as make:
        story = improve if loaded.config.model.path else raise_model
        try:
            report = story(make, make.config)
        except GateFailed:
            make.withdraw("release")  # an earlier one no longer is what this run made
            raise
        return Run(make.run.path, report, dict(make.made))


def raise_model(make: Executor, config: Config) -> dict[str, Any]:
    """A model from raw text; returns the report."""
    # Pre-training data (paper 3.1): text in, unique and filtered documents out, then tokens.
    corpus = curated(make, config)
    vocabulary = make(tokenizer, "tokenizer", TokenizerOptions.of(config), corpus=corpus)
    searched = {"corpus": corpus, "tokenizer": vocabulary}
    given, leaks = own_rows(make, config, searched)
    shards = tokenised(make, config, corpus, vocabulary)

    # Pre-training (3.4): next-token prediction, long-context stages, annealed to a learning rate of 0 and averaged.
    base = make(pretrain, "pretrain", PretrainOptions.of(config), shards=shards, tokenizer=vocabulary)
    if has_stages(config):
        stuck = partial(tell_held_back, make, config, base, searched)
        base = lengthen(make, config, Base(base, corpus, shards, vocabulary), stuck)

    trained = post_train(make, config, base, given)
    results = measure(make, config, trained, searched, contamination=leaks)
    publish(make, config, trained, results)
    return tell(make, config, trained, results)


def improve(make: Executor, config: Config) -> dict[str, Any]:
    """A released model made better on the user's tasks, released only if an audit finds nothing lost."""
    base = make(adopt, "adopt", AdoptOptions.of(config))
    # The held-out documents are text that the model must not become worse at.
    corpus = curated(make, config)

    # What cannot be released in the end is refused before anything is trained.
    searched = {"corpus": corpus, "tokenizer": base}
    given, leaks = own_rows(make, config, searched)
    before = make(evaluate, "evaluate-base", EvaluateOptions.of(config), checkpoint=base, corpus=corpus)
    require_auditable(before, AuditOptions.of(config))

    longer = base
    if has_stages(config):
        shards = tokenised(make, config, corpus, base)
        stuck = partial(tell_held_back, make, config, base, searched, before=before)
        longer = lengthen(make, config, Base(base, corpus, shards, base), stuck)

    trained = post_train(make, config, longer, given)
    results = measure(make, config, trained, searched, base=before, contamination=leaks)
    audited = make(audit, "audit", AuditOptions.of(config), before=before, after=results.evaluations["final"])

    # The gate: where it closes, the report says what was lost and there is no release.
    tell(make, config, trained, results, audited)
    require_passed(audited, trained.final)
    publish(make, config, trained, results, audit=audited, adopted=base)
    return tell(make, config, trained, results, audited)


@dataclass(frozen=True, slots=True)
class Trained:
    """What training made: one model at its stations, and the data that it learnt from by type."""

    base: Artifact
    sft: Artifact
    final: Artifact
    learnt_from: Mapping[str, Artifact]
    quantized: Mapping[str, Artifact] = dataclasses.field(default_factory=dict)

    @property
    def checkpoints(self) -> dict[str, Artifact]:
        """All of them by name; what no stage changed stands once."""
        tuned = {} if self.sft in (self.base, self.final) else {"sft": self.sft}
        return {"base": self.base, **tuned, "final": self.final, **self.quantized}


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


def post_train(make: Executor, config: Config, base: Artifact, given: Artifact | None) -> Trained:
    """Post-training (paper 4) on `given` rows or on the model's own answers, and fewer bits (6) of what it makes."""
    trained = in_rounds(make, config, base) if given is None else on_own_rows(make, config, base, given)
    final = make(cast, "final", CastOptions.of(config), checkpoint=trained.final)
    tuned = final if trained.sft is trained.final else trained.sft
    quantized = {
        slot.name: make(quantize, slot.name, QuantizeOptions.of(config, slot), checkpoint=final)
        for slot in config.quantization
    }
    return dataclasses.replace(trained, sft=tuned, final=final, quantized=quantized)


def in_rounds(make: Executor, config: Config, base: Artifact) -> Trained:
    """Each round samples from the best model so far and finetunes the base model anew (paper 4, figure 7):

    final ──> reject ──> sft ──> preferences ──> prefer ──> average ──> final
      │       (dialogs)   │        (pairs)         │           │
      │           ↑       └──────────↑─────────────┴───────────┘
      └─> safety ─┴──────────────────┘
    """
    trained = Trained(base, sft=base, final=base, learnt_from={})
    for n in range(1, config.post_training.rounds + 1):
        safety = about_safety(make, config, n, trained.final)
        dialogs = make(reject, f"reject-{n}", RejectOptions.of(config, n), checkpoint=trained.final)
        dialogs = chosen(make, config, f"-{n}", dialogs, safety, trained.final)
        tuned = finetune(make, config, f"-{n}", checkpoint=base, dialogs=dialogs)
        pairs = make(preferences, f"preferences-{n}", PreferencesOptions.of(config, n), checkpoint=tuned)
        pairs = with_safety(make, config, f"-{n}", pairs, safety)
        preferred = learn_to_prefer(make, config, f"-{n}", checkpoint=tuned, preferences=pairs)
        final = mean(make, config, f"average-{n}", base, tuned, preferred)
        trained = Trained(base, tuned, final, {"dialogs": dialogs, "preferences": pairs})
    return trained


def on_own_rows(make: Executor, config: Config, base: Artifact, given: Artifact) -> Trained:
    """The user's own rows: dialogs are finetuned on, pairs, labels and prompts go to the preference stage."""
    given = chosen(make, config, "", given, about_safety(make, config, 1, base), base)
    if given.type == "dialogs":
        tuned = final = finetune(make, config, "", checkpoint=base, dialogs=given)
    else:
        tuned, final = base, learn_to_prefer(make, config, "", checkpoint=base, preferences=given)
    if anchored(config):  # else the mean of one checkpoint is that checkpoint
        final = mean(make, config, "average", base, final, final)
    return Trained(base, tuned, final, {given.type: given})


def finetune(make: Executor, config: Config, suffix: str, **inputs: Artifact) -> Artifact:
    """Supervised finetuning."""
    master = teacher(make, "sft", config.post_training.sft.teacher)
    return make(sft, f"sft{suffix}", SFTOptions.of(config), **inputs, teacher=master)


def learn_to_prefer(make: Executor, config: Config, suffix: str, **inputs: Artifact) -> Artifact:
    """The preference stage; with `post_training.reward` a model that learns from the same pairs joins its rewards."""
    judge = None
    if config.post_training.reward is not None:
        judge = make(reward, f"reward{suffix}", RewardOptions.of(config), **inputs)
    master = teacher(make, "prefer", config.post_training.prefer.teacher)
    return make(prefer, f"prefer{suffix}", PreferOptions.of(config), **inputs, reward=judge, teacher=master)


def teacher(make: Executor, learner: str, section: TeacherSection | None) -> Artifact | None:
    """The model that a stage learns from, where its algorithm needs one, as a checkpoint of this run."""
    return make(adopt, f"teacher-{learner}", AdoptOptions.at(section.path)) if section is not None else None


def mean(make: Executor, config: Config, key: str, base: Artifact, a: Artifact, b: Artifact) -> Artifact:
    """The mean of two checkpoints (paper 4.1.5) and, where it has a weight, of the base model."""
    return make(average, key, AverageOptions.of(config), a=a, b=b, base=base if anchored(config) else None)


def anchored(config: Config) -> bool:
    """Whether the base model takes part in the mean."""
    return len(config.post_training.average) == 3


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
