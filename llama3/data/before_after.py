"""Samples of a curation for people: documents that went, by reason, and documents that lost a part, each as it was read
and as it stayed. Drawn by their ids, so that they are the same ones every time."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llama3.data.corpus import DOCUMENTS, EDITED
from llama3.data.deciding import Staged
from llama3.data.documents import id_bytes
from llama3.data.earlier import halves, places_of
from llama3.data.sampling import DrawnRows, draw_removed
from llama3.data.tables import Table

SAMPLES = "samples.jsonl"
COUNT, SEED = 3, 1
"""Of every reason, and what draws them."""
CHARACTERS, LEAD = 1200, 200
"""Of a text, and those of them that stand before the first change."""
CHANGED = "changed"
ID_DIGITS = 32

Row = dict[str, Any]


def write_samples(place: Path, staged: Staged, private: Collection[str] = ()) -> None:
    """Draws from the corpus at `place`, whose documents still are staged, and writes `samples.jsonl`: rows of {what,
    source, id, score, detail, before}, with `after` where a part of the document stayed, and with `other` where it went
    for another document, which has that text. What the filters `private` took out or changed is not among them."""
    hidden = {f"filter.{name}." for name in private}
    rows = [row for row in _removed(place) if not row["what"].startswith(tuple(hidden))]
    rows += _changed(place, _edited_by(place, private))
    wanted = {row["id"] for row in rows} | {row["of"] for row in rows if row["of"]}
    before = _staged_texts(staged, wanted)
    after = _corpus_texts(place, {row["id"] for row in rows if row["stays"]})
    with (place / SAMPLES).open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(_shown(row, before, after), ensure_ascii=False) + "\n")


def read_samples(place: Path) -> list[Row]:
    """The samples of a corpus; none where it was made without."""
    path = place / SAMPLES
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.is_file() else []


def _removed(place: Path) -> Iterator[Row]:
    """Documents that went, or were masked; a record that never was a document has no text to show."""
    for what, rows in draw_removed(place, COUNT, SEED).items():
        for row in rows:
            if row["id"]:
                detail = row["detail"]
                of = detail.removeprefix("of ") if detail.startswith("of ") else ""
                yield {
                    "what": what,
                    "source": row["source"],
                    "id": row["id"],
                    "score": None if row["score"] != row["score"] else row["score"],
                    "detail": detail,
                    "of": of if of != row["id"] else "",
                    "stays": detail.startswith("masked"),
                }


def _edited_by(place: Path, filters: Collection[str]) -> set[str]:
    """Documents that some filters replaced parts of."""
    if not filters or not (place / EDITED).is_dir():
        return set()
    edits = Table(place / EDITED).read(["id", "filter"])
    chosen = pc.is_in(edits.column("filter"), pa.array(sorted(filters), pa.string()))
    return set(edits.filter(chosen).column("id").to_pylist())


def _changed(place: Path, hidden: Collection[str]) -> Iterator[Row]:
    """Documents that lost lines and stayed, but these."""
    drawing = DrawnRows(COUNT, SEED)
    for records in Table(place / DOCUMENTS).batches(columns=["id", "source", "lines_dropped"]):
        for row in records.filter(pc.greater(records.column("lines_dropped"), 0)).to_pylist():
            lost = f"{row['lines_dropped']} frequent lines went"
            if row["id"] in hidden:
                continue
            found = {"source": row["source"], "id": row["id"], "score": None, "detail": lost, "of": "", "stays": True}
            drawing.offer(row["id"], lambda found=found: found)  # type: ignore[misc]
    yield from ({"what": CHANGED, **row} for row in drawing.rows)


def _staged_texts(staged: Staged, ids: Collection[str]) -> dict[str, str]:
    """The texts of these documents as they were read."""
    wanted = sorted(id for id in ids if len(id) == ID_DIGITS)  # what an earlier corpus has is not staged
    wanted_E2 = halves(id_bytes(wanted))
    first: dict[int, int] = {}
    for start, portion in zip(staged.starts.tolist(), staged.portions, strict=False):
        place_D = places_of(halves(portion.facts("ids_D16")[0]), wanted_E2)
        for row in np.flatnonzero(place_D >= 0).tolist():
            first.setdefault(int(place_D[row]), start + row)
    by_number = sorted(first.items(), key=lambda item: item[1])
    texts = staged.texts(np.array([number for _, number in by_number], np.int64)).to_pylist()
    return {wanted[place]: text for (place, _), text in zip(by_number, texts, strict=True)}


def _corpus_texts(place: Path, ids: set[str]) -> dict[str, str]:
    """The texts of these documents as they stayed."""
    found: dict[str, str] = {}
    for file in Table(place / DOCUMENTS).parts() if ids else ():
        for group in range(file.num_row_groups):
            here = file.read_row_group(group, ["id"]).column("id").to_pylist()
            if not ids.isdisjoint(here):
                texts = file.read_row_group(group, ["text"]).column("text")
                found |= {id: texts[n].as_py() for n, id in enumerate(here) if id in ids}
    return found


def _shown(row: Row, before: Mapping[str, str], after: Mapping[str, str]) -> Row:
    text = before.get(row["id"], "")
    stayed, other = after.get(row["id"]) if row["stays"] else None, before.get(row["of"])
    compared = stayed if stayed is not None else other
    start = max(0, _shared(text, compared) - LEAD) if compared is not None else 0
    shown = {name: row[name] for name in ("what", "source", "id", "score", "detail")}
    pieces = {"before": text, "after": stayed, "other": other}
    return shown | {name: _cut(piece, start) for name, piece in pieces.items() if piece is not None}


def _shared(one: str, other: str) -> int:
    """Characters at the beginning that both texts have; 0 where they do not differ."""
    ends = (n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    return next(ends, min(len(one), len(other)) if len(one) != len(other) else 0)


def _cut(text: str, start: int) -> str:
    piece = text[start : start + CHARACTERS]
    return ("… " if start else "") + piece + (" …" if start + CHARACTERS < len(text) else "")
