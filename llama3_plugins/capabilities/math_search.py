"""Monte-Carlo tree search over steps for prompts that plain answers all fail at (paper 4.3.3).

A node is the beginning of a solution, an edge the next step. Each simulation follows the best bounds (UCT) to a leaf,
draws continuations of it, and takes their values back to the root: of a solution that is over, whether it is right;
else the score of a step reward model (`math_step_pairs` makes what it learns from), and without one whether a rollout
from there ends right. All tasks are searched side by side, so that each turn asks for many steps at once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from llama3.capabilities import Made, Task, Workshop
from llama3_plugins.capabilities.math_step_pairs import lines_of, step_values
from llama3_plugins.capabilities.math_steps import asked, by_result
from llama3_plugins.capabilities.options import MathSearchOptions
from llama3_plugins.capabilities.turns import assistant, user

NEXT = (
    "{question}\n\nThe solution so far:\n\n{begun}\n\nWrite the next step, in one line, and nothing else. Where "
    "everything is known, the next step is a line that has nothing but 'Answer:' and the result."
)
NOTHING = "(nothing yet)"


@dataclass
class _Node:
    steps: tuple[str, ...] = ()
    parent: _Node | None = None
    children: list[_Node] = field(default_factory=list)
    visits: int = 0
    total: float = 0.0
    is_over: bool = False

    @property
    def text(self) -> str:
        return "\n".join(self.steps)

    def bound(self, exploration: float) -> float:
        """Upper confidence bound of its value (Kocsis and Szepesvari 2006)."""
        if self.visits == 0:
            return math.inf
        assert self.parent is not None
        return self.total / self.visits + exploration * math.sqrt(math.log(self.parent.visits) / self.visits)

    def learn(self, value: float) -> None:
        """Take a value back to the root."""
        node: _Node | None = self
        while node is not None:
            node.visits, node.total, node = node.visits + 1, node.total + value, node.parent


@dataclass
class _Search:
    task: Task
    root: _Node = field(default_factory=_Node)
    found: str = ""

    def leaf(self, options: MathSearchOptions) -> _Node | None:
        """Where the next step is to be drawn; None where all is over."""
        node = self.root
        while node.children:
            open_ones = [child for child in node.children if not child.is_over]
            if not open_ones:
                node.is_over = True
                if node.parent is None:
                    return None
                node = self.root
                continue
            node = max(open_ones, key=lambda child: child.bound(options.exploration))
        return None if node.is_over else node


class MathSearch:
    """Solutions of hard tasks, found step by step."""

    def __init__(self, options: MathSearchOptions) -> None:
        self.options = options

    def dialogs(self, shop: Workshop, count: int, seed: int) -> Iterator[Made]:
        tasks = shop.tasks(count, seed)
        hard = self._hard(shop, tasks)
        searches = [_Search(task) for task, is_hard in zip(tasks, hard, strict=True) if is_hard]
        for _ in range(self.options.simulations):
            self._simulate(shop, [search for search in searches if not search.found])
        easy = [task for task, is_hard in zip(tasks, hard, strict=True) if not is_hard]
        yield from (Made(task.messages, False, "not_hard", "math") for task in easy)
        for search in searches:
            messages = [*search.task.messages, assistant(search.found)]
            yield Made(messages, bool(search.found), "found" if search.found else "not_found", "math")

    def _hard(self, shop: Workshop, tasks: Sequence[Task]) -> list[bool]:
        """Whether no plain answer to each task is right."""
        if not self.options.tries:
            return [True] * len(tasks)
        drawn = shop.ask([asked(task) for task in tasks], samples=self.options.tries)
        right, _ = by_result(shop, tasks, [[reply.text for reply in row] for row in drawn])
        return [not row for row in right]

    def _simulate(self, shop: Workshop, searches: Sequence[_Search]) -> None:
        """One simulation of each search: select, expand, value, and back."""
        leaves = [(search, leaf) for search in searches if (leaf := search.leaf(self.options)) is not None]
        drawn = shop.ask([_next_step(search.task, leaf) for search, leaf in leaves], samples=self.options.width)
        new: list[tuple[_Search, _Node]] = []
        for (search, leaf), replies in zip(leaves, drawn, strict=True):
            said = (lines_of(reply.text)[:1] for reply in replies if reply.ended)
            leaf.children = [
                _Node((*leaf.steps, step), leaf) for step in dict.fromkeys(one for row in said for one in row)
            ]
            leaf.is_over = not leaf.children
            new += [(search, child) for child in leaf.children]
        self._value(shop, new)

    def _value(self, shop: Workshop, nodes: Sequence[tuple[_Search, _Node]]) -> None:
        ends = [(search, node) for search, node in nodes if _is_result(node.steps[-1])]
        passed = shop.passed([search.task for search, _ in ends], [node.text for _, node in ends])
        for (search, node), is_right in zip(ends, passed, strict=True):
            node.is_over = True
            search.found = search.found or (node.text if is_right else "")
            node.learn(float(is_right))
        rest = [(search, node) for search, node in nodes if not node.is_over]
        scores = shop.score([[*search.task.messages, assistant(node.text)] for search, node in rest])
        unknown = [pair for pair, score in zip(rest, scores, strict=True) if score is None]
        rolled = iter(step_values(shop, [(search.task, node.text) for search, node in unknown], 1))
        for (_, node), score in zip(rest, scores, strict=True):
            node.is_over = len(node.steps) >= self.options.deepest
            node.learn(next(rolled) if score is None else 1 / (1 + math.exp(-max(-50.0, min(50.0, score)))))


def _next_step(task: Task, node: _Node) -> list[dict[str, str]]:
    *before, last = task.messages
    return [*before, user(NEXT.format(question=last["content"], begun=node.text or NOTHING))]


def _is_result(step: str) -> bool:
    return step.strip(" *#").casefold().startswith("answer:")
