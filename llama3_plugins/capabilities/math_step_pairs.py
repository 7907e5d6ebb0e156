"""Pairs of steps for a reward model (paper 4.3.3, "outcome and stepwise reward models").

Nobody labels steps: a step is worth the share of chains that end right when they go on from it (Wang et al. 2024,
Math-Shepherd). Of each task the best and the worst beginning of equal length become a pair, where their values differ
enough. The run's reward model (`post_training.reward`) learns them beside the preferences of whole answers, and scores
steps from the next round on: in `math_search`, and whatever else asks for scores.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from llama3.capabilities import Made, Task, Workshop
from llama3_plugins.capabilities.math_steps import asked
from llama3_plugins.capabilities.options import StepPairsOptions
from llama3_plugins.capabilities.turns import user

GO_ON = (
    "{question}\n\nThis is the beginning of a solution:\n\n{begun}\n\nGo on from there, step by step, without "
    "repeating it. End with a line that has nothing but 'Answer:' and the result."
)


class MathStepPairs:
    """Makes no dialogs to finetune on, only steps."""

    def __init__(self, options: StepPairsOptions) -> None:
        self.options = options

    def dialogs(self, shop: Workshop, count: int, seed: int) -> Iterator[Made]:
        tasks = shop.tasks(count, seed)
        drawn = shop.ask([asked(task) for task in tasks], samples=self.options.samples)
        begun = [
            (place, beginning)
            for place, row in enumerate(drawn)
            for beginning in dict.fromkeys(one for reply in row if reply.ended for one in beginnings(reply.text))
        ]
        values = step_values(shop, [(tasks[place], text) for place, text in begun], self.options.rollouts)
        known: defaultdict[int, defaultdict[int, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
        for (place, text), value in zip(begun, values, strict=True):
            known[place][text.count("\n")][text] = value
        for place, task in enumerate(tasks):
            steps = tuple(pair for same in known[place].values() for pair in self._pair(same))
            reason = "steps_compared" if steps else "steps_alike" if place in known else "no_steps"
            yield Made(task.messages, False, reason, "math", steps=steps)

    def _pair(self, values: dict[str, float]) -> list[tuple[str, str]]:
        best, worst = max(values, key=values.__getitem__), min(values, key=values.__getitem__)
        return [(best, worst)] if values[best] - values[worst] >= self.options.margin else []


def lines_of(chain: str) -> list[str]:
    """The steps of a chain: its lines that are not empty."""
    return [line.rstrip() for line in chain.splitlines() if line.strip()]


def beginnings(chain: str) -> list[str]:
    """A chain up to each of its steps but the last, which is the result."""
    steps = lines_of(chain)
    return ["\n".join(steps[:end]) for end in range(1, len(steps))]


def go_on(task: Task, begun: str) -> list[dict[str, str]]:
    """The dialog that asks for the rest of a solution."""
    *before, last = task.messages
    return [*before, user(GO_ON.format(question=last["content"], begun=begun))]


def step_values(shop: Workshop, begun: Sequence[tuple[Task, str]], rollouts: int) -> list[float]:
    """The share of rollouts from each beginning that end right."""
    drawn = shop.ask([go_on(task, text) for task, text in begun], samples=rollouts)
    tasks = [task for task, _ in begun for _ in range(rollouts)]
    passed = shop.passed(tasks, [reply.text for row in drawn for reply in row])
    return [sum(passed[start : start + rollouts]) / rollouts for start in range(0, len(passed), rollouts)]
