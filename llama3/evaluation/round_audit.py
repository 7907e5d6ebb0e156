"""The stage `audit_round`: the known ways in which a round of post-training fails (paper 4.1.2, 4.2.3; Gao et al. 2023,
"Scaling laws for reward model overoptimization"; Shumailov et al. 2024).

    preferences   are the rejected answers worse, as the verifiers see it?
    reward model  on pairs of a right and a wrong answer: accuracy, calibration, features that it loves beyond them,
                  and whether it still says what that of the round before said
    policy        did the preference step raise the reward while the verifiers say that answers got worse?
    collapse      are the model's own answers less varied than worked examples, or nearly all that is learnt?

Every objection names the failure. Legend: N prompts.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from pydantic import BaseModel, ConfigDict

from llama3.artifacts import Artifact, Checkpoint, Dialogs, Preferences, Report, StageOutput, stage
from llama3.artifacts.files import finite, write_json_atomic
from llama3.config.round_audit import RoundAuditSection
from llama3.config.schema import Config
from llama3.config.slot_types import RewardSlot
from llama3.data.variety import diversity
from llama3.evaluation.intervals import studentised, wilson
from llama3.evaluation.preferred_rows import PreferredPair
from llama3.evaluation.reward_audit import FEATURES, FEWEST, RewardLimits, audited, drift, margins
from llama3.model.device import device_of
from llama3.posttraining.joining import DIALOGS, PAIRS, VERIFIED
from llama3.posttraining.probe import ANSWERS, TASKS
from llama3.posttraining.sampling import build_reward, reward_of
from llama3.tasks.named_files import named_files
from llama3.tasks.rewards import CombinedReward, Reward, build_rewards, verifies
from llama3.tasks.rows import read_rows

DEMONSTRATION = "demonstration"
"""The source of worked examples."""
FEWEST_ANSWERS = 50
"""Own answers, and worked examples, below which nothing is said of their variety."""


class RoundAuditOptions(BaseModel):
    """The limits, and the rewards of training and of the verdict."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    limits: RoundAuditSection
    rewards: tuple[RewardSlot, ...]
    seed: int
    device: str = "cpu"
    files: dict[str, str] = {}

    @classmethod
    def of(cls, config: Config) -> Self:
        """From the whole config, whose `post_training.audit` is given."""
        post = config.post_training
        assert post.audit is not None
        rewards = tuple(post.rewards)
        files = named_files([*rewards, *post.audit.verifiers])
        return cls(limits=post.audit, rewards=rewards, seed=config.run.seed, device=str(device_of(config.run.device)),
                   files=files)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Answered:
    """A prompt with a model's answers to it, and which of them passed."""

    task: Mapping[str, Any]
    answers: tuple[str, ...]
    passed: tuple[bool, ...]


