"""The recipe: every stage from raw text to a release, in the paper's order. Read it top to bottom.

`make(stage, key, options, inputs)` gives the artifact of one stage: it is found where the same request was answered
before, else made. So a run that was stopped, killed or had its config changed goes on from whatever is still valid.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from llama3.artifacts import Artifact
from llama3.capability_rounds import practised, with_skill_pairs, with_skill_steps, with_skills
from llama3.checked_rounds import require_checked
from llama3.checkpoints.adopt import AdoptOptions, adopt
from llama3.config import Config, Loaded
from llama3.config.schema import TeacherSection
from llama3.data.vocabulary import TokenizerOptions, tokenizer
from llama3.errors import GateFailed
from llama3.evaluation.audit import AuditOptions, audit, require_auditable, require_passed
from llama3.evaluation.stages import EvaluateOptions, evaluate
from llama3.execution import Executor
from llama3.given import curated, own_rows, tokenised
from llama3.herd import Size, controls, lessons_for, sizes_of, tell_herd, unaudited
from llama3.long_context import Base, has_stages, lengthen
from llama3.making.checks import try_capabilities
from llama3.model.device import device_of
from llama3.outcome import Raising, Round, Trained, measure, publish, tell, tell_held_back
from llama3.posttraining.average import AverageOptions, average
from llama3.posttraining.finetune import PreferOptions, RewardOptions, SFTOptions, prefer, reward, sft
from llama3.posttraining.preferences import PreferencesOptions, preferences
from llama3.posttraining.prompt_room import require_prompt_room
from llama3.posttraining.reject import RejectOptions, reject
from llama3.quality_rounds import chosen
from llama3.release.cast import CastOptions, cast
from llama3.release.quantize import QuantizeOptions, quantize
from llama3.rounds import ALONE, Lessons, averaged, chosen_policies, pairs_so_far, parts_of, with_earlier
from llama3.safe_rounds import about_safety, try_judges, with_safety
from llama3.safety.carried import try_policy
from llama3.sized import CONTROL
from llama3.sound_rounds import require_sound
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
    """Execute the recipe of a checked config: `raise_herd` where it has sizes, `improve` where `model.path` names a
    model, else `raise_model`.

    Raises `llama3.errors.LlamaError`; what is finished stays on disk, and the same call goes on from there.
    """
    sizes = sizes_of(loaded)
    for one in sizes.values() or [loaded]:
        refuse_hopeless(one.config)
    with Executor(loaded) as make:
        try:
            raised = raise_herd(make, make.config, sizes) if sizes else raise_one(make, make.config, ALONE)
        except GateFailed:
            make.withdraw("release")  # an earlier one no longer is what this run made
            raise
        return Run(make.run.path, raised.report, dict(make.made))


def refuse_hopeless(config: Config) -> None:
    """What cannot come to an end is refused before any work."""
    require_room(config, device_of(config.run.device))
    try_policy(config.safety.policy)
    post = config.post_training
    if post.rewards and (post.rounds or post.data):
        try_rewards(post.rewards, config.run.device, must_ask=post.data is None)
    if post.rounds or post.data:
        try_judges(config, str(device_of(config.run.device)))
        try_capabilities(config)


def raise_herd(make: Executor, config: Config, sizes: Mapping[str, Loaded]) -> Raising:
    """Several sizes, those first that others learn from; each is raised as a model alone, with its lessons."""
    curated(make, config)  # once for all
    herd: dict[str, Size] = {}
    for name, loaded in sizes.items():
        part = make.part(name, loaded)
        lessons = lessons_for(part, config.sizes[name], herd)
        herd[name] = Size(part, raise_one(part, part.config, lessons), lessons)
        if config.sizes[name].control:
            alone = make.part(f"{name}{CONTROL}", loaded)
            unaided = controls(herd[name])
            twin = in_rounds(alone, unaudited(alone.config), herd[name].trained.base, unaided)
            herd[f"{name}{CONTROL}"] = Size(alone, Raising(twin, {}), unaided)
    return tell_herd(make, config, herd)


def raise_one(make: Executor, config: Config, lessons: Lessons) -> Raising:
    """One model, new or given."""
    try:
        return (improve if config.model.path else raise_model)(make, config, lessons)
    except GateFailed:
        make.withdraw("release")  # an earlier one no longer is what this size made
        raise


def raise_model(make: Executor, config: Config, lessons: Lessons) -> Raising:
    """A model from raw text, or from a larger one that was pruned."""
    # Pre-training data (paper 3.1): text in, unique and filtered documents out, then tokens.
    corpus = curated(make, config)
    vocabulary = lessons.vocabulary or make(tokenizer, "tokenizer", TokenizerOptions.of(config), corpus=corpus)
    searched = {"corpus": corpus, "tokenizer": vocabulary}
    given, leaks = own_rows(make, config, searched)
    require_prompt_room(config, vocabulary, lessons.start, given)
    shards = tokenised(make, config, corpus, vocabulary)

    # Pre-training (3.4): next-token prediction, long-context stages, annealed to a learning rate of 0 and averaged.
    read = {"shards": shards, "tokenizer": vocabulary, "checkpoint": lessons.start}
    base = make(pretrain, "pretrain", PretrainOptions.of(config), **read)
    if has_stages(config):
        stuck = partial(tell_held_back, make, config, base, searched)
        base = lengthen(make, config, Base(base, corpus, shards, vocabulary), stuck)

    trained = post_train(make, config, base, given, lessons)
    results = measure(make, config, trained, searched, contamination=leaks)
    publish(make, config, trained, results)
    return Raising(trained, tell(make, config, trained, results))


def improve(make: Executor, config: Config, lessons: Lessons) -> Raising:
    """A released model made better on the user's tasks, released only if an audit finds nothing lost."""
    base = make(adopt, "adopt", AdoptOptions.of(config))
    # The held-out documents are text that the model must not become worse at.
    corpus = curated(make, config)

    # What cannot be released in the end is refused before anything is trained.
    searched = {"corpus": corpus, "tokenizer": base}
    given, leaks = own_rows(make, config, searched)
    require_prompt_room(config, base, base, given)
    before = make(evaluate, "evaluate-base", EvaluateOptions.of(config), checkpoint=base, corpus=corpus)
    require_auditable(before, AuditOptions.of(config))

    longer = base
    if has_stages(config):
        shards = tokenised(make, config, corpus, base)
        stuck = partial(tell_held_back, make, config, base, searched, before=before)
        longer = lengthen(make, config, Base(base, corpus, shards, base), stuck)

    trained = post_train(make, config, longer, given, lessons)
    results = measure(make, config, trained, searched, base=before, contamination=leaks)
    audited = make(audit, "audit", AuditOptions.of(config), before=before, after=results.evaluations["final"])

    # The gate: where it closes, the report says what was lost and there is no release.
    tell(make, config, trained, results, audited)
    require_passed(audited, trained.final)
    publish(make, config, trained, results, audit=audited, adopted=base)
    return Raising(trained, tell(make, config, trained, results, audited))


