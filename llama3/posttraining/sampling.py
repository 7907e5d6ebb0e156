"""Samples of a checkpoint: K answers to each task, scored. What `reject` and `preferences` both start from."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from llama3.artifacts import Artifact, StageOutput
from llama3.config.precision import AutoPrecision
from llama3.config.reject import RejectSection
from llama3.config.schema import PreferSection
from llama3.config.slot_types import GuardPolicy, RewardSlot, Slot
from llama3.errors import CheckpointError, DataError
from llama3.foreign import Fields, UnusableFile, read_json
from llama3.inference.completion import FinishReason, Generator
from llama3.inference.sampling import Sampling
from llama3.plugins.registry import discover
from llama3.plugins.specs import AlgorithmSpec
from llama3.posttraining.examples import prompt_ids
from llama3.posttraining.guarded_answers import AnswerFilter
from llama3.posttraining.services import answer_text, chunks
from llama3.tasks import Task
from llama3.tasks.rewards import PASS, CombinedReward, Scores, build_rewards, require_scorable
from llama3.tokenizer import Tokenizer, stop_ids

NO_REWARD_MODEL = CheckpointError.declare(
    "L3-RWD-006", "is no reward model", fix="train one with `post_training: {{reward: {{}}}}`"
)

NO_ROOM = DataError.declare(
    "L3-SMP-001",
    "none of {count} prompts leaves room for {longest} tokens of answer",
    why="the model was made for {context} tokens",
    fix="lower max_tokens under post_training, or shorten the prompts",
)

_CHUNK = 64
"""Prompts sampled between two updates of the progress bar."""


class SamplingOptions(BaseModel):
    """How prompts are answered. `seed` draws the prompts and the answers."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    prompts: int
    samples: int
    temperature: float
    top_p: float
    max_tokens: int
    rewards: tuple[RewardSlot, ...]
    seed: int
    device: str = "cpu"
    precision: AutoPrecision = "auto"
    """Of sampling."""
    files: dict[str, str] = {}
    """Contents of the files that rewards read."""
    policy: GuardPolicy = {}
    """Of guards that answers must pass to be learnt from; empty: all are."""

    def sampling(self, tokenizer: Tokenizer) -> Sampling:
        """As the engine takes it."""
        return Sampling(
            self.max_tokens,
            self.temperature,
            self.top_p,
            n=self.samples,
            seed=self.seed,
            stop_ids=stop_ids(tokenizer),
        )

    @staticmethod
    def fields_of(section: RejectSection | PreferSection) -> dict[str, Any]:
        """The fields that a config section shares with these options."""
        names = ("prompts", "samples", "temperature", "top_p", "max_tokens")
        return {name: getattr(section, name) for name in names}


@dataclass(frozen=True, slots=True)
class Sample:
    """One answer. `reward` is NaN when it cannot be scored; `mean_logp` is per token, in nats; `passed` is the verdict
    of the rewards that tell right from wrong (llama3.tasks.rewards)."""

    text: str
    reward: float
    mean_logp: float
    finish_reason: FinishReason
    passed: bool


@dataclass(frozen=True, slots=True)
class Sampled:
    """A task and its K answers, in the order in which they were drawn."""

    task: Task
    samples: tuple[Sample, ...]

    def ranked(self) -> list[Sample]:
        """Scorable answers, best first: those that passed, then by reward, by mean log-prob, as drawn."""
        known = [sample for sample in self.samples if not math.isnan(sample.reward)]
        return sorted(known, key=lambda sample: (not sample.passed, -sample.reward, -sample.mean_logp))

    def rows(self) -> list[dict[str, Any]]:
        """JSON rows for samples.jsonl; a reward that is not known is null."""
        return [
            {
                "id": self.task.id,
                "family": self.task.family,
                **({"context": [*map(dict, self.task.context)]} if self.task.context else {}),
                "prompt": self.task.prompt,
                "answer": sample.text,
                "reward": None if math.isnan(sample.reward) else sample.reward,
                "passed": sample.passed,
                "mean_logp": round(sample.mean_logp, 6),
                "finish_reason": sample.finish_reason.label,
            }
            for sample in self.samples
        ]


def build_reward(slots: Sequence[Slot], trained: Artifact | None = None, device: str = "auto") -> CombinedReward:
    """The rewards named in the config, and the one that scores with the reward model that the run has `trained`."""
    return CombinedReward(build_rewards([*slots, *([] if trained is None else [reward_of(trained.path)])], device))


def reward_of(model: Path) -> Slot:
    """The reward that the algorithm which trained the model in a folder names for it. Raises CheckpointError where
    there is none."""
    try:
        facts = Fields(read_json(model / "llama3.json"))
    except (OSError, UnusableFile):
        facts = Fields({})
    algorithm = facts.object("algorithm").text("name")
    spec = discover().spec("algorithms", algorithm) if algorithm else None
    if not isinstance(spec, AlgorithmSpec) or spec.reward is None:
        raise NO_REWARD_MODEL(model)
    return Slot.model_validate({"name": spec.reward, "path": str(model)})


def draw_tasks(reward: CombinedReward, count: int, seed: int, out: StageOutput) -> list[Task]:
    """At most `count` tasks to train on; where fewer exist, the user is told."""
    tasks = reward.tasks("train", count, seed)
    if len(tasks) < count:
        out.event("fewer_tasks", asked=count, found=len(tasks))
        out.display.note(f"[yellow]![/] only {len(tasks):,} tasks to train on exist; {count:,} were asked for")
    return tasks


