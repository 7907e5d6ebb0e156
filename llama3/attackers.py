"""What authors of attackers need (hook `llama3_attackers`). Stable: names go only with a new version of the protocols.

Importing this module does not import torch, so that options can use it; the names that ask a model do, when they are
first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from llama3.evaluation.safety_rows import SafetyPrompt, parse_prompts, read_prompts
from llama3.evaluation.served import ServedChat
from llama3.guarding.disguises import DISGUISES, disguised
from llama3.redteam.attack import Attack, Attacker, AttackRequest, Wording, bare
from llama3.safety.guard import Turn
from llama3.safety.planted import CARRIERS, Carrier, plant
from llama3.safety.refusals import judge

if TYPE_CHECKING:
    from llama3.evaluation.answers import drawn_of
    from llama3.inference.llama import Llama, load

__all__ = [
    "CARRIERS",
    "DISGUISES",
    "Attack",
    "AttackRequest",
    "Attacker",
    "Carrier",
    "Llama",
    "SafetyPrompt",
    "ServedChat",
    "Turn",
    "Wording",
    "bare",
    "disguised",
    "drawn_of",
    "judge",
    "load",
    "parse_prompts",
    "plant",
    "read_prompts",
]

_HOMES = {
    "drawn_of": "llama3.evaluation.answers",
    "Llama": "llama3.inference.llama",
    "load": "llama3.inference.llama",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
