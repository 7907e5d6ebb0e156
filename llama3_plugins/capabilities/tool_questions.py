"""Questions whose answers are known, for which a model needs a tool, or for which it must not call one."""

from __future__ import annotations

import itertools
import json
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from llama3.capabilities import PAIR, FunctionCall, Workshop, asked, is_garbage, passages
from llama3_plugins.capabilities.functions import CHAINS, OWN, a_call, chained
from llama3_plugins.capabilities.tables import upload
from llama3_plugins.capabilities.toolbox import CALCULATOR, CORE, PASSAGES, PYTHON, SEARCH, Tool, mined, script
from llama3_plugins.capabilities.turns import firsts, user

HINTS = {
    "nested": "Use one call whose first argument is itself a call.",
    "parallel": "Write both calls in one answer, with a semicolon between them.",
    "multi_step": "Make one call first, and the next one when you know its result.",
}
"""What is said while a trajectory is drawn, and never learnt."""
_EASY = (
    ("Which day comes after Monday?", "Tuesday"),
    ("Which month comes before May?", "April"),
    ("How many legs does a dog have?", "4"),
    ("What is the opposite of hot?", "cold"),
    ("What colour is snow?", "white"),
    ("How many days does a week have?", "7"),
    ("What is the capital of France?", "Paris"),
    ("Which animal says meow?", "cat"),
    ("How many wheels does a bicycle have?", "2"),
    ("What is frozen water called?", "ice"),
)
_NUMBER = re.compile(r"-?\d+(?:,\d{3})*(?:\.\d+)?")
_WORD = re.compile(r"[^\W_]+")
_NAMES_OF_NUMBERS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
)  # fmt: skip
_TOLD = (
    "{tools}\n\nHere is a call of them:\n{call}\n\nWrite what somebody would ask who wants its result and has never"
    " heard of functions. Say every value of the call as it stands there. Write one question and nothing else."
)
SHORT, MOST_WORDS = 500, 8
"""Characters of a passage that is searched for; words of an answer that stands in it."""
_WANTED = 40
"""Documents that `search` looks in, and that are mined for functions."""


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked, with what is known of a right trajectory."""

    kind: str
    prompt: str
    expected: tuple[str, ...]
    """What the last answer says: numbers or words."""
    active: tuple[Tool, ...] = ()
    """The tools of which the system prompt tells."""
    calls: bool = True
    """Whether a tool has to be called; else none may be."""
    results: tuple[str, ...] = ()
    """What the calls of functions give, as JSON; nothing where any call will do."""
    files: dict[str, str] = field(default_factory=dict)

    def answered(self, text: str) -> bool:
        """Whether an answer says what is expected."""
        return all(says(text, one) for one in self.expected)


def says(text: str, expected: str) -> bool:
    """Whether a text says a number (in digits, small ones also as words) or holds words, whatever their case."""
    try:
        wanted = float(expected)
    except ValueError:
        return _plain(expected) in _plain(text)
    word = _NAMES_OF_NUMBERS[int(wanted)] if wanted in range(len(_NAMES_OF_NUMBERS)) else None
    found = [float(number.replace(",", "")) for number in _NUMBER.findall(text)]
    return wanted in found or (word is not None and f" {word} " in _plain(text))


def _plain(text: str) -> str:
    return f" {' '.join(_WORD.findall(text.casefold()))} "


# -- questions that need nothing but numbers --------------------------------------------------------


def calculations(count: int, rng: random.Random) -> Iterator[Question]:
    """Products and sums that nobody does in the head."""
    for _ in range(count):
        a, b, c = rng.randint(112, 999), rng.randint(112, 999), rng.randint(112, 999)
        prompt, value = rng.choice(
            ((f"What is {a} times {b}, plus {c}?", a * b + c), (f"Compute {a} * ({b} + {c}).", a * (b + c)))
        )
        yield Question("calculator", prompt, (str(value),), _among(rng, CALCULATOR))


def programs(count: int, rng: random.Random) -> Iterator[Question]:
    """What takes a loop."""
    for _ in range(count):
        most, step = rng.randint(300, 3000), rng.randint(6, 19)
        prompt = f"What is the sum of the squares of all multiples of {step} that are below {most}?"
        yield Question("python", prompt, (str(sum(n * n for n in range(0, most, step))),), _among(rng, PYTHON))


def uploads(count: int, rng: random.Random) -> Iterator[Question]:
    """What is to be found out about a file."""
    for _ in range(count):
        file = upload(rng)
        active = _among(rng, PYTHON)
        yield Question("files", file.question, (str(file.answer),), active, files={file.name: file.text})


def easy(count: int, rng: random.Random) -> Iterator[Question]:
    """What needs no tool, while tools are active."""
    for _ in range(count):
        yield Question("easy", *_easy(rng), _among(rng, rng.choice((CALCULATOR, PYTHON, SEARCH))), calls=False)


def off(count: int, rng: random.Random) -> Iterator[Question]:
    """What is easily answered alone, while the tool that would help is not active."""
    for number in range(count):
        prompt, expected = _sum(rng) if number % 2 else _easy(rng)
        active = (SEARCH,) if rng.random() < 0.5 else ()
        yield Question("off", prompt, expected, active, calls=False)


def _easy(rng: random.Random) -> tuple[str, tuple[str, ...]]:
    if rng.random() < 0.5:
        return _sum(rng)
    prompt, said = rng.choice(_EASY)
    return prompt, (said,)


def _sum(rng: random.Random) -> tuple[str, tuple[str, ...]]:
    a, b = rng.randint(2, 60), rng.randint(2, 39)
    return f"What is {a} plus {b}?", (str(a + b),)


def _among(rng: random.Random, *needed: Tool) -> tuple[Tool, ...]:
    """The tools that are needed and some others, in any order."""
    others = [tool for tool in (*CORE, *rng.sample(OWN, 1)) if tool not in needed]
    active = [*needed, *rng.sample(others, rng.randint(0, len(others)))]
    rng.shuffle(active)
    return tuple(active)


# -- questions about the corpus ---------------------------------------------------------------------


def searches(shop: Workshop, count: int, rng: random.Random) -> Iterator[Question | str]:
    """What stands in a passage of the run's corpus, as the model asks it; a word where it asks nothing of use."""
    found = shop.documents(_WANTED, rng.randrange(1 << 30), kind="prose")
    texts = [first for one in found for first in itertools.islice(passages(one.text, SHORT), 1)]
    if not texts:
        return
    files = {PASSAGES: json.dumps(texts, ensure_ascii=False)}
    chosen = [texts[number % len(texts)] for number in range(count)]
    written = firsts(shop.ask([[user(asked("questions", text))] for text in chosen]))
    for text, told in zip(chosen, written, strict=True):
        pairs = [(question.strip(), said.strip().rstrip(".")) for question, said in PAIR.findall(told)]
        usable = [(q, said) for q, said in pairs if _plain(said) in _plain(text) and _short(said)]
        if not usable:
            yield "no_question"
            continue
        prompt, said = usable[0]
        yield Question("search", prompt, (said,), _among(rng, SEARCH), results=(said,), files=files)


