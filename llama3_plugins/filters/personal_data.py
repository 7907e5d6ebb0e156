"""Personal data and secrets in documents: dropped, masked or kept, by kind; every span is written down. What counts is
what the guard `pii` finds (llama3_plugins.guards.personal_data).

Only documents that show signs of a kind are searched for it, and only those where it was found are searched again to
mask it. Letters: D documents of a batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from llama3.filters import DocumentBatch, Edits, Judgement
from llama3_plugins.filters.limits import Bound, judge_measures, of_kind
from llama3_plugins.guards.personal_data import KINDS, Kind, PersonalDatum, personal_data

Policy = Literal["drop", "mask", "keep"]


class PersonalDataOptions(BaseModel):
    """What is done with each kind: the document goes, the span is masked, or all stays. All are counted."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    email: Policy = Field("mask", description="e-mail addresses")
    phone: Policy = Field("mask", description="phone numbers")
    card: Policy = Field("drop", description="numbers of payment cards, by issuer, length and Luhn's check digit")
    iban: Policy = Field("mask", description="bank accounts (IBAN), by length and check digits")
    ip: Policy = Field("mask", description="public IP addresses")
    secret: Policy = Field("mask", description="keys, tokens and passwords")


class PersonalData:
    """Counts personal data by kind, and masks it in documents that stay."""

    private = True
    features = frozenset(f"{kind}_signs" for kind in KINDS)
    measures = tuple(KINDS)

    def __init__(self, options: PersonalDataOptions) -> None:
        self.policy: dict[Kind, Policy] = {kind: getattr(options, kind) for kind in KINDS}

    def measure(self, batch: DocumentBatch) -> Mapping[str, np.ndarray]:
        counts: dict[str, np.ndarray] = {kind: np.zeros(len(batch)) for kind in KINDS}
        for d, _, found in self._found(batch, {kind: batch.features[f"{kind}_signs"] > 0 for kind in KINDS}):
            for datum in found:
                counts[datum.kind][d] += 1
        return counts

    def judge(self, batch: DocumentBatch) -> Judgement:
        limits: dict[str, Bound] = {kind: Bound(max=0) for kind, policy in self.policy.items() if policy == "drop"}
        return judge_measures("personal_data", limits, batch, of_kind(batch, "prose", "code"))

    def edits(self, batch: DocumentBatch) -> Edits:
        masked = [kind for kind, policy in self.policy.items() if policy == "mask"]
        counted = {kind: batch.features[f"personal_data.{kind}"] > 0 for kind in masked}
        rows: list[tuple[int, int, int, str]] = []
        for d, text, found in self._found(batch, counted):
            byte = _bytes_before(text)
            rows += [(d, byte[datum.start], byte[datum.end], datum.kind) for datum in found]
        places_E3 = np.array([row[:3] for row in rows], np.int64).reshape(-1, 3)
        kinds = [kind for *_, kind in rows]
        document_E, start_E, end_E = places_E3.T
        return Edits(document_E, start_E, end_E, kinds, [f"[{kind}]" for kind in kinds])

    def _found(
        self, batch: DocumentBatch, may_have: Mapping[Kind, np.ndarray]
    ) -> Iterator[tuple[int, str, list[PersonalDatum]]]:
        """(number, text, what was found) of the documents that may have something; each is searched for that alone."""
        any_D = np.logical_or.reduce([np.zeros(len(batch), bool), *may_have.values()])
        texts = batch.records.column("text")
        for d in map(int, np.flatnonzero(any_D & of_kind(batch, "prose", "code"))):
            text: str = texts[d].as_py()
            found = _each_once(personal_data(text, frozenset(kind for kind, has_D in may_have.items() if has_D[d])))
            if found:
                yield d, text, found


def _each_once(found: Iterable[PersonalDatum]) -> list[PersonalDatum]:
    """Of those of one kind that overlap the first, then the longest."""
    once: list[PersonalDatum] = []
    for datum in sorted(found, key=lambda datum: (datum.kind, datum.start, -datum.end)):
        if not once or once[-1].kind != datum.kind or once[-1].end <= datum.start:
            once.append(datum)
    return once


def _bytes_before(text: str) -> np.ndarray:
    """Bytes before each character, and of the whole, int64 [characters + 1]."""
    code = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    size = 1 + (code > 0x7F) + (code > 0x7FF).astype(np.int64) + (code > 0xFFFF)
    return np.concatenate([[0], np.cumsum(size)])
