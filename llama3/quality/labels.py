"""What a model says of dialogs (paper 4.2.3): topic, intentions, difficulty, and points for the answer's quality.

It is asked one thing at a time. Topic, intentions and difficulty it writes down, and what it writes is read strictly:
None is what is no such answer, and is counted. Points are questions of two words (llama3.evaluation.judges): three for
an answer in prose, two for one with code.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from llama3.config.data_quality import LabellerSection
from llama3.evaluation.judges import AskedModel, Judge, JudgedAnswer, framed
from llama3.evaluation.served import ServedChat
from llama3.evaluation.served_judge import ServedModel
from llama3.quality.dialogs import DialogRow
from llama3.safety.guard import Turn
from llama3.synthesis.writers import LocalWriter, ServedWriter, TextWriter, is_served

WORDS = ("yes", "no")
PROSE = {
    "accuracy": "Is everything that the last answer says correct?",
    "instruction following": "Does the last answer do all of what was asked, and nothing else?",
    "presentation": "Is the last answer clear and well presented, in a tone that fits?",
}
CODE = {
    "no bugs": "Is the code of the last answer free of bugs?",
    "intention": "Does the last answer do what the user had in mind?",
}
"""Points of an answer, and what is asked of each."""
LEVELS = ("easy", "medium", "hard")
MOST_INTENTS, LONGEST_INTENT = 12, 6
"""Intentions of one dialog, and words of each."""
MOST_TOKENS = {"topic": 24, "intents": 96, "difficulty": 8}
LABELS = ("topic", "intents", "difficulty", "points")
FRAME = "You see a conversation between a user and an assistant."


def topic_prompt(topics: Mapping[str, Sequence[str]]) -> str:
    """The question for the topic; its choices are numbered from 1 over both levels."""
    choices = [f"{number}. {coarse}: {fine}" for number, (coarse, fine) in enumerate(_pairs(topics), 1)]
    return "\n".join(["What is this conversation about? Answer with the number of one topic, nothing else.", *choices])


INTENTS_PROMPT = (
    "Which intentions does the user have in this conversation? Write each as a tag of one to four words, such as "
    "'ask for a proof' or 'correct grammar', one a line, the most specific ones first. Write only the tags."
)
DIFFICULTY_PROMPT = (
    "How hard is it to answer the user well? 1: easy, anybody can; 2: medium, it needs several steps or knowledge; "
    "3: hard, it needs an expert. Answer with the number, nothing else."
)


def read_topic(said: str, topics: Mapping[str, Sequence[str]]) -> tuple[str, str] | None:
    """The topic that an answer names, by its number or its name on the second level."""
    pairs = _pairs(topics)
    if found := re.fullmatch(r"\W*(\d+)\b.*", said.strip(), re.DOTALL):
        number = int(found[1])
        return pairs[number - 1] if 1 <= number <= len(pairs) else None
    named = [pair for pair in pairs if re.search(rf"\b{re.escape(pair[1].casefold())}\b", said.casefold())]
    return named[0] if len(named) == 1 else None


def read_intents(said: str) -> list[str] | None:
    """The different tags of an answer in lower case, in its order; None where a line is no tag, or there is none."""
    lines = [re.sub(r"^\s*(?:[-*•#]+|\d+[.)])\s*", "", line) for line in re.split(r"[\n,;]", said)]
    tags = [line.strip(" \t'\"`.").casefold() for line in lines]
    tags = [*dict.fromkeys(tag for tag in tags if tag)]
    sound = all(len(tag.split()) <= LONGEST_INTENT and any(map(str.isalpha, tag)) for tag in tags)
    return tags if tags and sound and len(tags) <= MOST_INTENTS else None


def read_difficulty(said: str) -> int | None:
    """1, 2 or 3, as an answer says by the number or its word."""
    words = {word for word in re.findall(r"\w+", said.casefold()) if word in (*LEVELS, "1", "2", "3")}
    levels = {LEVELS.index(word) + 1 if word in LEVELS else int(word) for word in words}
    return levels.pop() if len(levels) == 1 else None


class Labeller:
    """The model of a section, open. Raises as loading it does, or DataError where its server does not answer."""

    def __init__(self, section: LabellerSection, topics: Mapping[str, Sequence[str]], device: str = "cpu") -> None:
        self._written: dict[str, tuple[str, Callable[[str], Any]]] = {
            "topic": (topic_prompt(topics), lambda said: read_topic(said, topics)),
            "intents": (INTENTS_PROMPT, read_intents),
            "difficulty": (DIFFICULTY_PROMPT, read_difficulty),
        }
        self._writer: Callable[[int], TextWriter]
        self._judge: Callable[[str], Judge]
        if is_served(section.model):
            chat = ServedChat(section.model, section.served, "labeller")
            self.name, self.at_once = chat.name, section.parallel
            self._writer = lambda most: ServedWriter(chat, most, 0.0, section.parallel)
            self._judge = lambda question: ServedModel(section.model, chat.name, question, WORDS)
            return
        from llama3.evaluation.stages import OutsideModel
        from llama3.inference.llama import load

        found = OutsideModel.at(section.model)
        model, self.name, self.at_once = load(found.path, device=device), f"local-{found.blake3[:16]}", 1
        self._writer = lambda most: LocalWriter(model, self.name, most, 0.0)
        self._judge = lambda question: AskedModel(model, self.name, question, WORDS)

    def label(self, name: str, rows: Sequence[DialogRow]) -> list[Any]:
        """What the model says of each row under one of `LABELS`; None where it says nothing that can be read."""
        if name == "points":
            return self._points(rows)
        question, read = self._written[name]
        turns = ([*row.last.turns, Turn("assistant", row.last.answer)] for row in rows)
        prompts = [framed(spoken, FRAME, question) for spoken in turns]
        said = self._writer(MOST_TOKENS[name]).write(prompts, seed=0)
        return [read(one.encode("utf-8", "replace").decode()) for one in said]  # no halves of characters

    def _points(self, rows: Sequence[DialogRow]) -> list[list[bool] | None]:
        """Of each row whether its answer has each point."""
        found: list[list[bool] | None] = [None] * len(rows)
        for code, questions in ((False, PROSE), (True, CODE)):
            places = [n for n, row in enumerate(rows) if row.is_code == code]
            exchanges = [rows[n].last for n in places]
            columns = [self._judged(self._judge(question), exchanges) for question in questions.values()]
            for n, said in zip(places, zip(*columns, strict=True), strict=True):
                found[n] = None if None in said else [p is not None and p >= 0.5 for p in said]
        return found

    def _judged(self, judge: Judge, exchanges: Sequence[JudgedAnswer]) -> list[float | None]:
        if self.at_once == 1:
            return judge.judge(exchanges)
        with ThreadPoolExecutor(self.at_once) as pool:
            return [p for (p,) in pool.map(lambda exchange: judge.judge([exchange]), exchanges)]


def _pairs(topics: Mapping[str, Sequence[str]]) -> list[tuple[str, str]]:
    return [(coarse, fine) for coarse, names in topics.items() for fine in names]
