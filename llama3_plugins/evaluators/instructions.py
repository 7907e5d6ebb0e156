"""Instructions about the form of an answer that a program can check, in the spirit of IFEval (arXiv 2311.07911).

Each kind makes a constraint from a random number generator and checks an answer against it strictly: outer white space
is removed, nothing else is forgiven. The same seed gives the same instructions.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from dataclasses import dataclass

from llama3.evaluators import is_repetitive

Check = Callable[[str], bool]

TOPICS = (
    "the sea", "a small town in winter", "bread", "bicycles", "the moon", "a rainy day", "coffee", "trains", "a cat",
    "mountains", "libraries", "the color blue", "a garden in spring", "music", "bridges", "the number seven", "honey",
    "a long walk", "windows", "clouds", "a market on Saturday", "chess", "old maps", "fire", "a good breakfast",
)  # fmt: skip
REQUESTS = ("Write something about {}.", "Describe {}.", "Tell me about {}.", "Say something kind about {}.")
KEYWORDS = ("lantern", "quiet", "silver", "river", "morning", "paper", "seven", "garden", "window", "stone")
KEYS = ("name", "color", "size", "place", "year", "taste", "sound", "use")
OPENINGS = ("To begin with,", "In my view,", "Here is my answer:", "Well,")
ENDINGS = ("That is all.", "Thank you for asking.", "The end.", "I hope this helps.")


@dataclass(frozen=True, slots=True)
class Instruction:
    """A prompt and the check of its answer."""

    id: str
    kind: str
    prompt: str
    check: Check

    def followed(self, answer: str) -> bool:
        """Whether the answer has the asked form and says something, once."""
        text = answer.strip()
        return any(map(str.isalpha, text)) and not is_repetitive(text) and self.check(text)


def exact_words(rng: random.Random) -> tuple[str, Check]:
    count = rng.randint(3, 9)
    return f"Answer in exactly {count} words.", lambda text: len(text.split()) == count


def few_words(rng: random.Random) -> tuple[str, Check]:
    count = rng.choice((8, 10, 12, 15, 20))
    return f"Use at most {count} words.", lambda text: len(text.split()) <= count


def json_object(rng: random.Random) -> tuple[str, Check]:
    keys = rng.sample(KEYS, 2)
    names = f'"{keys[0]}" and "{keys[1]}"'
    return f"Answer with a JSON object that has exactly the keys {names}, and nothing else.", lambda text: _has_keys(
        text, set(keys)
    )


def bullets(rng: random.Random) -> tuple[str, Check]:
    count = rng.randint(2, 5)
    return (
        f'Answer with exactly {count} bullet points and nothing else. Begin each line with "- ".',
        lambda text: [bool(re.match(r"- \S", line)) for line in text.splitlines()] == [True] * count,
    )


def numbered(rng: random.Random) -> tuple[str, Check]:
    count = rng.randint(2, 5)
    return (
        f"Answer with exactly {count} numbered lines and nothing else. Begin them with 1. and 2. and so on.",
        lambda text: [line.split(" ")[0] for line in text.splitlines()] == [f"{i}." for i in range(1, count + 1)],
    )


def upper_case(rng: random.Random) -> tuple[str, Check]:
    return "Write in capital letters only.", str.isupper


def lower_case(rng: random.Random) -> tuple[str, Check]:
    return "Write in small letters only, without any capital letter.", str.islower


def keyword(rng: random.Random) -> tuple[str, Check]:
    word = rng.choice(KEYWORDS)
    return f'Use the word "{word}".', lambda text: _count(word, text) >= 1


def two_keywords(rng: random.Random) -> tuple[str, Check]:
    words = rng.sample(KEYWORDS, 2)
    return (
        f'Use both the word "{words[0]}" and the word "{words[1]}".',
        lambda text: all(_count(word, text) for word in words),
    )


def no_commas(rng: random.Random) -> tuple[str, Check]:
    return "Write at least five words and use no comma.", lambda text: "," not in text and len(text.split()) >= 5


def opening(rng: random.Random) -> tuple[str, Check]:
    phrase = rng.choice(OPENINGS)
    return (
        f'Begin your answer with "{phrase}" and go on from there.',
        lambda text: text.startswith(phrase) and len(text) > len(phrase) + 1,
    )


def ending(rng: random.Random) -> tuple[str, Check]:
    phrase = rng.choice(ENDINGS)
    return (
        f'Be brief and end your answer with "{phrase}"',
        lambda text: text.endswith(phrase) and len(text) > len(phrase) + 1,
    )


def quoted(rng: random.Random) -> tuple[str, Check]:
    return "Be brief and put your whole answer between double quotation marks.", lambda text: bool(
        re.fullmatch(r'"[^"]+"', text)
    )


def one_sentence(rng: random.Random) -> tuple[str, Check]:
    return "Answer in one sentence that ends with an exclamation mark.", lambda text: bool(
        re.fullmatch(r"[^.!?\n]+!", text)
    )


KINDS = {
    make.__name__: make
    for make in (
        exact_words, few_words, json_object, bullets, numbered, upper_case, lower_case, keyword, two_keywords,
        no_commas, opening, ending, quoted, one_sentence,
    )
}  # fmt: skip


def instructions(count: int, seed: int) -> list[Instruction]:
    """`count` instructions, all prompts distinct, the kinds in turn."""
    rng = random.Random(f"instructions/{seed}")
    made: dict[str, Instruction] = {}
    while len(made) < count:
        kind = list(KINDS)[len(made) % len(KINDS)]
        constraint, check = KINDS[kind](rng)
        prompt = f"{rng.choice(REQUESTS).format(rng.choice(TOPICS))} {constraint}"
        made.setdefault(prompt, Instruction(f"{kind}-{len(made)}", kind, prompt, check))
    return list(made.values())


def _count(word: str, text: str) -> int:
    return len(re.findall(rf"\b{word}\b", text, re.IGNORECASE))


def _has_keys(text: str, keys: set[str]) -> bool:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict) and set(value) == keys
