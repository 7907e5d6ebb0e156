"""What the guards of a stage decided together."""

from __future__ import annotations

from dataclasses import dataclass

from llama3.errors import GuardBlocked
from llama3.safety.guard import Action, Verdict, severity
from llama3.safety.redaction import Ranges

REFUSED = GuardBlocked.declare(
    "L3-SAF-020",
    "the text was refused",
    why="{reasons}",
    fix="rephrase the text, or change safety.policy if it should pass",
)


@dataclass(frozen=True, slots=True)
class Decision:
    """The composed action of one stage and the verdicts behind it."""

    stage: str
    action: Action
    verdicts: tuple[Verdict, ...] = ()
    text: str = ""
    """What may pass: the text that was judged, without what is to be redacted."""
    marked: Ranges = ()
    """The characters of the judged text that are redacted in `text`."""

    @property
    def blocked(self) -> bool:
        """Whether the text must not pass (`review` waits for a human, so it does not pass either)."""
        return severity(self.action) >= severity("review")

    def raise_if_blocked(self) -> None:
        """Raises GuardBlocked with the reason of every guard that objected."""
        if not self.blocked:
            return
        reasons = "; ".join(f"{v.guard}: {v.reason}" for v in self.verdicts if severity(v.action) >= severity("review"))
        raise REFUSED(f"{self.stage} guard", reasons=reasons)
