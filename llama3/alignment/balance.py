"""How many adversarial and borderline rows there are, so that their ratio holds (paper 5.4.3)."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

T = TypeVar("T")


def balanced(adversarial: int, borderline: int, most: int, ratio: float) -> tuple[int, int]:
    """How many to take of each, of so many that are there, at most `most` together: as many as can be with `ratio`
    borderline ones for each adversarial one, to the nearest row. Where one kind is short, the other gives way: too
    many refusals teach to refuse, too few teach nothing."""
    adversarial = min(adversarial, math.floor(most / (1 + ratio)))
    if adversarial * ratio > borderline:
        adversarial = math.floor(borderline / ratio)
    return adversarial, round(adversarial * ratio)


def share_of(others: int, share: float) -> int:
    """How many rows make up `share` of all, beside so many others."""
    return round(others * share / (1 - share))


def take_balanced(rows: Sequence[Mapping[str, Any]], most: int, ratio: float, rng: random.Random) -> list[Any]:
    """Rows drawn by `balanced`, in their order; `kind` says what each is of."""
    harmful = [n for n, row in enumerate(rows) if row["kind"] == "adversarial"]
    harmless = [n for n, row in enumerate(rows) if row["kind"] != "adversarial"]
    a, b = balanced(len(harmful), len(harmless), most, ratio)
    return [rows[n] for n in sorted([*rng.sample(harmful, a), *rng.sample(harmless, b)])]