def _short(said: str) -> bool:
    return 1 <= len(said.split()) <= MOST_WORDS and any(map(str.isalnum, said))


# -- functions that nobody was trained on -----------------------------------------------------------


def functions(shop: Workshop, kind: str, count: int, rng: random.Random) -> Iterator[Question | str]:
    """Calls that were run, and what somebody would ask to have them made, as the model says it (paper 4.3.5: the tuples
    of zero-shot tool use). Functions are those of the corpus' Python files that stand alone, and our own."""
    found = _of_corpus(shop, rng) if kind in ("single", "parallel") else []
    wanted = [_calls(kind, found, rng) for _ in range(count)]
    scripts = [script(call, tools, {}) for tools, calls in wanted for call in calls]
    ran = iter(shop.run_python([one for one in scripts if one is not None]))
    prompts = firsts(shop.ask([[user(_told(tools, calls))] for tools, calls in wanted]))
    for (tools, calls), prompt in zip(wanted, prompts, strict=True):
        results = tuple(next(ran).stdout.strip() for _ in calls)
        if not _asks(prompt, tools, calls):
            yield "no_question"
            continue
        active = _among(rng, *tools)
        yield Question(kind, prompt, tuple(map(_as_said, results)), active, results=results)


def _of_corpus(shop: Workshop, rng: random.Random) -> list[tuple[Tool, FunctionCall]]:
    """Functions of the corpus with a call of each that runs and gives something."""
    files = shop.documents(_WANTED, rng.randrange(1 << 30), kind="code", language="python")
    taken = {tool.name for tool in (*CORE, *OWN)}
    found = {tool.name: (tool, call) for one in files for tool, call in mined(one.text) if tool.name not in taken}
    scripts = [script(call, [tool], {}) for tool, call in found.values()]
    pairs = [(pair, one) for pair, one in zip(found.values(), scripts, strict=True) if one is not None]
    ran = shop.run_python([one for _, one in pairs])
    return [pair for (pair, _), one in zip(pairs, ran, strict=True) if one.status == 0 and _is_told(one.stdout)]


