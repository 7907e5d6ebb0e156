"""What authors of guards need (hook `llama3_guards`). Stable: names go only with a new version of the protocols.

Importing this module does not import torch; the models that guards may be do, when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from llama3.guarding.batcher import Batcher
from llama3.safety.calls import argument_language, code_texts
from llama3.safety.fences import Fence
from llama3.safety.guard import Action, Guard, GuardInput, Span, Turn, Verdict
from llama3.safety.normalise import Normalised, normalise

if TYPE_CHECKING:
    from llama3.evaluation.served_judge import ServedModel
    from llama3.guarding.prompt_model import PromptGuardModel
    from llama3.guarding.taught_model import Hazard, LlamaGuardModel

__all__ = [
    "Action",
    "Batcher",
    "Fence",
    "Guard",
    "GuardInput",
    "Hazard",
    "LlamaGuardModel",
    "Normalised",
    "PromptGuardModel",
    "ServedModel",
    "Span",
    "Turn",
    "Verdict",
    "argument_language",
    "code_texts",
    "normalise",
]

_HOMES = {
    "ServedModel": "llama3.evaluation.served_judge",
    "PromptGuardModel": "llama3.guarding.prompt_model",
    "Hazard": "llama3.guarding.taught_model",
    "LlamaGuardModel": "llama3.guarding.taught_model",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
