"""Arithmetic on small whole numbers. Instances of commutative questions are unordered."""

from __future__ import annotations

from random import Random

from llama3.posttraining.tasks.task import Args, exact


def _pair(rng: Random, top: int) -> Args:
    return tuple(sorted((rng.randrange(top), rng.randrange(top))))


def _distinct(rng: Random) -> Args:
    return tuple(rng.sample(range(100), 2))


FAMILIES = (
    exact(
        "arithmetic.add",
        "integer",
        ("What is {0} plus {1}?", "Add {0} and {1}.", "Compute {0} + {1}."),
        lambda rng: _pair(rng, 20),
        lambda a, b: str(a + b),
    ),
    exact(
        "arithmetic.subtract",
        "integer",
        ("What is {1} minus {0}?", "Subtract {0} from {1}.", "Compute {1} - {0}."),
        lambda rng: _pair(rng, 20),
        lambda a, b: str(b - a),
    ),
    exact(
        "arithmetic.multiply",
        "integer",
        ("What is {0} times {1}?", "Multiply {0} by {1}.", "Compute {0} * {1}."),
        lambda rng: _pair(rng, 13),
        lambda a, b: str(a * b),
    ),
    exact(
        "arithmetic.larger",
        "integer",
        ("Which number is larger, {0} or {1}?", "Give the larger number of {0} and {1}."),
        _distinct,
        lambda a, b: str(max(a, b)),
    ),
    exact(
        "arithmetic.parity",
        "text",
        ("Is {0} even or odd?", "Say if the number {0} is even or odd."),
        lambda rng: (rng.randrange(1000),),
        lambda a: "odd" if a % 2 else "even",
    ),
)
