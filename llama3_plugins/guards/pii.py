"""Personal data and secrets in texts, redacted by default; no model. llama3_plugins.guards.personal_data says what
counts, secrets what a key or token is."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from llama3.guards import GuardInput, Verdict
from llama3_plugins.guards.marks import Mark, verdict_of
from llama3_plugins.guards.personal_data import KINDS, Kind, personal_data


def _as_written(value: Any) -> Any:
    """YAML reads a plain `off` as false."""
    return "off" if value is False else value


Handling = Annotated[Literal["off", "flag", "redact", "review", "block"], BeforeValidator(_as_written)]


class PiiOptions(BaseModel):
    """Options of the guard: what is done with each kind. `off` does not look for it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    email: Handling = Field("redact", description="e-mail addresses: off, flag, redact, review or block")
    phone: Handling = Field("redact", description="phone numbers")
    card: Handling = Field("redact", description="numbers of payment cards, by issuer, length and Luhn's check digit")
    iban: Handling = Field("redact", description="bank accounts (IBAN), by length and check digits")
    ip: Handling = Field("redact", description="public IP addresses")
    secret: Handling = Field("redact", description="keys, tokens and passwords")


class PiiGuard:
    """Marks personal data by kind."""

    def __init__(self, options: PiiOptions) -> None:
        self.handling: dict[Kind, Handling] = {kind: getattr(options, kind) for kind in KINDS}
        self._kinds = frozenset(kind for kind, handling in self.handling.items() if handling != "off")

    async def open(self) -> None:
        """Nothing to load."""

    async def close(self) -> None:
        """Nothing to release."""

    async def check(self, x: GuardInput) -> Verdict:
        return verdict_of(x, self._marks(x.text), KINDS, version="1")

    def _marks(self, text: str) -> list[Mark]:
        marks: list[Mark] = []
        for datum in personal_data(text, self._kinds):
            action = self.handling[datum.kind]
            if action != "off":
                marks.append(Mark(datum.start, datum.end, datum.kind, action, datum.grows))
        return marks
