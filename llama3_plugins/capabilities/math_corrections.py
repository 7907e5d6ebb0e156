"""Learning from mistakes (paper 4.3.3): wrong chains of the model's own, shown to it, and its right corrections.

What failed stands in the dialog and is no target: learnt is how a mistake is mended.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from llama3.capabilities import Made, Workshop
from llama3_plugins.capabilities.math_steps import asked, by_result
from llama3_plugins.capabilities.options import MathCorrectionsOptions
from llama3_plugins.capabilities.turns import assistant, user

MENDED = (
    "There is a mistake in this solution. Say in which step, then solve the problem again step by step. End with a "
    "line that has nothing but 'Answer:' and the result."
)


class MathCorrections:
    """One dialog for each task of which a chain was wrong."""

    def __init__(self, options: MathCorrectionsOptions) -> None:
        self.options = options

    def dialogs(self, shop: Workshop, count: int, seed: int) -> Iterator[Made]:
        tasks = shop.tasks(count, seed)
        drawn = shop.ask([asked(task) for task in tasks], samples=self.options.samples)
        chains = [list(dict.fromkeys(reply.text for reply in row if reply.ended and reply.text)) for row in drawn]
        _, wrong = by_result(shop, tasks, chains)
        failed = [(task, row[0]) for task, row in zip(tasks, wrong, strict=True) if row]
        shown = [[*asked(task), assistant(chain), user(MENDED)] for task, chain in failed]
        replies = shop.ask(shown, samples=self.options.corrections)
        mended = [[reply.text for reply in row if reply.ended and reply.text] for row in replies]
        right, _ = by_result(shop, [task for task, _ in failed], mended)
        yield from (
            Made(task.messages, False, "no_mistake", "math") for task, row in zip(tasks, wrong, strict=True) if not row
        )
        for (task, chain), found in zip(failed, right, strict=True):
            before: list[dict[str, Any]] = [*task.messages, {**assistant(chain), "weight": 0}, user(MENDED)]
            if found:
                yield Made([*before, assistant(found[0])], True, "corrected", "math")
            else:
                yield Made(before, False, "not_corrected", "math")
