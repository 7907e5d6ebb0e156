"""Rules about every answer of a dialog that a program can check: length, format, tone and persona."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from llama3_plugins.capabilities.options import RuleKind

_FIRST_PERSON = re.compile(r"\b(?:I|me|my|mine|myself)\b|\bI'", re.IGNORECASE)
_SENTENCE = re.compile(r"[.!?]+(?=\s|$)")


@dataclass(frozen=True, slots=True)
class Rule:
    """A sentence of a system prompt and the check that an answer obeys it. Two rules about one `part` of an answer
    cannot both be obeyed: its `whole`, its `start`, its `end`, its `length`, or its `words`."""

    kind: RuleKind
    part: Literal["whole", "start", "end", "length", "words"]
    told: str
    check: Callable[[str], bool]

    def obeyed(self, answer: str) -> bool:
        """Outer white space is nothing; nothing else is forgiven."""
        return self.check(answer.strip())


def _few_words(rng: random.Random) -> Rule:
    most = rng.choice((12, 20, 30, 45))
    return Rule("length", "length", f"Never use more than {most} words.", lambda text: len(text.split()) <= most)


def _sentences(rng: random.Random) -> Rule:
    most = rng.choice((1, 2, 3))
    told = "Answer in a single sentence." if most == 1 else f"Answer in {most} sentences at most."
    return Rule("length", "length", told, lambda text: len(_SENTENCE.findall(text)) <= most)


def _list(rng: random.Random) -> Rule:
    mark = rng.choice(("-", "*"))
    told = f'Every answer is a list, each line of which begins with "{mark} ".'
    return Rule("format", "whole", told, lambda text: all(line.startswith(f"{mark} ") for line in text.splitlines()))


def _object(rng: random.Random) -> Rule:
    key, other = rng.choice((("answer", "reason"), ("title", "text"), ("advice", "warning")))
    told = f'Every answer is one JSON object with the keys "{key}" and "{other}", and nothing else.'
    return Rule("format", "whole", told, lambda text: _keys(text) == {key, other})


def _small(rng: random.Random) -> Rule:
    return Rule("format", "whole", "Write in small letters only.", lambda text: text == text.lower())


def _no_comma(rng: random.Random) -> Rule:
    return Rule("format", "words", "Never write a comma.", lambda text: "," not in text)


def _opening(rng: random.Random) -> Rule:
    word = rng.choice(("Gladly", "Certainly", "Dear friend", "Good question"))
    return Rule("tone", "start", f'Begin every answer with the words "{word}".', lambda text: text.startswith(word))


def _no_sorry(rng: random.Random) -> Rule:
    told = "Never apologise, and never write an exclamation mark."
    return Rule(
        "tone", "words", told, lambda text: "!" not in text and not re.search(r"sorry|apolog", text, re.IGNORECASE)
    )


def _question(rng: random.Random) -> Rule:
    return Rule("tone", "end", "End every answer with a question.", lambda text: text.endswith("?"))


def _signed(rng: random.Random) -> Rule:
    name = rng.choice(("Nora", "Captain Reed", "Old Tom", "Ada"))
    told = f'Your name is {name}. Sign every answer: its last line is "- {name}".'
    return Rule("persona", "end", told, lambda text: text.splitlines()[-1:] == [f"- {name}"] and "\n" in text)


def _we(rng: random.Random) -> Rule:
    told = 'You speak for a whole team: say "we", never "I", "me" or "my".'
    return Rule("persona", "words", told, lambda text: not _FIRST_PERSON.search(text) and bool(_WE.search(text)))


_WE = re.compile(r"\b(?:we|us|our|ours)\b", re.IGNORECASE)
MAKERS: dict[RuleKind, tuple[Callable[[random.Random], Rule], ...]] = {
    "length": (_few_words, _sentences),
    "format": (_list, _object, _small, _no_comma),
    "tone": (_opening, _no_sorry, _question),
    "persona": (_signed, _we),
}


def draw(kinds: list[RuleKind], most: int, rng: random.Random) -> list[Rule]:
    """One to `most` rules of these kinds that can be obeyed together, of each kind one at most."""
    rules: list[Rule] = []
    for kind in rng.sample(kinds, min(len(kinds), rng.randint(1, most))):
        rule = rng.choice(MAKERS[kind])(rng)
        if all(_fit(rule, other) for other in rules):
            rules.append(rule)
    return rules


def _fit(one: Rule, other: Rule) -> bool:
    """Whether both can be obeyed. What forms the whole answer leaves nothing to form but how long it is."""
    parts = {one.part, other.part}
    return len(parts) == 2 and ("whole" not in parts or "length" in parts)


def _keys(text: str) -> set[str]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return set()
    return set(value) if isinstance(value, dict) else set()
