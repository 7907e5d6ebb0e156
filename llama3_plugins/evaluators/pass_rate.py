"""The share of held-out tasks that the model solves, greedily and without examples, with a 95 % Wilson interval."""

from __future__ import annotations

from llama3.evaluation.answers import answers
from llama3.evaluation.evaluator import Result, Subject
from llama3.evaluation.intervals import Rate, wilson
from llama3.posttraining.rewards import CombinedReward

PASSED = 1.0
"""The score of a fully right answer."""


class PassRate:
    """Result: `pass_rate` over all tasks and `by_family`, each {rate, low, high, n}; one sample per task, of score
    1 (right) or 0.

    There are no options: the tasks come from `post_training.rewards`.
    """

    def run(self, subject: Subject, limit: int, seed: int) -> Result:
        reward = CombinedReward(subject.rewards)
        tasks = reward.tasks("held_out", limit, seed)
        prompts = [task.prompt for task in tasks]
        texts = answers(subject, prompts)
        scores = reward.score(prompts, texts, [task.to_json() for task in tasks]).total
        passed = [score >= PASSED for score in scores]
        families = sorted({task.family for task in tasks})
        by_family = {
            family: _rate([ok for task, ok in zip(tasks, passed, strict=True) if task.family == family])
            for family in families
        }
        samples = [
            {"id": task.id, "family": task.family, "prompt": task.prompt, "answer": text, "score": float(ok)}
            for task, text, ok in zip(tasks, texts, passed, strict=True)
        ]
        metrics = {
            "pass_rate": _rate(passed).to_json(),
            "by_family": {family: rate.to_json() for family, rate in by_family.items()},
        }
        return Result(metrics, samples)


def _rate(passed: list[bool]) -> Rate:
    return wilson(sum(passed), len(passed))
