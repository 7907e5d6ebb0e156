"""The built-in families of tasks: arithmetic, strings, lists and Python functions.

They are small enough for a model of a few million parameters and open-ended enough that held-out instances were never
seen. `tasks("train", 100, seed=1)` draws from all.
"""

from __future__ import annotations

from llama3.tasks.families import arithmetic, functions, lists, strings
from llama3.tasks.task import Family, Split, Task, generate

FAMILIES: tuple[Family, ...] = (
    *arithmetic.FAMILIES,
    *strings.FAMILIES,
    *lists.FAMILIES,
    *functions.FAMILIES,
)


def tasks(split: Split, count: int, seed: int) -> list[Task]:
    """`count` distinct tasks of `split` from all families in turn; the same arguments give the same tasks."""
    return generate(FAMILIES, split, count, seed)
