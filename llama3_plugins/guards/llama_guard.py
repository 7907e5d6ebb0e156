"""A language model as a guard, asked as Llama Guard 3 is: a probability of a violation, and of each category.

A category may have a threshold of its own; all others count together, against the common one. One that is switched off
is not in the prompt, the others keep their numbers, and what the model finds of it is no violation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from llama3.errors import ConfigError
from llama3.guards import Batcher, GuardInput, LlamaGuardModel, Turn, Verdict
from llama3_plugins.guards.options import LlamaGuardOptions

if TYPE_CHECKING:
    from llama3.guards import Hazard

UNKNOWN_CATEGORY = ConfigError.declare(
    "L3-GRD-060", "the guard knows no category {name!r}", fix="use some of {known}, or give a taxonomy that has it"
)
ALL_OFF = ConfigError.declare("L3-GRD-061", "all categories are switched off", fix="leave one on, or the guard out")

_ROLES = ("user", "assistant")
"""Messages that the guard sees. What a system message says is no part of what is judged."""


class LlamaGuard:
    """Judges what users ask, what tools bring and what the model answers, in the light of the turns before."""

    at_once = 8
    """Each of them waits for all: more would hardly be faster."""

    def __init__(self, options: LlamaGuardOptions) -> None:
        self.options = options

    def open(self) -> None:
        """Load the model. Raises ConfigError for categories that it does not know."""
        self._model = LlamaGuardModel.load(self.options.model, self.options.taxonomy, self.options.device)
        taxonomy, chosen = self._model.taxonomy, self.options.categories
        self._threshold = self._model.threshold if self.options.threshold is None else self.options.threshold
        if problems := [
            UNKNOWN_CATEGORY.problem("guard llama_guard", name=name, known=list(taxonomy))
            for name in chosen
            if name not in taxonomy
        ]:
            raise ConfigError.of(problems)
        self._enabled = {number: name for number, name in taxonomy.items() if chosen.get(number, True) is not False}
        if not self._enabled:
            raise ALL_OFF("guard llama_guard")
        # Texts that wait are judged together: what all prompts begin with is computed once.
        self._batcher: Batcher[Sequence[Turn], Hazard] = Batcher(self._weigh)
        self._own = {
            number: float(level)
            for number, level in chosen.items()
            if not isinstance(level, bool) and number in self._enabled
        }

    def close(self) -> None:
        """Nothing to release."""

    def _weigh(self, dialogs: Sequence[Sequence[Turn]]) -> Sequence[Hazard]:
        return self._model.weigh(dialogs, self._enabled)

    async def check(self, x: GuardInput) -> Verdict:
        if not x.text.strip():
            return Verdict(action="allow", p=0.0, categories=dict.fromkeys(self._enabled, 0.0))
        found = (await self._batcher.ask(self._turns(x))).verdict()
        common = sum(p for number, p in found.categories.items() if number not in self._own)
        violated = [number for number, level in self._own.items() if found.categories[number] >= level]
        if common >= self._threshold:
            others = [number for number in self._enabled if number not in self._own]
            violated.append(max(others, key=lambda number: found.categories[number], default=""))
        named = [f"{number} {self._enabled[number]}" for number in violated if number]
        return Verdict(
            action="block" if violated else "allow",
            p=found.p,
            categories=found.categories,
            reason=f"{', '.join(named)} (p = {found.p:.2f})" if violated else "",
            version="1",
        )

    def _turns(self, x: GuardInput) -> Sequence[Turn]:
        """The turns before and the text itself, which the model wrote at its own stages and a user at all others."""
        role = "assistant" if x.trust == "model" else "user"
        return [*(turn for turn in x.trace if turn.role in _ROLES and turn.content.strip()), Turn(role, x.text)]
