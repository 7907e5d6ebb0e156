"""Functions that nobody was trained on, for recipes of tool use where the corpus has no code to mine: signature and
docstring are all that a model is told of them."""

from __future__ import annotations

import json
import random
from typing import Any

from llama3.capabilities import FunctionCall
from llama3_plugins.capabilities.toolbox import Tool

_SOURCES = (
    '''def seats_needed(guests: int, seats_per_table: int) -> int:
    """How many tables are needed so that every guest has a seat."""
    return -(-guests // seats_per_table)
''',
    '''def parking_fee(minutes: int) -> int:
    """The fee in cents of a car that is parked for so many minutes: 150 for every hour that has begun."""
    return 150 * -(-minutes // 60)
''',
    '''def loyalty_points(cents: int) -> int:
    """The points that a customer gets for a purchase of so many cents."""
    return cents // 40 + (25 if cents >= 5000 else 0)
''',
    '''def order_cents(pieces: int, cents_per_piece: int) -> int:
    """What an order costs in cents, with the parcel."""
    return pieces * cents_per_piece + (0 if pieces * cents_per_piece >= 4000 else 390)
''',
    '''def walk_minutes(metres: int) -> int:
    """How many minutes a walk of so many metres takes."""
    return -(-metres // 75)
''',
    '''def checksum(number: int) -> int:
    """The check digit of a customer's number."""
    return sum(int(digit) * (place + 2) for place, digit in enumerate(reversed(str(abs(number))))) % 11
''',
    '''def delivery_days(distance: int, express: bool = False) -> int:
    """The days that a parcel travels over a distance in kilometres."""
    return 1 + distance // (700 if express else 300)
''',
    '''def paint_litres(width: float, height: float) -> float:
    """The litres of paint for a wall, two coats, of so many metres."""
    return round(2 * width * height / 9, 2)
''',
    '''def shelf_code(title: str) -> str:
    """The code of the shelf on which a library keeps a book with this title."""
    return title[:3].upper() + str(sum(map(ord, title)) % 97)
''',
    '''def score_total(throws: list[int]) -> int:
    """The score of a game of throws, in which the lowest throw does not count."""
    return sum(throws) - min(throws)
''',
)
OWN = tuple(map(Tool, _SOURCES))
_NAMED = {tool.name: tool for tool in OWN}
CHAINS = tuple(
    (_NAMED[inner], _NAMED[outer])
    for inner, outer in (
        ("parking_fee", "loyalty_points"),
        ("order_cents", "loyalty_points"),
        ("walk_minutes", "parking_fee"),
        ("loyalty_points", "checksum"),
        ("score_total", "checksum"),
    )
)
"""Functions of which the second makes sense of what the first gives."""
_WORDS = ("Harbour", "Lantern", "Orchard", "Compass", "Meadow", "Violin", "Glacier", "Saffron", "Thunder", "Willow")


def a_call(tool: Tool, rng: random.Random) -> FunctionCall:
    """A call with values that fit the annotations of what must be given."""
    given = {name: _value_of(tool.parameters[name], rng) for name in tool.required}
    return FunctionCall(tool.name, json.dumps(given))


def chained(inner: FunctionCall, outer: Tool) -> FunctionCall:
    """A call on what another one gives."""
    value = {"name": inner.name, "parameters": json.loads(inner.arguments)}
    return FunctionCall(outer.name, json.dumps({next(iter(outer.parameters)): value}))


def _value_of(kind: str, rng: random.Random) -> Any:
    match kind:
        case "int":
            return rng.randint(12, 9800)
        case "float":
            return round(rng.uniform(1, 30), 1)
        case "list[int]":
            return [rng.randint(1, 60) for _ in range(rng.randint(3, 6))]
        case _:
            return " ".join(rng.sample(_WORDS, 2))
