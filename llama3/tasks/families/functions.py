"""Python functions described in a sentence and verified by unit tests, not by their text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from llama3.tasks.families.words import WORDS
from llama3.tasks.task import Args, Family, UnitTests

NAMES = ("f", "g", "h", "run", "call", "check", "make", "find")

OPERATORS = {"plus": "+", "minus": "-", "times": "*"}
COMPARISONS = {"greater than": ">", "less than": "<", "equal to": "=="}
REDUCTIONS = {
    "the largest item": "max(items)",
    "the smallest item": "min(items)",
    "the sum": "sum(items)",
    "the length": "len(items)",
    "the first item": "items[0]",
    "the last item": "items[-1]",
}
METHODS = {
    "in upper case": ".upper()",
    "in lower case": ".lower()",
    "without outer spaces": ".strip()",
    "reversed": "[::-1]",
}

INTEGERS = (*((n,) for n in range(11)), (-4,), (100,))
PAIRS = ((0, 0), (1, 2), (5, -3), (-7, 4), (10, 10), (3, 50))
LISTS = (([3],), ([1, 2],), ([5, -2, 9],), ([4, 4, 0, 8],), ([-1, -6, -3],))
STRINGS = (("abc",), ("Big Tree",), ("  left",), ("Word ",), ("x",))


def _source(name: str, parameters: str, expression: str) -> str:
    return f"def {name}({parameters}):\n    return {expression}"


def _family(
    name: str,
    templates: Sequence[str],
    draw: Callable[[Random], Args],
    parameters: str,
    expression: Callable[..., str],
    calls: tuple[tuple[Any, ...], ...],
) -> Family:
    """A family of one-line functions: `expression(*args)` is their reference, and computes the expected values."""

    def check(function: str, *args: Any) -> UnitTests:
        # The expression is ours, made from the tables above: never text of a model or a user.
        reference = eval(f"lambda {parameters}: {expression(*args)}", {})
        return UnitTests(function, calls, tuple(reference(*call) for call in calls))

    return Family(
        name,
        tuple(templates),
        lambda rng: (rng.choice(NAMES), *draw(rng)),
        lambda function, *args: _source(function, parameters, expression(*args)),
        check,
    )


FAMILIES = (
    _family(
        "python.operator",
        (
            "Write a Python function named {0} that returns its argument {1} {2}.",
            "Define a function {0} in Python that gives its argument {1} {2}.",
        ),
        lambda rng: (rng.choice(list(OPERATORS)), rng.randrange(2, 10)),
        "x",
        lambda word, n: f"x {OPERATORS[word]} {n}",
        INTEGERS,
    ),
    _family(
        "python.two_arguments",
        (
            "Write a Python function named {0} that returns its first argument {1} its second, plus {2}.",
            "Define a function {0} in Python that gives its first argument {1} its second, plus {2}.",
        ),
        lambda rng: (rng.choice(list(OPERATORS)), rng.randrange(2, 10)),
        "a, b",
        lambda word, n: f"a {OPERATORS[word]} b + {n}",
        PAIRS,
    ),
    _family(
        "python.compare",
        (
            "Write a Python function named {0} that tells if its argument is {1} {2}.",
            "Define a function {0} in Python that tests if its argument is {1} {2}.",
        ),
        lambda rng: (rng.choice(list(COMPARISONS)), rng.randrange(2, 10)),
        "x",
        lambda word, n: f"x {COMPARISONS[word]} {n}",
        INTEGERS,
    ),
    _family(
        "python.reduce",
        (
            "Write a Python function named {0} that returns {1} of a list plus {2}.",
            "Define a function {0} in Python that gives {1} of a list plus {2}.",
        ),
        lambda rng: (rng.choice(list(REDUCTIONS)), rng.randrange(2, 10)),
        "items",
        lambda what, n: f"{REDUCTIONS[what]} + {n}",
        LISTS,
    ),
    _family(
        "python.string",
        (
            "Write a Python function named {0} that returns its argument {1} followed by {2}.",
            "Define a function {0} in Python that gives its argument {1} followed by {2}.",
        ),
        lambda rng: (rng.choice(list(METHODS)), rng.choice(WORDS)),
        "text",
        lambda how, word: f"text{METHODS[how]} + {word!r}",
        STRINGS,
    ),
)
