"""What stays is decided in bounded memory, range by range, and is what it should be; what parts count adds up."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from data_texts import prose
from hypothesis import given, settings
from hypothesis import strategies as st
from staged_texts import staged

from llama3.data import deciding
from llama3.data.arrays import as_json, write_arrays
from llama3.data.bands import write_run
from llama3.data.commits import Begun
from llama3.data.deciding import Deciding, Staged, decision_at
from llama3.data.dedup import Deduplicator
from llama3.data.documents import DocumentBatch
from llama3.data.earlier import Earlier
from llama3.data.staging import FACTS, KEYS, Portion, Reading

row = st.tuples(
    st.integers(0, 8), st.sampled_from(["", "a", "b", "c"]), st.sampled_from(["", "2023-01-02", "2024-05-01"])
)


def newest_and_first(rows: list[tuple[int, str, str]]) -> list[int]:
    """The definition: of every address the newest, then of every text the first."""
    kept = []
    for n, (_, page, _) in enumerate(rows):
        others = [m for m, other in enumerate(rows) if page and other[1] == page]
        if not page or n == max(others, key=lambda m: (rows[m][2], -m)):
            kept.append(n)
    return [n for n in kept if not any(rows[m][0] == rows[n][0] for m in kept if m < n)]


@settings(max_examples=25, deadline=None)
@given(st.lists(row, min_size=1, max_size=24), st.sampled_from([1, 3, 1000]), st.integers(1, 9))
def test_equals_the_definition_whatever_is_held(rows: list[tuple[int, str, str]], held: int, size: int) -> None:
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(deciding, "HELD", held)
        portions = []
        for number, at in enumerate(range(0, len(rows), size)):
            texts, pages, dates = zip(*rows[at : at + size], strict=True)
            batch = DocumentBatch.of(
                [f"text {text}" for text in texts],
                source="s",
                urls=[page and f"https://{page}.example/" for page in pages],
                dates=dates,
            )
            portions += staged(Path(folder), number, [batch]).portions
        found = Deciding(Staged(portions), None, Earlier([], None))
        found.older_versions()
        found.exact_duplicates()
        found.write(Path(folder) / "decided")
        decision = decision_at(Path(folder) / "decided")
        assert decision is not None
        steps = np.concatenate([decision.of(number).step_D for number in range(len(portions))])
    assert np.flatnonzero(steps == deciding.KEPT).tolist() == newest_and_first(rows)
    assert decision.kept == len(newest_and_first(rows))
    assert [number for part in decision.parts for number in part.portions] == list(range(len(portions)))


DOCUMENTS = 8_000


def portions(folder: Path, count: int, documents: int, near: Deduplicator) -> list[Portion]:
    """Facts without texts: no document is another's copy."""
    draw = np.random.default_rng(count)
    made = []
    for number in range(count):
        with Begun(folder, f"{number:06}") as begun:
            facts = {
                "bytes_D": np.full(documents, 1000),
                "ids_D16": draw.integers(0, 255, (documents, 16), np.uint8),
                "source_D": np.zeros(documents, np.uint16),
                "pages_D3": draw.integers(1, 2**63, (documents, 3), np.uint64),
                "rejects": as_json([]),
            }
            write_arrays(begun.file(FACTS), facts)
            parameters = Reading(near).parameters
            assert parameters is not None
            write_run(begun.file(KEYS), draw.integers(0, 2**63, (documents, near.bands), np.uint64), parameters)
            made.append(Portion(begun.commit({"documents": documents, "sources": ["s"]})))
    return made


def test_memory_grows_by_a_few_bytes_for_a_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A byte here and five in the core, which a table of bools and u32 tells; besides the objects of portions."""
    monkeypatch.setattr(deciding, "HELD", 5_000)
    near = Deduplicator(bands=2, rows=1)
    peaks = []
    for count in (4, 16):
        made = portions(tmp_path / str(count), count, DOCUMENTS, near)
        tracemalloc.start()
        work = Deciding(Staged(made), near, Earlier([], Reading(near).parameters))
        work.older_versions()
        work.exact_duplicates()
        work.near_duplicates()
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert (peaks[1] - peaks[0]) / (12 * DOCUMENTS) < 2
    assert peaks[0] > 100_000


def test_parts_add_up_to_the_whole(tmp_path: Path, curated: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines, words of the corpus and benchmarks, counted in one part and in many."""
    texts = [f"{prose(n, 60 + n)}\nHome\nPage {n}" for n in range(40)]
    texts[7] += "\n" + prose(900, 30)
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    (tmp_path / "bench.jsonl").write_text("".join(json.dumps({"q": prose(n, 30)}) + "\n" for n in (900, 901)))
    section = {
        "sources": [{"name": "jsonl", "path": str(tmp_path / "in.jsonl"), "source": "web"}],
        "filters": [{"name": "token_distribution", "least_words": 100, "bits": 12}, "gopher"],
        "decontaminate": {"benchmarks": {"quiz": {"path": str(tmp_path / "bench.jsonl")}}},
    }
    whole, out = curated(**section)
    for module in ("staging", "deciding"):
        monkeypatch.setattr(f"llama3.data.{module}.PORTION_BYTES", 1500)
    monkeypatch.setattr("llama3.data.staging.GROUP_BYTES", 700)
    parts, other = curated(**section)
    assert len(list((parts.path / "documents").iterdir())) > 5
    assert len(list((whole.path / "documents").iterdir())) == 1
    assert other.metrics == out.metrics
    assert out.metrics["decontamination"]["quiz"]["found"] == 1
    for table in (whole.scores, whole.rejects):
        assert table().to_pydict() == getattr(parts, table.__name__)().to_pydict()
    read = lambda corpus: [row for batch in corpus.documents(None) for row in batch.records.to_pylist()]
    assert read(parts) == read(whole)
    assert len(set(whole.scores().column("token_distribution.divergence").to_pylist())) > 30