def post_train(make: Executor, config: Config, base: Artifact, given: Artifact | None, lessons: Lessons) -> Trained:
    """Post-training (paper 4) on `given` rows or on the model's own answers, and fewer bits (6) of what it makes."""
    trained = in_rounds(make, config, base, lessons) if given is None else on_own_rows(make, config, base, given)
    final = make(cast, "final", CastOptions.of(config), checkpoint=trained.final)
    tuned = final if trained.sft is trained.final else trained.sft
    quantized = {
        slot.name: make(quantize, slot.name, QuantizeOptions.of(config, slot), checkpoint=final)
        for slot in config.quantization
    }
    return dataclasses.replace(trained, sft=tuned, final=final, quantized=quantized)


def in_rounds(make: Executor, config: Config, base: Artifact, lessons: Lessons = ALONE) -> Trained:
    """Each round samples from the best models so far and finetunes the base model anew (paper 4, figure 7):

    final ──> reject ──> sft ──> preferences ──> prefer ──> average ──> final
      │       (dialogs)   │        (pairs)         │           │
      │           ↑       └──────────↑──────┬──────┴───────────┘
      ├─> safety ─┤──────────────────┤      reward, of the pairs of all rounds
      └─> skills ─┴──────────────────┘

    A preference stage in parts is the iterated online form of Bai et al. 2022 (arXiv 2204.05862, section 4.5): after
    each part the policy that it made draws new pairs, which the reward model goes on with before the next one.
    """
    trained = Trained(base, sft=base, final=base, learnt_from={})
    for n in range(1, config.post_training.rounds + 1):
        last = trained.rounds[-1] if trained.rounds else None
        known = {"reward": lessons.judge or (last.judge if last else None)}
        safety = about_safety(make, config, n, trained.final)

        policies = chosen_policies(make, config, n, trained.final, last)
        before = {"earlier": last.asked if last else None, **known, **policies}
        asked = make(reject, f"reject-{n}", RejectOptions.of(config, n), checkpoint=trained.final, **before)
        dialogs = lessons.join(make, config, n, with_earlier(make, config, n, asked, last), last)
        skills = practised(make, config, n, trained.final, known["reward"])
        dialogs = with_skills(make, config, n, dialogs, skills)
        answered = asked if last else None
        dialogs = chosen(make, config, f"-{n}", dialogs, safety, trained.final, **known, asked=answered)
        tuned = finetune(make, config, f"-{n}", checkpoint=base, dialogs=dialogs)

        preferred, judge, pairs = tuned, None, list[Artifact]()
        for part in parts_of(config):
            suffix, options = part.suffix(n), PreferencesOptions.of(config, n, part)
            drawn = make(preferences, f"preferences{suffix}", options, checkpoint=preferred, asked=asked, **known)
            drawn = with_skill_pairs(make, suffix, drawn, {} if pairs else skills)
            drawn = with_safety(make, config, suffix, drawn, safety)
            pairs += [pairs_so_far(make, config, f"of-round{suffix}", drawn, pairs[-1] if pairs else None)]
            all_pairs = pairs_so_far(make, config, f"gathered{suffix}", pairs[-1], last.all_pairs if last else None)
            all_pairs = with_skill_steps(make, config, suffix, all_pairs, skills)
            learnt = {"checkpoint": judge or base, "preferences": drawn if judge else all_pairs}
            judge = reward_model(make, config, suffix, **learnt)
            preferred = learn_to_prefer(make, config, suffix, checkpoint=preferred, preferences=drawn, reward=judge)

        final = mean(make, config, f"average-{n}", base, tuned, preferred)
        done = Round(asked, dialogs, pairs[-1], all_pairs, judge, tuned, preferred, final)
        require_sound(make, config, n, base, done, trained.rounds)
        require_checked(make, config, n, done)
        learnt_from = {"dialogs": dialogs, "preferences": pairs[-1]}
        trained = Trained(base, tuned, final, learnt_from, rounds=(*trained.rounds, done))
    return trained