def with_room(
    tasks: Sequence[Task], tokenizer: Tokenizer, longest: int, context: int, out: StageOutput
) -> Sequence[Task]:
    """Those whose prompts leave the context room for a longest answer; the user is told of others. Raises DataError
    where none does."""
    kept = [task for task in tasks if len(prompt_ids(tokenizer, task_messages(task))) + longest <= context]
    if tasks and not kept:
        raise NO_ROOM("tasks", count=len(tasks), longest=longest, context=context)
    if left := len(tasks) - len(kept):
        out.event("prompts_without_room", prompts=left, max_tokens=longest, context=context)
        out.display.note(f"[yellow]![/] {left:,} prompts leave no room for {longest} tokens of answer: left out")
    return kept


def sample_tasks(
    generator: Generator,
    tokenizer: Tokenizer,
    reward: CombinedReward,
    tasks: Sequence[Task],
    options: SamplingOptions,
    out: StageOutput,
) -> list[Sampled]:
    """`options.samples` scored answers to every task, in order; fewer where the policy refuses some."""
    sampled: list[Sampled] = []
    with out.progress("sample", len(tasks)) as progress, AnswerFilter(options.policy) as guard:
        for chunk in chunks(tasks, _CHUNK):
            prompts = [prompt_ids(tokenizer, task_messages(task)).tolist() for task in chunk]
            completions = generator.generate(prompts, options.sampling(tokenizer))
            texts = [[answer_text(tokenizer, answer.ids) for answer in answers] for answers in completions]
            scores = _scores(reward, chunk, texts)
            if not sampled:
                require_scorable(scores)
            passed = _best_of_each(scores, texts) if reward.ranks_only else scores.passed
            verdicts = iter(zip(scores.total, passed, strict=True))
            sampled += [
                Sampled(
                    task,
                    tuple(
                        Sample(text, total, _mean(answer.logps), answer.finish_reason, passed)
                        for text, answer, (total, passed) in zip(row, answers, verdicts, strict=False)
                        if guard.passes(task_messages(task), text)
                    ),
                )
                for task, row, answers in zip(chunk, texts, completions, strict=True)
            ]
            progress.advance(len(chunk), **_shown(sampled))
    if options.policy:
        out.metrics["refused_by_guards"] = guard.refused
    if unscored := {name: count for name, count in sorted(reward.no_opinion.items()) if count}:
        out.metrics["no_opinion"] = unscored
    return sampled


def tell_silent(asked: float, no_opinion: Mapping[str, float], out: StageOutput) -> None:
    """Warn of rewards that could score not one of the answers `asked` of a stage."""
    silent = sorted(name for name, count in no_opinion.items() if asked and count == asked)
    if silent:
        out.event("rewards_without_opinion", rewards=silent, answers=int(asked))
        told = f"rewards {', '.join(silent)} scored none of {int(asked):,} answers (None or NaN): they changed nothing"
        out.display.warn(told)


def _best_of_each(scores: Scores, texts: Sequence[Sequence[str]]) -> list[bool]:
    """Where no reward tells right from wrong, an answer passes that is the best to its prompt, if others are worse."""
    passed: list[bool] = []
    for row in texts:
        totals = scores.total[len(passed) : len(passed) + len(row)]
        known = [total for total in totals if not math.isnan(total)]
        best, worst = max(known, default=0.0), min(known, default=0.0)
        passed += [total >= PASS or (total == best and best > worst) for total in totals]
    return passed


def task_messages(task: Task) -> list[dict[str, str]]:
    """The dialog that asks a task."""
    return task.messages


def sampling_metrics(sampled: Sequence[Sampled], options: SamplingOptions) -> dict[str, Any]:
    """Counts and pass rates, per family too. Deterministic: fit for a manifest."""
    samples = [sample for row in sampled for sample in row.samples]
    by_family: defaultdict[str, list[bool]] = defaultdict(list)
    for row in sampled:
        by_family[row.task.family] += [sample.passed for sample in row.samples]
    return {
        "precision": options.precision,
        "prompts": len(sampled),
        "samples": len(samples),
        "passed": sum(sample.passed for sample in samples),
        "not_scorable": sum(math.isnan(sample.reward) for sample in samples),
        "finish_reasons": dict(sorted(Counter(sample.finish_reason.label for sample in samples).items())),
        "prompts_passed": sum(any(sample.passed for sample in row.samples) for row in sampled),
        "pass_rate": {family: round(_mean(passes), 4) for family, passes in sorted(by_family.items())},
    }


def _scores(reward: CombinedReward, tasks: Sequence[Task], texts: Sequence[Sequence[str]]) -> Scores:
    flat = [(task, text) for task, row in zip(tasks, texts, strict=True) for text in row]
    rows = {task.id: task.to_json() for task in tasks}
    prompts, examples = [task.prompt for task, _ in flat], [rows[task.id] for task, _ in flat]
    return reward.score(prompts, [text for _, text in flat], examples)


def _shown(sampled: Sequence[Sampled]) -> Mapping[str, float]:
    return {"passed": round(_mean([sample.passed for row in sampled for sample in row.samples]), 3)}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
