"""Small classifiers that were trained: one probability, with thresholds by whose text it is."""

from __future__ import annotations

from typing import ClassVar, Literal

from llama3.guards import Action, GuardInput, PromptGuardModel, Span, Verdict
from llama3_plugins.guards.options import PromptGuardOptions


class PromptGuard:
    """Blocks at the threshold; what a tool or a page says has one of its own. `llama3 guard train` makes its model."""

    kind: ClassVar[Literal["prompt_guard", "toxicity"]] = "prompt_guard"
    category: ClassVar[str] = "prompt_attack"
    reason: ClassVar[str] = "looks like a prompt attack"

    def __init__(self, options: PromptGuardOptions) -> None:
        self.options = options

    def open(self) -> None:
        """Load the model. Raises CheckpointError and ArtifactError where it is none, or damaged."""
        self._model = PromptGuardModel.load(self.options.model, self.options.device, self.kind)
        given = {"user": self.options.user, "third_party": self.options.third_party}
        trained = self._model.settings.thresholds.items()
        self._thresholds = {trust: level for trust, level in (*trained, *given.items()) if level is not None}

    def close(self) -> None:
        """Nothing to release."""

    def check(self, x: GuardInput) -> Verdict:
        (found,) = self._model.scores([x.text])
        threshold = self._thresholds["third_party" if x.trust == "third_party" else "user"]
        action: Action = "block" if found.p >= threshold else "allow"
        blocked = action == "block"
        return Verdict(
            action=action,
            p=found.p,
            categories={self.category: found.p},
            spans=(Span(start=found.start, end=found.end, category=self.category),) if blocked else (),
            reason=f"{self.reason} (p = {found.p:.4f})" if blocked else "",
            version=self._model.version,
        )


class ToxicityGuard(PromptGuard):
    """The same for insults, threats, hate and obscene words; what a model wrote counts as a user's text."""

    kind = "toxicity"
    category = "toxicity"
    reason = "looks toxic"