def on_own_rows(make: Executor, config: Config, base: Artifact, given: Artifact) -> Trained:
    """The user's own rows: dialogs are finetuned on, pairs, labels and prompts go to the preference stage."""
    given = chosen(make, config, "", given, about_safety(make, config, 1, base), base)
    if given.type == "dialogs":
        tuned = final = finetune(make, config, "", checkpoint=base, dialogs=given)
    else:
        judge = reward_model(make, config, "", checkpoint=base, preferences=given)
        tuned, final = base, learn_to_prefer(make, config, "", checkpoint=base, preferences=given, reward=judge)
    if anchored(config):  # else the mean of one checkpoint is that checkpoint
        final = mean(make, config, "average", base, final, final)
    return Trained(base, tuned, final, {given.type: given})


def finetune(make: Executor, config: Config, suffix: str, **inputs: Artifact) -> Artifact:
    """Supervised finetuning."""
    section = config.post_training.sft
    master = teacher(make, "sft", section.teacher)
    options = partial(SFTOptions.of, config)
    return averaged(make, sft, f"sft{suffix}", section.members, options, **inputs, teacher=master)


def reward_model(make: Executor, config: Config, suffix: str, **inputs: Artifact) -> Artifact | None:
    """A model that scores answers (4.1.2), where the config asks for one (`post_training.reward`)."""
    if (section := config.post_training.reward) is None:
        return None
    return averaged(make, reward, f"reward{suffix}", section.members, partial(RewardOptions.of, config), **inputs)


def learn_to_prefer(make: Executor, config: Config, suffix: str, **inputs: Artifact | None) -> Artifact:
    """The preference stage (4.1.4)."""
    section = config.post_training.prefer
    master = teacher(make, "prefer", section.teacher)
    options = partial(PreferOptions.of, config)
    return averaged(make, prefer, f"prefer{suffix}", section.members, options, **inputs, teacher=master)


def teacher(make: Executor, learner: str, section: TeacherSection | None) -> Artifact | None:
    """The model that a stage learns from, where its algorithm needs one, as a checkpoint of this run."""
    return make(adopt, f"teacher-{learner}", AdoptOptions.at(section.path)) if section is not None else None


def mean(make: Executor, config: Config, key: str, base: Artifact, a: Artifact, b: Artifact) -> Artifact:
    """The mean of two checkpoints (paper 4.1.5) and, where it has a weight, of the base model."""
    return make(average, key, AverageOptions.of(config), a=a, b=b, base=base if anchored(config) else None)


def anchored(config: Config) -> bool:
    """Whether the base model takes part in the mean."""
    return len(config.post_training.average) == 3
