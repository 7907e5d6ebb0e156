"""The chance that one of k drawn answers to a held-out task is right (Chen et al. 2021, equation 1).

Of n answers, c are right: pass@k = 1 - C(n - c, k) / C(n, k), without bias for every k up to n; the mean over tasks.
"""

from __future__ import annotations

import math
import statistics

from llama3.evaluators import CombinedReward, Result, Subject, build_rewards, drawn, require_scorable
from llama3_plugins.evaluators.options import PassAtKOptions


class PassAtK:
    """Result: `pass_at_<k>` for each k, `tasks` and `samples`. One sample per task: `score` is its share of right
    answers, which is its pass@1."""

    def __init__(self, options: PassAtKOptions) -> None:
        self.options = options
        self.rewards = None if options.rewards is None else build_rewards(options.rewards)

    def run(self, subject: Subject, limit: int, seed: int) -> Result:
        options, n = self.options, self.options.samples
        reward = CombinedReward(subject.rewards if self.rewards is None else self.rewards)
        tasks = reward.tasks("held_out", options.limit or limit, seed)
        dialogs = [task.messages for task in tasks]
        texts = drawn(
            subject, dialogs, max_tokens=options.max_tokens, temperature=options.temperature, samples=n, seed=seed
        )
        asked = [task for task in tasks for _ in range(n)]
        rows = {task.id: task.to_json() for task in tasks}
        flat = [text for row in texts for text in row]
        scores = reward.score([task.prompt for task in asked], flat, [rows[task.id] for task in asked])
        require_scorable(scores)
        right = [sum(scores.passed[i : i + n]) for i in range(0, len(flat), n)]
        samples = [
            {"id": task.id, "family": task.family, "prompt": task.prompt, "answers": row, "score": c / n}
            for task, row, c in zip(tasks, texts, right, strict=True)
        ]
        metrics = {f"pass_at_{k}": statistics.fmean(pass_at(k, n, c) for c in right) for k in options.k}
        return Result(metrics | {"tasks": len(tasks), "samples": n}, samples)


def pass_at(k: int, n: int, c: int) -> float:
    """The chance that k of n answers, c of them right, hold a right one."""
    return 1.0 - math.comb(n - c, k) / math.comb(n, k)
