"""What authors of rewards need (hook `llama3_rewards`). Stable: names go only with a new version of the protocols.

Importing this module does not import torch; the names that score with a model do, when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from llama3.posttraining.examples import DialogExample, answer_example, dialog_example
from llama3.tasks import (
    Check,
    Custom,
    Exact,
    NotEnoughTasks,
    Split,
    Task,
    UnitTests,
    families,
    prompt_digest,
    split_of_prompt,
)
from llama3.tasks.contradictions import contradictions, told_contradictions
from llama3.tasks.extraction import extract, extract_code
from llama3.tasks.rewards import Example, Reward, TaskReward
from llama3.tasks.sandbox import Limits, Program, run_programs
from llama3.tasks.user_data import Line, by_split, read_lines
from llama3.tokenizer import Tokenizer

if TYPE_CHECKING:
    from llama3.checkpoints.load import load_model
    from llama3.model.device import device_of
    from llama3.model.score import score
    from llama3.posttraining.packing import pack_rankings
    from llama3.training.microbatch import cut

__all__ = [
    "Check",
    "Custom",
    "DialogExample",
    "Exact",
    "Example",
    "Limits",
    "Line",
    "NotEnoughTasks",
    "Program",
    "Reward",
    "Split",
    "Task",
    "TaskReward",
    "Tokenizer",
    "UnitTests",
    "answer_example",
    "by_split",
    "contradictions",
    "cut",
    "device_of",
    "dialog_example",
    "extract",
    "extract_code",
    "families",
    "load_model",
    "pack_rankings",
    "prompt_digest",
    "read_lines",
    "run_programs",
    "score",
    "split_of_prompt",
    "told_contradictions",
]

_HOMES = {
    "load_model": "llama3.checkpoints.load",
    "device_of": "llama3.model.device",
    "score": "llama3.model.score",
    "pack_rankings": "llama3.posttraining.packing",
    "cut": "llama3.training.microbatch",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