@stage(output="report")
def audit_round(
    dialogs: Dialogs,
    preferences: Preferences,
    before: Report,
    after: Report,
    judge: Checkpoint | None = None,
    earlier: Checkpoint | None = None,
    first: Dialogs | None = None,
    embeddings: Report | None = None,
    *,
    options: RoundAuditOptions,
    out: StageOutput,
) -> None:
    """Metrics: `preferences`, `judge`, `drift`, `policy`, `collapse` (null where there is nothing to audit),
    `passed` and `why`.

    before, after: probes of the models before and after the preference step
    judge, earlier: the reward models of this round and of the one before
    first: the dialogs of the first round, whose worked examples variety is compared with
    embeddings: the entropies of their embeddings (llama3.quality.embedding_entropy)
    """
    limits, device = options.limits, options.device
    tried, trained = answered(before), answered(after)
    rewards = build_rewards(options.rewards, device)
    model = None if judge is None else _only(build_rewards([reward_of(judge.path)], device))
    old = None if earlier is None else _only(build_rewards([reward_of(earlier.path)], device))
    ranking = {name: one for name, one in rewards.items() if not verifies(one)}
    told: dict[str, Any] = {
        "preferences": _labels(preferences, build_reward(limits.verifiers or options.rewards, None, device)),
        "judge": None,
        "drift": None,
        "policy": None,
        "collapse": variety(dialogs, first or dialogs, embeddings),
    }
    pairs = list(right_and_wrong(tried))
    followed = model or (CombinedReward(ranking) if ranking else None)
    if model is not None:
        margin_P = margins(model, pairs)
        asked = RewardLimits(limits.least_accuracy, limits.most_ece, limits.most_excess)
        told["judge"] = audited(margin_P, pairs, asked)
        if old is not None:
            told["drift"] = drift(margins(old, pairs), margin_P).to_json()
    elif ranking:
        told["judge"] = audited(margins(_Total(followed), pairs), pairs, RewardLimits(0, 1, limits.most_excess))
    if told["judge"] is not None:
        passed = [right for one in tried for right in one.passed]
        told["judge"]["answers"] = {"right": sum(passed), "n": len(passed)}
    if followed is not None:
        told["policy"] = hacking(_Total(followed), tried, trained, options.seed)
    why = list(objections(told, limits))
    out.metrics |= finite({**told, "passed": not why, "why": why})
    write_json_atomic(out.path / "audit.json", out.metrics)


class _Total:
    """One number for each answer of a reward, or of several together."""

    def __init__(self, reward: Any) -> None:
        self._reward = reward

    def score(
        self, prompts: Sequence[str], answers: Sequence[str], examples: Sequence[Mapping[str, Any]]
    ) -> list[float | None]:
        found = self._reward.score(prompts, answers, examples)
        return list(getattr(found, "total", found))


def _only(built: Mapping[str, Reward]) -> Reward:
    return next(iter(built.values()))


def answered(probe: Artifact) -> list[Answered]:
    """The prompts of a probe in order."""
    tasks = {row["id"]: row for row in read_rows(probe.file(TASKS))}
    found: defaultdict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in read_rows(probe.file(ANSWERS)):
        found[row["id"]].append(row)
    return [
        Answered(tasks[name], tuple(row["answer"] for row in rows), tuple(row["passed"] for row in rows))
        for name, rows in found.items()
    ]


def right_and_wrong(tried: Sequence[Answered]) -> Iterator[PreferredPair]:
    """Of each prompt the first right and the first wrong answer."""
    for one in tried:
        right = [answer for answer, passed in zip(one.answers, one.passed, strict=True) if passed]
        wrong = [answer for answer, passed in zip(one.answers, one.passed, strict=True) if not passed]
        if right and wrong:
            context = tuple(one.task.get("context", ()))
            family = {"category": str(one.task["family"]).partition(".")[0]}
            yield PreferredPair(context, one.task["prompt"], right[0], wrong[0], family)


def _labels(preferences: Artifact, verifier: CombinedReward) -> dict[str, Any] | None:
    """Of the pairs that the verifiers can score, those whose rejected answer alone they hold for right."""
    if (
        verifier.ranks_only
        or not (preferences.path / PAIRS).exists()
        or not (preferences.path / "prompts.jsonl").exists()
    ):
        return None
    tasks = {row["id"]: row for row in read_rows(preferences.file("prompts.jsonl"))}
    rows = [row for row in read_rows(preferences.file(PAIRS)) if row.get("id") in tasks]
    if not rows:
        return None
    examples = [tasks[row["id"]] for row in rows for _ in range(2)]
    answers = [row[side] for row in rows for side in ("chosen", "rejected")]
    scores = verifier.score([task["prompt"] for task in examples], answers, examples)
    known = [not math.isnan(total) for total in scores.total]
    sides = list(zip(scores.passed[::2], scores.passed[1::2], known[::2], known[1::2], strict=True))
    judged = [(chosen, rejected) for chosen, rejected, *both in sides if all(both)]
    wrong = sum(rejected and not chosen for chosen, rejected in judged)
    return {"mislabelled": wilson(wrong, len(judged)).to_json()} if judged else None


