"""The share of held-out tasks that the model solves, greedily and without examples, with a 95 % Wilson interval."""

from __future__ import annotations

import math
import statistics

from llama3.evaluators import (
    CombinedReward,
    Rate,
    Result,
    Subject,
    build_rewards,
    have_room,
    replies,
    require_scorable,
    wilson,
)
from llama3_plugins.evaluators.options import PassRateOptions


class PassRate:
    """Result: `pass_rate` over all tasks and `by_family`, each {rate, low, high, n}; `mean_reward`; `not_scorable`;
    `without_room` where prompts do not fit into the model's context: they are not asked, and count as not right.

    One sample per task: `score` is 1 (right) or 0, `reward` what the rewards said. An answer that cannot be scored is
    not right.
    """

    def __init__(self, options: PassRateOptions) -> None:
        self.options = options
        self.rewards = None if options.rewards is None else build_rewards(options.rewards)

    def run(self, subject: Subject, limit: int, seed: int) -> Result:
        reward = CombinedReward(subject.rewards if self.rewards is None else self.rewards)
        tasks = reward.tasks("held_out", self.options.limit or limit, seed)
        asked = [task.messages for task in tasks]
        texts, fits = replies(subject, asked, self.options.max_tokens), have_room(subject, asked)
        scores = reward.score([task.prompt for task in tasks], texts, [task.to_json() for task in tasks])
        require_scorable(scores)
        total, passed = scores.total, scores.passed
        families = sorted({task.family for task in tasks})
        by_family = {
            family: _rate([ok for task, ok in zip(tasks, passed, strict=True) if task.family == family])
            for family in families
        }
        samples = [
            {"id": task.id, "family": task.family, "prompt": task.prompt, "answer": text, "reference": task.reference,
             "score": float(ok), "reward": None if math.isnan(score) else score}
            for task, text, ok, score in zip(tasks, texts, passed, total, strict=True)
        ]  # fmt: skip
        metrics = {
            "pass_rate": _rate(passed).to_json(),
            "by_family": {family: rate.to_json() for family, rate in by_family.items()},
            "mean_reward": statistics.fmean(score for score in total if not math.isnan(score)),
            "not_scorable": scores.not_scorable,
            **({"without_room": fits.count(False)} if False in fits else {}),
        }
        return Result(metrics, samples)


def _rate(passed: list[bool]) -> Rate:
    return wilson(sum(passed), len(passed))
