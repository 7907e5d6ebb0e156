"""What authors of guards need (hook `llama3_guards`). Torch-free. Stable: names go only with a new version of the
protocols.
"""

from __future__ import annotations

from llama3.safety.guard import Action, Guard, GuardInput, Span, Turn, Verdict
from llama3.safety.normalise import Normalised, normalise

__all__ = [
    "Action",
    "Guard",
    "GuardInput",
    "Normalised",
    "Span",
    "Turn",
    "Verdict",
    "normalise",
]