def hacking(reward: Reward, before: Sequence[Answered], after: Sequence[Answered], seed: int = 0) -> dict[str, Any]:
    """{reward, verified: {change, low, high}, features: {NAME: {before, after, correlation}}} of the same prompts.

    `correlation` is that of the reward with the feature among the answers to one prompt, before the step.
    """
    later = {one.task["id"]: one for one in after}
    both = [(one, later[one.task["id"]]) for one in before if one.task["id"] in later]
    scores = [[_scores(reward, one) for one in pair] for pair in both]
    features = {}
    for name, of in FEATURES.items():
        old, new = ([np.mean([of(answer) for answer in pair[k].answers]) for pair in both] for k in (0, 1))
        features[name] = {"before": float(np.mean(old)), "after": float(np.mean(new)),
                          "correlation": _within(of, both, scores)}  # fmt: skip
    return {
        "prompts": len(both),
        "reward": _change([(np.nanmean(old), np.nanmean(new)) for old, new in scores], seed),
        "verified": _change([(np.mean(old.passed), np.mean(new.passed)) for old, new in both], seed),
        "features": features,
    }


def _scores(reward: Reward, one: Answered) -> np.ndarray:
    n = len(one.answers)
    found = reward.score([one.task["prompt"]] * n, list(one.answers), [one.task] * n)
    scores_K: np.ndarray = np.array([math.nan if score is None else score for score in found], np.float64)
    return scores_K


def _change(pairs: Sequence[tuple[Any, Any]], seed: int) -> dict[str, float]:
    change_N = np.array([new - old for old, new in pairs], np.float64)
    change_N = change_N[np.isfinite(change_N)]
    if not len(change_N):
        return dict.fromkeys(("change", "low", "high"), math.nan)
    low, high = studentised(change_N, np.ones(len(change_N)), seed)
    return {"change": float(change_N.mean()), "low": low, "high": high}


def _within(of: Any, both: Sequence[tuple[Answered, Answered]], scores: Sequence[Sequence[np.ndarray]]) -> float:
    """The correlation of a feature with the reward, each less its mean over the answers to one prompt."""
    feature, reward = [], []
    for (one, _), (score_K, _) in zip(both, scores, strict=True):
        of_K = np.array([of(answer) for answer in one.answers])
        known_K = np.isfinite(score_K)
        if known_K.any():
            feature += (of_K[known_K] - of_K[known_K].mean()).tolist()
            reward += (score_K[known_K] - score_K[known_K].mean()).tolist()
    if len(feature) < 2 or not np.std(feature) or not np.std(reward):
        return math.nan
    return float(np.corrcoef(feature, reward)[0, 1])


def variety(dialogs: Artifact, first: Artifact, embeddings: Artifact | None = None) -> dict[str, Any]:
    """{own, answers, ratios: {dialogs, 3-grams, entropy, embeddings}, self_bleu}: the share of the model's own answers,
    and their variety over that of as many worked examples; null where there are too few."""
    rows = list(read_rows(dialogs.file(DIALOGS)))
    own = [row for row in rows if row.get("source") in VERIFIED]
    told: dict[str, Any] = {"own": len(own) / max(1, len(rows)), "answers": len(own), "ratios": None, "self_bleu": None}
    texts = own_and_shown(dialogs, first)
    if not texts[0]:
        return told
    ours, theirs = (diversity(part) for part in texts)
    ratio = lambda a, b: a / b if b else math.nan
    told["ratios"] = {
        "dialogs": ratio(len(set(texts[0])), len(set(texts[1]))),
        "3-grams": ratio(ours.distinct[2], theirs.distinct[2]),
        "entropy": ratio(ours.entropy, theirs.entropy),
    }
    if embeddings is not None and embeddings.metrics["own"] is not None:
        # Of how many texts with nothing in common the embeddings are worth.
        told["ratios"]["embeddings"] = ratio(*(math.exp(embeddings.metrics[kind]) for kind in ("own", "shown")))
    told["self_bleu"] = ours.self_bleu - theirs.self_bleu
    return told