def _is_told(value: str) -> bool:
    """Whether a result is one that an answer can say: a number or a few words."""
    said = _as_said(value.strip())
    return _short(said) and value.strip() not in ("null", "true", "false")


def _as_said(value: str) -> str:
    """A result in JSON as an answer says it."""
    try:
        found = json.loads(value)
    except ValueError:
        return value
    return ", ".join(map(str, found)) if isinstance(found, list) else str(found)


def _calls(
    kind: str, found: Sequence[tuple[Tool, FunctionCall]], rng: random.Random
) -> tuple[tuple[Tool, ...], tuple[FunctionCall, ...]]:
    """Functions and what is called of them: two at once, or one on what the other gives, or one alone."""
    if kind in ("single", "parallel"):
        known = [*found, *((tool, a_call(tool, rng)) for tool in OWN)]
        tools, calls = zip(*rng.sample(known, 2 if kind == "parallel" else 1), strict=True)
        return tools, calls
    inner, outer = rng.choice(CHAINS)
    return (inner, outer), (chained(a_call(inner, rng), outer),)


def _told(tools: Sequence[Tool], calls: Sequence[FunctionCall]) -> str:
    return _TOLD.format(tools="\n".join(_signature(tool) for tool in tools), call="; ".join(map(str, calls)))


def _signature(tool: Tool) -> str:
    """What a model is told of a function in Python's own words."""
    kinds = (f"{name}: {kind}" if kind else name for name, kind in tool.parameters.items())
    return f"def {tool.name}({', '.join(kinds)}):\n    {tool.spec['function']['description']!r}"


def _asks(prompt: str, tools: Sequence[Tool], calls: Sequence[FunctionCall]) -> bool:
    """Whether a text asks for the calls: one line that says all their values and names no function."""
    if is_garbage(prompt) or "\n" in prompt or any(tool.name in prompt for tool in tools):
        return False
    return all(says(prompt, str(value)) for call in calls for value in _values(json.loads(call.arguments)))


def _values(value: Any) -> Iterator[Any]:
    """The plain values of arguments, those of inner calls too."""
    if isinstance(value, dict):
        nested = value["parameters"] if value.keys() == {"name", "parameters"} else value
        for one in nested.values():
            yield from _values(one)
    elif isinstance(value, list):
        for one in value:
            yield from _values(one)
    elif not isinstance(value, bool) and value is not None:  # which are said in other words
        yield value


def hinted(question: Question) -> str:
    """The prompt as it is asked while a trajectory is drawn."""
    return f"{question.prompt}\n({HINTS[question.kind]})" if question.kind in HINTS else question.prompt
