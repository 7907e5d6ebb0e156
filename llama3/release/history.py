"""The stages behind a release in the order in which they ran, and the round that each belongs to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]
"""One artifact of `lineage.json`."""


def in_order(lineage: Sequence[Row]) -> list[Row]:
    """What others were made from comes before them; what was made equally late, as it stood (newest last)."""
    rows = {row["hash"]: row for row in lineage}
    depth: dict[str, int] = {}
    for identity in _parents_first(rows):
        above = [depth[parent] for parent in _parents(rows, identity)]
        depth[identity] = 1 + max(above, default=-1)
    place = {identity: index for index, identity in enumerate(rows)}
    return sorted(rows.values(), key=lambda row: (depth[row["hash"]], -place[row["hash"]]))


def rounds(lineage: Sequence[Row]) -> dict[str, int]:
    """The round of each artifact by its hash: how many of the same stage it goes back to, itself included."""
    rows = {row["hash"]: row for row in lineage}
    behind: dict[str, frozenset[str]] = {}
    for identity in _parents_first(rows):
        parents = _parents(rows, identity)
        behind[identity] = frozenset(parents).union(*(behind[parent] for parent in parents))
    return {
        identity: 1 + sum(rows[other].get("stage") == row.get("stage") for other in behind[identity])
        for identity, row in rows.items()
    }


def _parents(rows: Mapping[str, Row], identity: str) -> list[str]:
    return [parent["hash"] for parent in rows[identity]["parents"] if parent["hash"] in rows]


def _parents_first(rows: Mapping[str, Row]) -> list[str]:
    """Every hash after those of its parents."""
    done: dict[str, None] = {}
    ahead = list(rows)
    while ahead:
        identity = ahead[-1]
        missing = [parent for parent in _parents(rows, identity) if parent not in done]
        if identity in done or not missing:
            done[ahead.pop()] = None
        else:
            ahead.extend(missing)
    return list(done)
