"""What authors of capability recipes need (hook `llama3_capabilities`). Stable: names go only with a new version of the
protocols.

Importing this module does not import torch; the names that read tool calls do, when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from llama3.making.made import Made, Turns
from llama3.making.protocol import Capability
from llama3.making.verdicts import points, verdict
from llama3.making.voices import Reply
from llama3.making.workshop import Passage, Workshop
from llama3.safety.refusals import is_garbage, is_repetitive, judge
from llama3.synthesis.tasks import PAIR, asked, passages
from llama3.tasks import Task
from llama3.tasks.extraction import extract, extract_code
from llama3.tasks.sandbox import Limits, Ran, Script
from llama3.tokenizer.messages import Message

if TYPE_CHECKING:
    from llama3.serving.tools import BETWEEN, CallReader, FunctionCall, with_tools

__all__ = [
    "BETWEEN",
    "PAIR",
    "CallReader",
    "Capability",
    "FunctionCall",
    "Limits",
    "Made",
    "Message",
    "Passage",
    "Ran",
    "Reply",
    "Script",
    "Task",
    "Turns",
    "Workshop",
    "asked",
    "extract",
    "extract_code",
    "is_garbage",
    "is_repetitive",
    "judge",
    "passages",
    "points",
    "verdict",
    "with_tools",
]

_HOMES = dict.fromkeys(("BETWEEN", "CallReader", "FunctionCall", "with_tools"), "llama3.serving.tools")


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
