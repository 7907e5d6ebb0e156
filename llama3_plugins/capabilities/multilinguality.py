"""Multilinguality (paper 4.3.2): answers in the language and the script of the prompt, and translated reasoning.

Open questions are asked and answered in a language; of the answers that are written as their question is that one is
learnt which the reward models of the run like best, where there are any. Tasks of the run's rewards are translated,
because the language of such questions is simple; an answer to one is learnt where it passes as one to the original
would.

Early rounds draw at a random temperature, for variety; the last one draws at 0.6, because a hot model mixes languages.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

from llama3.capabilities import Made, Reply, Task, Workshop, is_repetitive
from llama3_plugins.capabilities.languages import NAMES, Wanted
from llama3_plugins.capabilities.options import MultilingualityOptions
from llama3_plugins.capabilities.turns import assistant, firsts, user

_THEMES = (
    "food", "the weather", "travel", "school", "health", "music", "animals", "work", "sports", "history", "cities",
    "plants", "the sea", "computers", "books", "money",
)  # fmt: skip
_WRITE = (
    "Write one question about {theme} that somebody might ask an assistant, in {language}. Write only the question."
)
_TRANSLATE = (
    "Translate the text below into {language}. Keep all numbers, names and quoted words as they are. Write only the"
    " translation.\n\n{text}"
)
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
HOT, LAST = (0.2, 1.0), 0.6
"""Temperatures of answers: of early rounds between these two, and of the last one."""


class Multilinguality:
    """A recipe: questions and tasks in other languages, with answers in the same."""

    def __init__(self, options: MultilingualityOptions) -> None:
        self.options = options

    def dialogs(self, shop: Workshop, count: int, seed: int) -> Iterator[Made]:
        """Of each prompt the best answer that is written as the prompt is. One that is not, is the worse answer of a
        preference."""
        kinds, languages = self.options.kinds, self.options.languages
        rng = random.Random(f"multilinguality/{seed}")
        places = [
            (kinds[place % len(kinds)], languages[place // len(kinds) % len(languages)]) for place in range(count)
        ]
        open_ones = [tag for kind, tag in places if kind == "questions"]
        translated = [tag for kind, tag in places if kind == "reasoning"]
        yield from self._questions(shop, open_ones, rng)
        yield from self._reasoning(shop, translated, rng)

    def _questions(self, shop: Workshop, tags: Sequence[str], rng: random.Random) -> Iterator[Made]:
        asked = [_WRITE.format(theme=rng.choice(_THEMES), language=NAMES[tag]) for tag in tags]
        written = firsts(shop.ask([[user(text)] for text in asked]))
        faults = [_odd(text, tag) for text, tag in zip(written, tags, strict=True)]
        prompts = [text for text, fault in zip(written, faults, strict=True) if not fault]
        drawn = iter(self._drawn(shop, prompts, rng))
        for text, tag, fault in zip(written, tags, faults, strict=True):
            category = f"multilinguality/{tag}"
            if fault:
                yield Made([user(text)], False, fault, category)
            else:
                yield _chosen(shop, text, Wanted.of_language(tag), next(drawn), category)

    def _reasoning(self, shop: Workshop, tags: Sequence[str], rng: random.Random) -> Iterator[Made]:
        tasks = [task for task in shop.tasks(len(tags), rng.randrange(1 << 30)) if not task.context]
        pairs = list(zip(tasks, tags, strict=False))
        asks = [_TRANSLATE.format(language=NAMES[tag], text=task.prompt) for task, tag in pairs]
        written = firsts(shop.ask([[user(text)] for text in asks], temperature=0.0))
        faults = [_odd(text, tag, task.prompt) for text, (task, tag) in zip(written, pairs, strict=True)]
        prompts = [text for text, fault in zip(written, faults, strict=True) if not fault]
        drawn = iter(self._drawn(shop, prompts, rng))
        for text, (task, tag), fault in zip(written, pairs, faults, strict=True):
            category = f"multilinguality/{tag}/reasoning"
            if fault:
                yield Made([user(text)], False, fault, category)
            else:
                yield _solved(shop, task, text, Wanted.of_language(tag), next(drawn), category)

    def _drawn(self, shop: Workshop, prompts: Sequence[str], rng: random.Random) -> list[list[Reply]]:
        """Answers to each prompt, each at a temperature of its own until the last round."""
        asked, samples = [[user(text)] for text in prompts], self.options.samples
        if shop.last:
            return shop.ask(asked, samples=samples, temperature=LAST)
        rows = [shop.ask(asked, temperature=round(rng.uniform(*HOT), 2)) for _ in range(samples)]
        return [[one for (one,) in column] for column in zip(*rows, strict=True)]


def _odd(text: str, tag: str, original: str = "") -> str:
    """Why a text is no prompt in this language; "" where it is one."""
    if not any(map(str.isalpha, text)) or "\n\n" in text or is_repetitive(text):
        return "no_question"
    if fault := Wanted.of_language(tag).fault(text):
        return f"prompt_in_{fault}"
    if original and Counter(_NUMBER.findall(text)) != Counter(_NUMBER.findall(original)):
        return "other_numbers"
    return ""


def _chosen(shop: Workshop, prompt: str, wanted: Wanted, replies: Sequence[Reply], category: str) -> Made:
    """The answer that the ranking rewards score highest, or the first one."""
    faults = [_fault(wanted, reply) if any(map(str.isalpha, reply.text)) else "no_answer" for reply in replies]
    good = [reply.text.strip() for reply, fault in zip(replies, faults, strict=True) if not fault]
    if not good:
        return Made([user(prompt), assistant(replies[0].text.strip())], False, faults[0], category)
    scored = shop.score([[user(prompt), assistant(text)] for text in good])
    scores = [-float("inf") if score is None else score for score in scored]
    best = good[max(range(len(good)), key=lambda place: (scores[place], -place))]
    return Made([user(prompt), assistant(best)], True, "same_language", category, _other(replies, faults))


def _solved(shop: Workshop, task: Task, prompt: str, wanted: Wanted, replies: Sequence[Reply], category: str) -> Made:
    """The first answer that is right and in the language."""
    texts = [reply.text.strip() for reply in replies]
    right = shop.passed([replace(task, prompt=prompt)] * len(texts), texts)
    faults = [_fault(wanted, reply) for reply in replies]
    for text, passed, fault in zip(texts, right, faults, strict=True):
        if passed and not fault:
            return Made([user(prompt), assistant(text)], True, "right_answer", category, _other(replies, faults))
    reason = next((fault for passed, fault in zip(right, faults, strict=True) if passed), "wrong_answer")
    return Made([user(prompt), assistant(texts[0])], False, reason, category)


def _fault(wanted: Wanted, reply: Reply) -> str:
    if not reply.ended or not reply.text.strip() or is_repetitive(reply.text):
        return "no_answer"
    return wanted.fault(reply.text)


def _other(replies: Sequence[Reply], faults: Sequence[str]) -> str:
    """An answer in another language or script."""
    wrong = (reply.text.strip() for reply, fault in zip(replies, faults, strict=True) if fault not in ("", "no_answer"))
    return next(wrong, "")
