"""Preferences as rows to learn from, in TRL's conversational columns, which `post_training.data` reads too.

What several annotators say of an item is one row: the answer that more than half of those who judged it prefer, as
clearly as the middle one of them says. With `edited`, the answer that an annotator wrote above both (paper 4.2.1).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llama3.annotating.items import PairItem
from llama3.annotating.judgements import SKIP, STRENGTHS, Annotation
from llama3.data.columns import SURROGATE, printable

MARGINS = {"significantly better": 1.0, "better": 2 / 3, "slightly better": 1 / 3, "marginally better": 0.0}
"""By which the score of the better answer must lie above the other's (Llama 2, 2307.09288, table 27, small). Llama 3
has none."""


@dataclass(frozen=True, slots=True)
class Exported:
    """Rows, and how many items have none, by reason."""

    rows: list[dict[str, Any]]
    left_out: dict[str, int]


def exported(
    items: Mapping[str, PairItem], said: Mapping[str, Mapping[str, Annotation]], *, least: str, margins: bool
) -> Exported:
    """The rows of all items that were judged, in their order. `least`: how clear a preference must be."""
    rows: list[dict[str, Any]] = []
    left_out = Counter[str]()
    for name, item in items.items():
        judged = [of[name] for _, of in sorted(said.items()) if name in of and of[name].verdict != SKIP]
        chosen, why = _preferred(judged)
        if chosen is None:
            left_out[why] += 1
            continue
        agree = [one for one in judged if one.chosen == chosen]
        level = sorted(STRENGTHS.index(one.verdict) for one in agree)[len(agree) // 2]
        if level > STRENGTHS.index(least):
            left_out[f"less clear than {least}"] += 1
            continue
        edits = [one.edited for one in agree if one.edited is not None]
        row = _row(name, item, chosen, edits, STRENGTHS[level], margins=margins)
        if SURROGATE.search(json.dumps(row, ensure_ascii=False)):
            left_out[f"half of a surrogate pair, which is no character: {printable(name)}"] += 1
            continue
        rows.append(row)
    return Exported(rows, dict(left_out))


def _preferred(judged: Sequence[Annotation]) -> tuple[int | None, str]:
    """The answer that more than half prefer; else why there is none."""
    if not judged:
        return None, "not judged"
    chosen, count = Counter(one.chosen for one in judged).most_common(1)[0]
    if 2 * count <= len(judged):
        return None, "annotators disagree"
    return chosen, "both are alike"


def _row(
    name: str, item: PairItem, chosen: int, edits: Sequence[str], strength: str, *, margins: bool
) -> dict[str, Any]:
    sides = {"chosen": item.texts[chosen], "rejected": item.texts[1 - chosen]}
    if edits:
        sides["edited"] = edits[0]
    return {
        "id": name,
        "prompt": list(item.messages),
        **{side: [{"role": "assistant", "content": text}] for side, text in sides.items()},
        "strength": strength,
        **({"category": item.category} if item.category else {}),
        **({"margin": MARGINS[strength]} if margins else {}),
    }
