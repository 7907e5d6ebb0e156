"""Verifiable tasks: questions whose answers a program can check, generated from seeds with a held-out split.

Four groups of families (arithmetic, strings, lists, Python functions), small enough for a model of a few million
parameters and open-ended enough that held-out instances were never seen. `tasks("train", 100, seed=1)` draws from all.
"""

from __future__ import annotations

from llama3.posttraining.tasks import arithmetic, functions, lists, strings
from llama3.posttraining.tasks.task import (
    FILE_HELD_OUT_ONE_IN,
    Check,
    Custom,
    Exact,
    Family,
    NotEnoughTasks,
    Split,
    Task,
    UnitTests,
    generate,
    prompt_digest,
    split_of,
    split_of_prompt,
)

FAMILIES: tuple[Family, ...] = (
    *arithmetic.FAMILIES,
    *strings.FAMILIES,
    *lists.FAMILIES,
    *functions.FAMILIES,
)


def tasks(split: Split, count: int, seed: int) -> list[Task]:
    """`count` distinct tasks of `split` from all families in turn; the same arguments give the same tasks."""
    return generate(FAMILIES, split, count, seed)


__all__ = [
    "FAMILIES",
    "FILE_HELD_OUT_ONE_IN",
    "Check",
    "Custom",
    "Exact",
    "Family",
    "NotEnoughTasks",
    "Split",
    "Task",
    "UnitTests",
    "generate",
    "prompt_digest",
    "split_of",
    "split_of_prompt",
    "tasks",
]
