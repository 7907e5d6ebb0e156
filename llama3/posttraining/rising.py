"""Prompts of rising difficulty (paper 4.2.1): most is asked of what a model does now and then.

A family that is always solved teaches nothing new, and of one that is never solved no answer is left to learn from. So
families are asked in proportion to p (1 - p) of their pass rate p of the round before: as a model gets stronger, easy
ones give way to harder ones.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from llama3.artifacts import Artifact
from llama3.tasks import Task

WIDENING = 4
"""How many tasks are drawn for each that is asked, to choose among."""
LEAST = 0.02
"""The weight of a family that is always or never solved, beside a quarter at most: what it is may change."""


def pass_rates(dialogs: Artifact | None) -> dict[str, float]:
    """By family, as the round that made them measured it; nothing before the first."""
    return dict(dialogs.metrics.get("pass_rate", {})) if dialogs is not None else {}


def widening(rates: Mapping[str, float]) -> int:
    """How many tasks to draw for each that is asked."""
    return WIDENING if rates else 1


def near_the_edge(tasks: Sequence[Task], rates: Mapping[str, float], count: int) -> list[Task]:
    """`count` of the tasks in their order, the families by their weights; families without a rate have the greatest.
    Where no rate is known, or there are no more tasks than that, they are the first."""
    if not rates or len(tasks) <= count:
        return list(tasks[:count])
    waiting: defaultdict[str, list[int]] = defaultdict(list)
    for place, task in enumerate(tasks):
        waiting[task.family].append(place)
    weights = {family: rates.get(family, 0.5) * (1 - rates.get(family, 0.5)) + LEAST for family in waiting}
    taken: Counter[str] = Counter()
    chosen: list[int] = []
    while len(chosen) < count:  # the family that is furthest behind its weight comes next
        left = [family for family in waiting if taken[family] < len(waiting[family])]
        family = min(left, key=lambda name: ((taken[name] + 1) / weights[name], name))
        chosen.append(waiting[family][taken[family]])
        taken[family] += 1
    return [tasks[place] for place in sorted(chosen)]
