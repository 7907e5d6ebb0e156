"""Steerability (paper 4.3.7): what a system prompt asks for is held in every turn of a dialog, as code tells.

A dialog is learnt where every answer obeys every rule. The model plays the user too. While answers are drawn the rules
are said again with the last question, because a model that forgets them by the third turn is what is to be cured; what
is learnt has them in the system prompt alone.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from llama3.capabilities import Made, Reply, Workshop, is_garbage, judge
from llama3_plugins.capabilities.options import SteerabilityOptions
from llama3_plugins.capabilities.rules import Rule, draw
from llama3_plugins.capabilities.turns import assistant, firsts, user

ROLES = (
    ("an assistant that helps a busy family to plan its meals", "You plan the meals of your family."),
    ("a guide for visitors of a small town by the sea", "You visit a small town by the sea."),
    ("a librarian who helps people to find books", "You are looking for something to read."),
    ("a gardener who gives advice on plants", "You have a small garden."),
    ("a teacher of history", "You learn for a history lesson."),
    ("an assistant in a shop for bicycles", "You want to ride a bicycle to work."),
    ("a coach who helps people to move more", "You sit all day and want to move more."),
    ("a host who helps to prepare a party", "You prepare a birthday party."),
)
"""What an assistant is, and who talks to it."""
_PLAY = (
    "{situation} You talk to {role}.{before}\nWrite the one thing that you ask {next}. Write one short question and"
    " nothing else."
)
_AGAIN = "{prompt}\n(Remember: {rules})"
MOST_WORDS = 40
"""Of what a user asks."""


@dataclass(slots=True)
class _Dialog:
    role: str
    situation: str
    rules: list[Rule]
    turns: list[dict[str, str]] = field(default_factory=list)
    rejected: str = ""
    """An answer to the last question that breaks a rule."""
    reason: str = ""
    """Why it is dropped."""

    @property
    def system(self) -> dict[str, str]:
        told = " ".join(rule.told for rule in self.rules)
        return {"role": "system", "content": f"You are {self.role}. {told}"}

    def played(self) -> list[dict[str, str]]:
        """What the model is asked that plays the user."""
        said = "".join(f"\n{_WHO[turn['role']]}: {turn['content']}" for turn in self.turns)
        before = f"\nSo far:{said}" if said else ""
        text = _PLAY.format(situation=self.situation, role=self.role, before=before, next="next" if said else "first")
        return [user(text)]

    def reminded(self) -> list[dict[str, str]]:
        """The dialog as it is answered."""
        *before, last = self.turns
        rules = " ".join(rule.told for rule in self.rules)
        return [self.system, *before, user(_AGAIN.format(prompt=last["content"], rules=rules))]

    def fault(self, reply: Reply) -> str:
        """What is wrong with an answer; `breaks_KIND` where it is a rule that it breaks."""
        text = reply.text.strip()
        if not reply.ended or is_garbage(text):
            return "no_answer"
        if any(turn["content"] == text for turn in self.turns):
            return "repeats"
        return next((f"breaks_{rule.kind}" for rule in self.rules if not rule.obeyed(text)), "")


_WHO = {"user": "You", "assistant": "They"}


class Steerability:
    """A recipe: dialogs in which rules of the system prompt hold to the end."""

    def __init__(self, options: SteerabilityOptions) -> None:
        self.options = options

    def dialogs(self, shop: Workshop, count: int, seed: int) -> Iterator[Made]:
        """A dialog is dropped at its first turn to which no sample obeys all rules. An answer to the last question that
        breaks one is the worse answer of a preference."""
        rng = random.Random(f"steerability/{seed}")
        begun = [_Dialog(*rng.choice(ROLES), draw(self.options.kinds, self.options.rules, rng)) for _ in range(count)]
        for number in range(1, self.options.turns + 1):
            _ask(shop, [one for one in begun if not one.reason])
            self._answer(shop, [one for one in begun if not one.reason], number)
        for one in begun:
            category = "steerability/" + "+".join(sorted({rule.kind for rule in one.rules}))
            yield Made([one.system, *one.turns], not one.reason, one.reason or "obeyed", category, one.rejected)

    def _answer(self, shop: Workshop, going: Sequence[_Dialog], number: int) -> None:
        drawn = shop.ask([one.reminded() for one in going], samples=self.options.samples)
        for one, replies in zip(going, drawn, strict=True):
            faults = [one.fault(reply) for reply in replies]
            good = next((reply.text.strip() for reply, fault in zip(replies, faults, strict=True) if not fault), None)
            if good is None:
                one.reason = f"{faults[0]}_in_turn_{number}"
                continue
            broken = (r.text.strip() for r, fault in zip(replies, faults, strict=True) if fault.startswith("breaks_"))
            one.rejected = next(broken, "")
            one.turns.append(assistant(good))


def _ask(shop: Workshop, going: Sequence[_Dialog]) -> None:
    """The next question of every dialog, of the model in the place of the user."""
    questions = firsts(shop.ask([one.played() for one in going]))
    for one, question in zip(going, questions, strict=True):
        asked_before = any(turn["content"] == question for turn in one.turns)
        if asked_before or judge(question) != "answered" or "\n" in question or len(question.split()) > MOST_WORDS:
            one.reason = "no_question"
        else:
            one.turns.append(user(question))
