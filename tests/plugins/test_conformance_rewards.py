"""The author kit of rewards that have tasks: it asks them about these."""

from __future__ import annotations

from llama3.plugins import RewardSpec
from llama3.tasks import Exact, Task
from llama3.testing import RewardConformance


class OwnRows:
    """Scores its own tasks by what these hold."""

    def tasks(self, split, count, seed):
        numbers = range(seed, seed + count) if split == "train" else range(-count, 0)
        return [Task(f"n{n}", "numbers", f"Say {n}.", str(n), Exact("text", str(n))) for n in numbers]

    def score(self, prompts, answers, examples):
        return [float(answer == example["reference"]) for answer, example in zip(answers, examples, strict=True)]


class TestOwnRows(RewardConformance):
    """A reward of own tasks is asked about these, which have what it reads."""

    plugin = "numbers"
    spec = RewardSpec(name="numbers", factory="a:B")
    test_listing_and_checking_options_needs_no_torch = test_options_survive_yaml = None

    def build(self):
        return OwnRows()
