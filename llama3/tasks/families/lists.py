"""Short lists of digits: picking, ordering and counting."""

from __future__ import annotations

from random import Random

from llama3.tasks.task import exact

PLACES = {"first": 0, "second": 1, "last": -1}


def _digits(rng: Random, low: int = 3, high: int = 3) -> list[int]:
    return rng.sample(range(10), rng.randint(low, high))


FAMILIES = (
    exact(
        "list.pick",
        "integer",
        ("What is the {0} item of {1}?", "Give the {0} number in {1}."),
        lambda rng: (rng.choice(list(PLACES)), _digits(rng)),
        lambda place, numbers: str(numbers[PLACES[place]]),
    ),
    exact(
        "list.max",
        "integer",
        ("What is the largest number in {0}?", "Find the maximum of {0}."),
        lambda rng: (_digits(rng),),
        lambda numbers: str(max(numbers)),
    ),
    exact(
        "list.min",
        "integer",
        ("What is the smallest number in {0}?", "Find the minimum of {0}."),
        lambda rng: (_digits(rng),),
        lambda numbers: str(min(numbers)),
    ),
    exact(
        "list.reverse",
        "integers",
        ("Reverse the list {0}.", "Write {0} backwards."),
        lambda rng: (_digits(rng),),
        lambda numbers: str(numbers[::-1]),
    ),
    exact(
        "list.sort",
        "integers",
        ("Sort the list {0}.", "Write {0} in increasing order."),
        lambda rng: (_digits(rng),),
        lambda numbers: str(sorted(numbers)),
    ),
    exact(
        "list.append",
        "integers",
        ("Add {1} to the end of {0}.", "Append {1} to {0}."),
        lambda rng: (_digits(rng, 2, 3), rng.randrange(10)),
        lambda numbers, new: str([*numbers, new]),
    ),
    exact(
        "list.length",
        "integer",
        ("How many items are in {0}?", "Count the numbers in {0}."),
        lambda rng: (_digits(rng, 1, 6),),
        lambda numbers: str(len(numbers)),
    ),
)
