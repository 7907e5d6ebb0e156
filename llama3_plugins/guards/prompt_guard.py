"""A prompt guard that was trained: one probability of an attack, with thresholds by whose text it is."""

from __future__ import annotations

from llama3.guards import Action, GuardInput, PromptGuardModel, Span, Verdict
from llama3_plugins.guards.options import PromptGuardOptions

CATEGORY = "prompt_attack"


class PromptGuard:
    """Blocks at the threshold; what a tool or a page says has one of its own. `llama3 guard train` makes its model."""

    def __init__(self, options: PromptGuardOptions) -> None:
        self.options = options

    def open(self) -> None:
        """Load the model. Raises CheckpointError and ArtifactError where it is none, or damaged."""
        self._model = PromptGuardModel.load(self.options.model, self.options.device)
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
            categories={CATEGORY: found.p},
            spans=(Span(start=found.start, end=found.end, category=CATEGORY),) if blocked else (),
            reason=f"looks like a prompt attack (p = {found.p:.4f})" if blocked else "",
            version=self._model.version,
        )
