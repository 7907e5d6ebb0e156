"""Tasks: questions whose answers can be checked, what checks them, and the user's own rows.

task.py says what a task is and keeps training and held-out instances apart; families/ generates some from seeds.
rewards.py scores answers, extraction.py finds the answer in them, sandbox.py runs the code that they hold. user_rows.py
and user_data.py read a user's own file.
"""

from __future__ import annotations

from llama3.tasks.task import (
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

__all__ = [
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
]
