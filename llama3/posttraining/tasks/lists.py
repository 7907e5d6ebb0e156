"""Short lists of small whole numbers: picking, ordering and counting."""

from __future__ import annotations

from random import Random

from llama3.posttraining.tasks.task import Args, exact

PLACES = {"first": 0, "second": 1, "last": -1}


def _numbers(rng: Random, low: int, high: int) -> list[int]:
    return rng.sample(range(30), rng.randint(low, high))


def _place(rng: Random) -> Args:
    return rng.choice(list(PLACES)), _numbers(rng, 3, 5)


def _some(rng: Random) -> Args:
    return (_numbers(rng, 3, 4),)


FAMILIES = (
    exact(
        "list.pick",
        "integer",
        ("What is the {0} item of {1}?", "Give the {0} number in {1}."),
        _place,
        lambda place, numbers: str(numbers[PLACES[place]]),
    ),
    exact(
        "list.max",
        "integer",
        ("What is the largest number in {0}?", "Find the maximum of {0}."),
        _some,
        lambda numbers: str(max(numbers)),
    ),
    exact(
        "list.min",
        "integer",
        ("What is the smallest number in {0}?", "Find the minimum of {0}."),
        _some,
        lambda numbers: str(min(numbers)),
    ),
    exact(
        "list.reverse",
        "integers",
        ("Reverse the list {0}.", "Write {0} backwards."),
        _some,
        lambda numbers: str(numbers[::-1]),
    ),
    exact(
        "list.sort",
        "integers",
        ("Sort the list {0}.", "Write {0} in increasing order."),
        lambda rng: (_numbers(rng, 3, 3),),
        lambda numbers: str(sorted(numbers)),
    ),
    exact(
        "list.append",
        "integers",
        ("Add {1} to the end of {0}.", "Append {1} to {0}."),
        lambda rng: (_numbers(rng, 2, 3), rng.randrange(30)),
        lambda numbers, new: str([*numbers, new]),
    ),
    exact(
        "list.length",
        "integer",
        ("How many items are in {0}?", "Count the numbers in {0}."),
        lambda rng: (_numbers(rng, 1, 6),),
        lambda numbers: str(len(numbers)),
    ),
)
