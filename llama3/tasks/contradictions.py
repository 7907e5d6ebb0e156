"""Rows of a user's file that teach the contrary of each other. They are learnt as they are, and told of: only
their author knows which of them is right."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from itertools import combinations

from llama3.tasks.data_kind import UserRow

Prompt = tuple[tuple[str, str], ...]
"""Role and content of each message."""
_WORDS = {
    "orders": "answers to {prompts} prompts are better than each other, both ways",
    "labels": "answers to {prompts} prompts are labelled both good and bad",
    "answers": "{prompts} prompts are asked with different right answers",
}


def contradictions(rows: Iterable[UserRow]) -> dict[str, int]:
    """How many prompts have two answers of which each is ranked above the other (`orders`), an answer with both labels
    (`labels`), or tasks with different answers (`answers`); nothing where there are none."""
    orders: dict[Prompt, set[tuple[str, str]]] = defaultdict(set)
    labels: dict[tuple[Prompt, tuple[str, ...]], set[bool]] = defaultdict(set)
    answers: dict[Prompt, set[str]] = defaultdict(set)
    for row in rows:
        prompt = tuple((message["role"], message["content"]) for message in row.prompt)
        label = row.columns.get("label")
        orders[prompt].update(combinations(row.answers, 2))
        if isinstance(label, bool):
            labels[prompt, row.answers].add(label)
        if (answer := row.columns.get("answer")) is not None:
            answers[prompt].add(str(answer).strip())
    found = {
        "orders": sum(any((worse, better) in pairs for better, worse in pairs) for pairs in orders.values()),
        "labels": len({prompt for (prompt, _), both in labels.items() if len(both) > 1}),
        "answers": sum(len(different) > 1 for different in answers.values()),
    }
    return {kind: count for kind, count in found.items() if count}


def told_contradictions(found: Mapping[str, int], where: str) -> list[str]:
    """In words."""
    return [f"{where}: {_WORDS[kind].format(prompts=f'{count:,}')}" for kind, count in found.items()]
