"""What a capability recipe makes. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Turns = Sequence[Mapping[str, str]]
"""Messages of a dialog, as role (system, user, assistant, tool, ipython) and content."""


@dataclass(frozen=True, slots=True)
class Made:
    """A dialog that a recipe made, to be learnt or not.

    What the assistant says in every turn is learnt, but in messages of `weight` 0.
    """

    messages: Sequence[Mapping[str, Any]]
    """The last one is the assistant's where the dialog is kept."""
    kept: bool
    """Whether it was verified. What was not is told and counted, and never learnt."""
    reason: str
    """A few words that are counted: what proved it ("passed", "corrected") or why it was dropped ("no_code")."""
    category: str = ""
    """What the data table tells it under; default: the recipe's name."""
    rejected: str = ""
    """A worse last answer: with the one that stands there it is a preference, which the round learns too."""
    steps: tuple[tuple[str, str], ...] = ()
    """Beginnings of an answer to `messages[:-1]`, the better one first: a reward model of the round learns to tell them
    apart, also where the dialog itself is not kept; the preference stage does not see them."""
