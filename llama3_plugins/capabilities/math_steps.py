"""Chains of thought with the right result (paper 4.3.3): several are drawn, those whose final answer is wrong go, and
of the rest those in which the model finds a wrong step itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from llama3.capabilities import Made, Task, Workshop, verdict
from llama3_plugins.capabilities.options import MathStepsOptions

STEP_BY_STEP = (
    "Solve the problem below step by step: one step in each line. End with a line that has nothing but "
    "'Answer:' and the result."
)
CHECK = (
    "Below are a problem and a solution. Check every step of the solution for itself. End with a line that says only "
    "'yes' if all of them are right, or 'no' if one is wrong.\n\nProblem:\n{problem}\n\nSolution:\n{solution}"
)


class MathSteps:
    """One chain for each task: the first that is right and verified, preferred to one that is wrong."""

    def __init__(self, options: MathStepsOptions) -> None:
        self.options = options

    def dialogs(self, shop: Workshop, count: int, seed: int) -> Iterator[Made]:
        tasks = shop.tasks(count, seed)
        drawn = shop.ask([asked(task) for task in tasks], samples=self.options.samples)
        chains = [list(dict.fromkeys(reply.text for reply in replies if reply.ended)) for replies in drawn]
        right, wrong = by_result(shop, tasks, chains)
        approved = self._approved(shop, tasks, right)
        for place, task in enumerate(tasks):
            found = [chain for chain, is_sound in zip(right[place], approved[place], strict=True) if is_sound]
            reason = "verified" if found else "a_step_is_wrong" if right[place] else "wrong_result"
            chain = next(iter(found or right[place] or wrong[place]), "")
            messages = [*task.messages, {"role": "assistant", "content": chain}]
            rejected = wrong[place][0] if found and wrong[place] else ""
            yield Made(messages, bool(found), reason, "math", rejected)

    def _approved(self, shop: Workshop, tasks: Sequence[Task], chains: Sequence[Sequence[str]]) -> list[list[bool]]:
        """Whether the judge finds every step of each chain right; a judge that cannot be read does not."""
        if not self.options.verify:
            return [[True] * len(row) for row in chains]
        asked = [
            [{"role": "user", "content": CHECK.format(problem=task.prompt, solution=chain)}]
            for task, row in zip(tasks, chains, strict=True)
            for chain in row
        ]
        said = iter(shop.judge(asked))
        return [[verdict(next(said)) is True for _ in row] for row in chains]


def asked(task: Task) -> list[dict[str, str]]:
    """The dialog that asks a task, with how it is to be answered."""
    *before, last = task.messages
    return [*before, {"role": "user", "content": f"{STEP_BY_STEP}\n\n{last['content']}"}]


def by_result(
    shop: Workshop, tasks: Sequence[Task], chains: Sequence[Sequence[str]]
) -> tuple[list[list[str]], list[list[str]]]:
    """The chains of each task whose result is right, and the others."""
    flat = [(task, chain) for task, row in zip(tasks, chains, strict=True) for chain in row]
    passed = iter(shop.passed([task for task, _ in flat], [chain for _, chain in flat]))
    right: list[list[str]] = []
    wrong: list[list[str]] = []
    for row in chains:
        verdicts = [(chain, next(passed)) for chain in row]
        right.append([chain for chain, is_right in verdicts if is_right])
        wrong.append([chain for chain, is_right in verdicts if not is_right])
    return right, wrong
