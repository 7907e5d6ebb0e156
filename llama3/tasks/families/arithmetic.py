"""Arithmetic on small whole numbers. Instances of commutative questions are unordered."""

from __future__ import annotations

from random import Random

from llama3.tasks.task import Args, exact


def _pair(rng: Random) -> Args:
    return tuple(sorted((rng.randrange(20), rng.randrange(20))))


FAMILIES = (
    exact(
        "arithmetic.add",
        "integer",
        ("What is {0} plus {1}?", "Add {0} and {1}.", "Compute {0} + {1}."),
        _pair,
        lambda a, b: str(a + b),
    ),
    exact(
        "arithmetic.subtract",
        "integer",
        ("What is {1} minus {0}?", "Subtract {0} from {1}.", "Compute {1} - {0}."),
        _pair,
        lambda a, b: str(b - a),
    ),
    exact(
        "arithmetic.larger",
        "integer",
        ("Which number is larger, {0} or {1}?", "Give the larger number of {0} and {1}."),
        lambda rng: tuple(rng.sample(range(20), 2)),
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