def own_and_shown(dialogs: Artifact, first: Artifact, most: int | None = None) -> tuple[list[str], list[str]]:
    """As many of the model's own answers in `dialogs` as of the worked examples in `first`, whole dialogs, `most` at
    most; none where there are too few to tell."""
    own = [row for row in read_rows(dialogs.file(DIALOGS)) if row.get("source") in VERIFIED]
    shown = [row for row in read_rows(first.file(DIALOGS)) if row.get("source") == DEMONSTRATION]
    count = min(len(own), len(shown), *([] if most is None else [most]))
    if count < FEWEST_ANSWERS:
        return [], []
    ours, theirs = ([_text(row) for row in _evenly(part, count)] for part in (own, shown))
    return ours, theirs


def _evenly(rows: Sequence[Any], count: int) -> list[Any]:
    return [rows[n * len(rows) // count] for n in range(count)]


def _text(row: Mapping[str, Any]) -> str:
    return "\n".join(str(message["content"]) for message in row["messages"])


def objections(told: Mapping[str, Any], limits: RoundAuditSection) -> Iterator[str]:
    """What is beyond the limits, a sentence each that begins with the failure's name."""
    labels, judged, moved, policy = (told[name] for name in ("preferences", "judge", "drift", "policy"))
    if labels and labels["mislabelled"]["low"] > limits.most_mislabelled:
        row = labels["mislabelled"]
        yield (
            f"mislabelled preferences: the verifiers hold the rejected answer for better in {row['rate']:.1%} of "
            f"{row['n']} pairs [{row['low']:.1%}, {row['high']:.1%}]"
        )
    if judged and judged["scored"] < FEWEST:
        yield (
            f"reward model: {judged['scored']} pairs of a right and a wrong answer are too few to audit it"
            f"{_answers(judged.get('answers'))}"
        )
    elif judged:
        yield from (f"reward model: {why}" for why in judged["why"])
    if moved and moved["turned"] > limits.most_drift:
        pairs = f"{moved['turned']:.1%} of {moved['pairs']} pairs"
        yield f"reward drift: the reward model differs from that of the round before on {pairs}"
    if policy and policy["reward"]["low"] > 0 and policy["verified"]["high"] < 0:
        yield (
            f"reward hacking: the reward rose by {policy['reward']['change']:.3g} while the share of right answers "
            f"fell by {-policy['verified']['change']:.1%} [{policy['verified']['low']:+.1%}, "
            f"{policy['verified']['high']:+.1%}]{_grown(policy['features'])}"
        )
    yield from _collapsed(told["collapse"], limits)


def _answers(found: Mapping[str, int] | None) -> str:
    return f": {found['right']} of {found['n']} answers were right" if found else ""


def _grown(features: Mapping[str, Mapping[str, float]]) -> str:
    """Which feature of the answers grew most."""
    growth = {name: row["after"] / row["before"] - 1 for name, row in features.items() if row["before"] > 0}
    name = max(growth, key=lambda one: growth[one], default="")
    return f"; {name} grew by {growth[name]:.0%}" if name and growth[name] > 0 else ""


def _collapsed(found: Mapping[str, Any], limits: RoundAuditSection) -> Iterator[str]:
    if found["own"] > limits.most_own:
        limit = f"most_own {limits.most_own:.0%}"
        yield f"self-fed: {found['own']:.1%} of the dialogs are the model's own answers ({limit})"
    for name, ratio in (found["ratios"] or {}).items():
        if math.isfinite(ratio) and ratio < limits.least_diversity:
            yield f"collapse: different {name} of its own answers are {ratio:.1%} of those of worked examples"
    if found["self_bleu"] is not None and found["self_bleu"] > limits.most_self_bleu:
        yield f"collapse: self-BLEU of its own answers is {found['self_bleu']:.2f} above that of worked examples"
