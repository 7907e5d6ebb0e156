"""The share of held-out tasks that the model solves, greedily and without examples, with a 95 % Wilson interval."""

from __future__ import annotations

from llama3.evaluation.evaluator import Result, Subject
from llama3.evaluation.intervals import Rate, wilson
from llama3.inference.sampling import Sampling
from llama3.posttraining.rewards import CombinedReward
from llama3.posttraining.tasks import Task
from llama3.tokenizer.chat import Message, render

PASSED = 1.0
"""The score of a fully right answer."""


class PassRate:
    """Result: `pass_rate` over all tasks and `by_family`, each {rate, low, high, n}; one sample per task.

    There are no options: the tasks come from `post_training.rewards`.
    """

    def run(self, subject: Subject, limit: int, seed: int) -> Result:
        reward = CombinedReward(subject.rewards)
        tasks = reward.tasks("held_out", limit, seed)
        answers = answer(subject, tasks)
        scores = reward.score([t.prompt for t in tasks], answers, [t.to_json() for t in tasks]).total
        passed = [score >= PASSED for score in scores]
        families = sorted({task.family for task in tasks})
        by_family = {
            family: _rate([ok for task, ok in zip(tasks, passed, strict=True) if task.family == family])
            for family in families
        }
        samples = [
            {"id": task.id, "family": task.family, "prompt": task.prompt, "answer": text, "passed": ok}
            for task, text, ok in zip(tasks, answers, passed, strict=True)
        ]
        metrics = {
            "pass_rate": _rate(passed).to_json(),
            "by_family": {family: rate.to_json() for family, rate in by_family.items()},
        }
        return Result(metrics, samples)


def answer(subject: Subject, tasks: list[Task]) -> list[str]:
    """The model's greedy answers, without control tokens."""
    tokenizer = subject.model.tokenizer
    prompts = [render(tokenizer, [Message("user", task.prompt)], generation_prompt=True).ids for task in tasks]
    sampling = Sampling(max_tokens=subject.max_tokens, temperature=0.0, stop_ids=frozenset(tokenizer.stop_ids))
    stops = set(tokenizer.stop_ids)
    completions = subject.model.engine.generate(prompts, sampling)
    return [tokenizer.decode([i for i in first.ids if i not in stops]) for (first,) in completions]


def _rate(passed: list[bool]) -> Rate:
    return wilson(sum(passed), len(passed))
