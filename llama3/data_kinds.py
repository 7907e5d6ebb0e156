"""What authors of kinds of data need (hook `llama3_data_kinds`). Stable: names go only with a new version of the
protocols.

A kind imports without torch, and so does this module; what packs batches imports it when it is first used, which
belongs inside `collate` and `toy`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from llama3.posttraining.examples import AnswerTokens, DialogExample, answer_example, dialog_example, prompt_ids
from llama3.tasks import Custom, Task, prompt_digest
from llama3.tasks.data_kind import DataKind, Message, Row, UserRow, Writer
from llama3.tasks.user_rows import OF_EVERY_KIND, as_prompt, read_answer, read_messages, read_prompt
from llama3.tokenizer import Tokenizer

if TYPE_CHECKING:
    from llama3.model.batch import Batch, Segment, Tree
    from llama3.posttraining.packing import pack_answers, pack_rankings

__all__ = [
    "OF_EVERY_KIND",
    "AnswerTokens",
    "Batch",
    "Custom",
    "DataKind",
    "DialogExample",
    "Message",
    "Row",
    "Segment",
    "Task",
    "Tokenizer",
    "Tree",
    "UserRow",
    "Writer",
    "answer_example",
    "as_prompt",
    "dialog_example",
    "pack_answers",
    "pack_rankings",
    "prompt_digest",
    "prompt_ids",
    "read_answer",
    "read_messages",
    "read_prompt",
]

_HOMES = {
    "Batch": "llama3.model.batch",
    "Segment": "llama3.model.batch",
    "Tree": "llama3.model.batch",
    "pack_answers": "llama3.posttraining.packing",
    "pack_rankings": "llama3.posttraining.packing",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
