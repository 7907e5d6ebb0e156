"""Documents of a corpus that are drawn: of those that stayed, and of those that went, with the reasons."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from llama3 import _core
from llama3.data.corpus import REJECTS, Corpus
from llama3.data.tables import Table
from llama3.errors import ConfigError

Row = dict[str, Any]
SHOWN = 400
"""Characters of a text."""
CHECKED = "to_check.jsonl"
"""Of synthetic text: what people check, with what was asked."""
CHECKED_SHARE = 0.1
NO_SUCH_SOURCE = ConfigError.declare(
    "L3-DAT-282", "no document of a source {source!r} stayed", fix="give one of {known}"
)


class DrawnRows:
    """The `count` rows whose names, hashed with the seed, are lowest: those, whatever comes in which order."""

    def __init__(self, count: int, seed: int) -> None:
        self.count, self.seed = count, seed
        self._heap: list[tuple[int, int, Row]] = []
        """Negative places, so that the highest stands first."""
        self._offered = 0

    def offer(self, name: str, row: Callable[[], Row]) -> None:
        """`row` is made only where it is among the lowest so far."""
        self._offered += 1
        place = int(_core.blake3_bytes(f"{self.seed} {name}".encode("utf-8", "backslashreplace"))[:16], 16)
        if len(self._heap) < self.count:
            heapq.heappush(self._heap, (-place, -self._offered, row()))
        elif self._heap and -place > self._heap[0][0]:
            heapq.heapreplace(self._heap, (-place, -self._offered, row()))

    @property
    def rows(self) -> list[Row]:
        """Lowest place first."""
        return [row for _, _, row in sorted(self._heap, key=lambda item: (-item[0], -item[1]))]


def drawn_to_check(rows: Sequence[Row], name: Callable[[Row], str]) -> list[Row]:
    """The tenth of synthetic rows that people check, at least one: those whose names have the lowest hashes."""
    drawing = DrawnRows(math.ceil(CHECKED_SHARE * len(rows)), 0)
    for row in rows:
        drawing.offer(name(row), lambda row=row: row)  # type: ignore[misc]
    return drawing.rows


def require_source(place: Path, source: str | None) -> None:
    """Raises ConfigError (L3-DAT-282) for a source of which a corpus holds nothing."""
    funnel = Corpus(place).funnel
    known = sorted({name for split in ("train", "held_out") for name in funnel.get(split, {})})
    if source is not None and source not in known:
        raise NO_SUCH_SOURCE("--source", source=source, known=", ".join(known))


def draw_kept(place: Path, count: int, seed: int, *, source: str | None = None, characters: int = SHOWN) -> list[Row]:
    """`count` documents of a corpus (of one source), with the beginnings of their texts; the same for the same seed.

    Raises DataError where the corpus cannot be read.
    """
    drawing = DrawnRows(count, seed)
    names = ("id", "source", "url", "language", "split")
    for batch in Corpus(place).documents(None, source):
        texts, sizes = batch.records.column("text"), batch.bytes_D.tolist()
        for number, facts in enumerate(zip(*(batch.column(name) for name in names), strict=True)):

            def row(number: int = number, facts: tuple[str, ...] = facts) -> Row:
                text = texts[number].as_py()[:characters]  # noqa: B023 - called before the next batch
                return {**dict(zip(names, facts, strict=True)), "bytes": sizes[number], "text": text}  # noqa: B023

            drawing.offer(facts[0], row)
    return drawing.rows


def draw_removed(place: Path, count: int, seed: int) -> dict[str, list[Row]]:
    """`count` of the documents and records that went for every reason, by "stage.reason".

    Texts of what went are not kept: a row has id, source, where it was found, score and detail. Raises DataError where
    the log cannot be read.
    """
    drawings: dict[str, DrawnRows] = {}
    for records in Table(place / REJECTS).batches():
        for row in records.to_pylist():
            drawing = drawings.setdefault(f"{row['stage']}.{row['reason']}", DrawnRows(count, seed))
            drawing.offer(f"{row['id']} {row['where']}", lambda row=row: row)  # type: ignore[misc]
    return {name: drawing.rows for name, drawing in sorted(drawings.items())}
