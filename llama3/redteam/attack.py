"""An attack, what its writer is asked for, and the protocol of writers (`llama3_attackers`)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from llama3.evaluation.safety_rows import SafetyPrompt
from llama3.safety.guard import Turn


class Wording(NamedTuple):
    """The text of a request after a style was put on it; the first of a chain has the style ``""``: as it was given."""

    style: str
    text: str


@dataclass(frozen=True, slots=True)
class Attack:
    """What is put to the target, and how it came about.

    `steps`: messages that are put in turn, each group ending with one that the target answers. `chain`: the wordings of
    the request, each a style more than the one before, without a structure around the last. `mark`: what an answer must
    hold to count as a violation, for attacks that somebody else's text carries (see llama3.safety.planted).
    """

    chain: tuple[Wording, ...]
    steps: tuple[tuple[Turn, ...], ...]
    mark: str = ""

    @property
    def text(self) -> str:
        """The request as it is worded now."""
        return self.chain[-1].text

    @property
    def styles(self) -> tuple[str, ...]:
        """The styles that were put on the text."""
        return tuple(wording.style for wording in self.chain if wording.style)

    def before(self, style: str) -> Attack:
        """The attack as it was before a style was put on its text; without any structure around the text."""
        at = next((number for number, wording in enumerate(self.chain) if wording.style == style), len(self.chain))
        return Attack(self.chain[:at], ())


@dataclass(frozen=True, slots=True)
class AttackRequest:
    """One attack that is asked for. The same request is answered by the same attack.

    `parent`: the elite that is to be varied, or the bare seed. `answer`: what the target said to it, empty where it was
    not asked yet or a guard took it. `examples`: requests in this style that worked elsewhere. `seed`: for choices.
    """

    prompt: SafetyPrompt
    style: str
    parent: Attack
    answer: str
    examples: tuple[str, ...]
    seed: int


class Attacker(Protocol):
    """Built by `factory(options)`. It may be asked for any of its styles, for any prompt."""

    styles: Sequence[str]
    """Names of what it can write, of a-z, 0-9 and _: the columns of the coverage map."""

    def seeds(self) -> Sequence[SafetyPrompt]:
        """Prompts to begin with where the user gives none. Rows of other kinds than `adversarial` are their twins."""
        return ()

    def write(self, requests: Sequence[AttackRequest]) -> list[Attack | None]:
        """One attack for each request, in its style; None where it could not be written, which counts as a try."""
        ...


def bare(prompt: SafetyPrompt) -> Attack:
    """A seed as an attack without any style."""
    return Attack((Wording("", prompt.turns[-1].content),), (prompt.turns,))


def fingerprint(attack: Attack) -> str:
    """The same for attacks that say the same to the target."""
    said = json.dumps([turns_to_json(step) for step in attack.steps])
    return hashlib.sha256(said.encode()).hexdigest()[:16]


def chain_to_json(chain: Sequence[Wording]) -> list[list[str]]:
    """As a journal holds it."""
    return [list(wording) for wording in chain]


def chain_of(rows: Sequence[Sequence[str]]) -> tuple[Wording, ...]:
    """What `chain_to_json` wrote."""
    return tuple(Wording(str(style), str(text)) for style, text in rows)


def turns_to_json(turns: Sequence[Turn]) -> list[Mapping[str, Any]]:
    """As rows hold them."""
    return [{"role": turn.role, "content": turn.content} for turn in turns]
