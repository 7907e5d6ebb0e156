"""The curate stage, end to end on folders and on a bounded part of the standard library."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_texts import prose

from llama3.config.schema import Config
from llama3.data.corpus import split_of
from llama3.data.curate import CurateOptions
from llama3.data.documents import DocumentBatch, Judgement, ShardRef
from llama3.errors import ConfigError, DataError, PluginError
from llama3.plugins.registry import discover


def write(folder: Path, **files: str | bytes) -> Path:
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        data = content.encode() if isinstance(content, str) else content
        (folder / f"{name}.txt").write_bytes(data)
    return folder


def texts_of(corpus: object, split: str | None = None) -> list[str]:
    return [text for batch in corpus.documents(split) for text in batch.texts]  # type: ignore[attr-defined]


def test_every_stage_takes_out_what_it_should(tmp_path: Path, curated: Callable) -> None:
    base = prose(1)
    words = base.split()
    folder = write(
        tmp_path / "in",
        a=base,
        b=base + "  \r\n",  # the same text, stored otherwise
        c=" ".join(["Suddenly", *words]),  # one word inserted at the front
        d=prose(2),
        e="to the",
        f=b"\xff\xfe broken",
        g=b"bin\0ary",
    )
    corpus, out = curated(sources=[{"name": "files", "path": str(folder), "source": "web"}])
    assert texts_of(corpus) == [base, prose(2)]
    assert corpus.sources == ["web"]
    log = corpus.rejects().to_pylist()
    assert [(row["stage"], row["reason"]) for row in log] == [
        ("read", "not_utf8"),
        ("read", "binary"),
        ("exact", "exact_duplicate"),
        ("near", "near_duplicate"),
        ("filter.gopher", "words"),
    ]
    by_reason = {row["reason"]: row for row in log}
    assert by_reason["not_utf8"]["where"] == str(folder / "f.txt")
    kept_id = next(corpus.documents()).column("id")[0]
    assert by_reason["near_duplicate"]["detail"] == by_reason["exact_duplicate"]["detail"] == f"of {kept_id}"
    shingles = [{tuple(t[i : i + 5]) for i in range(len(t) - 4)} for t in (words, ["suddenly", *words])]
    expected = len(shingles[0] & shingles[1]) / len(shingles[0] | shingles[1])
    assert by_reason["near_duplicate"]["score"] == pytest.approx(expected, abs=0.03)  # repeated runs aside
    assert by_reason["words"]["score"] == 25.0  # two words where 50 are asked for
    counts = {stage: cell["web"]["documents"] for stage, cell in corpus.funnel.items()}
    assert counts == {"read": 5, "exact": 4, "near": 3, "lines": 3, "filter.gopher": 2, "train": 2, "held_out": 0}
    assert corpus.funnel == out.metrics["funnel"]
    assert out.metrics["near_duplicates"]["unsupported_removals"] == 0


def test_scores_are_recorded_for_a_cut_without_a_scan(tmp_path: Path, curated: Callable) -> None:
    folder = write(tmp_path / "in", a=prose(1, 200), b=prose(2, 60), c=prose(3, 20))
    corpus, _ = curated(sources=[{"name": "files", "path": str(folder)}])
    scores = corpus.scores()
    assert scores.column("kept").to_pylist() == [True, True, False]
    score = scores.column("gopher_score").to_numpy()
    assert ((score <= 1) == scores.column("kept").to_numpy(zero_copy_only=False)).all()
    assert scores.column("words").to_pylist() == [200, 60, 20]
    stricter, _ = curated(
        sources=[{"name": "files", "path": str(folder)}], filters=[{"name": "gopher", "prose": {"words": {"min": 100}}}]
    )
    recut = [i for i, n in enumerate(scores.column("words").to_pylist()) if score[i] <= 1 and n >= 100]
    assert [d for batch in stricter.documents(None) for d in batch.column("id")] == [
        scores.column("id")[i].as_py() for i in recut
    ]


def test_exactly_the_lines_that_occur_seven_times_vanish(tmp_path: Path, curated: Callable) -> None:
    six, seven = "Subscribe to our letter, reader 42!", "Accept all  COOKIES (now)"
    files = {}
    for n in range(9):
        lines = [prose(10 + n)]
        lines += [six] if n < 6 else []
        lines += [seven if n % 2 else "accept all cookies now"] if n < 7 else []
        files[f"d{n}"] = "\n".join(lines)
    corpus, out = curated(sources=[{"name": "files", "path": str(write(tmp_path / "in", **files))}])
    texts = texts_of(corpus, None)
    assert len(texts) == 9
    assert sum(six in text for text in texts) == 6
    assert not any("cookies" in text.lower() for text in texts)
    assert out.metrics["lines"] == {"frequent": 1, "dropped": 7}
    # In buckets of 6 documents no line occurs 7 times.
    section = {"sources": [{"name": "files", "path": str(tmp_path / "in")}], "lines": {"bucket_documents": 6}}
    assert curated(**section)[1].metrics["lines"] == {"frequent": 0, "dropped": 0}


def test_line_dedup_spares_code_and_reports_emptied_documents(tmp_path: Path, curated: Callable) -> None:
    code = "\n".join(f"def function_{n}(value):\n    return None" for n in range(20))
    write(tmp_path / "in", **{f"menu{n}": "Home\nAbout the site\n" + "x" * n for n in range(8)})
    (tmp_path / "in" / "module.py").write_text(code)
    section = {
        "sources": [{"name": "files", "path": str(tmp_path / "in")}],
        "filters": [],
        "minhash": {"enabled": False},
    }
    corpus, out = curated(**section)
    assert code in texts_of(corpus, None)
    assert out.metrics["rejects"] == {"lines.no_text_left": 1}
    assert not any("Home" in text for text in texts_of(corpus, None))


def test_the_split_is_a_function_of_the_origin(tmp_path: Path, curated: Callable) -> None:
    write(tmp_path / "in", **{f"d{n:03}": prose(n, 60) for n in range(200)})
    section = {"sources": [{"name": "files", "path": str(tmp_path / "in")}], "held_out": 0.2}
    corpus, _ = curated(**section)
    held = [o for batch in corpus.documents("held_out") for o in batch.column("origin")]
    assert all(split_of(origin, 0.2) == "held_out" for origin in held)
    assert 0.1 < len(held) / len(corpus) < 0.3
    # Removing other documents moves nobody to the other side.
    for path in sorted((tmp_path / "in").iterdir())[::2]:
        path.unlink()
    fewer, _ = curated(**section)
    remaining = {o for batch in fewer.documents("held_out") for o in batch.column("origin")}
    assert remaining == {o for o in held if (tmp_path / "in" / o).exists()}


def test_a_corpus_that_was_moved_is_the_same_but_for_its_urls(tmp_path: Path, curated: Callable) -> None:
    texts = {f"d{n:03}": prose(n, 60) for n in range(50)}
    found = []
    for folder in ("here", "there/and/back"):
        (tmp_path / folder).mkdir(parents=True)
        path = str(write(tmp_path / folder, **texts))
        corpus, _ = curated(sources=[{"name": "files", "path": path}], held_out=0.3)
        found.append([(split, texts_of(corpus, split)) for split in ("train", "held_out")])
    assert found[0] == found[1]


def test_near_duplicates_never_straddle_the_split(tmp_path: Path, curated: Callable) -> None:
    files = {}
    for n in range(60):
        words = prose(n, 100).split()
        files[f"a{n}"] = " ".join(words)
        files[f"b{n}"] = " ".join([*words[:50], "inserted", *words[50:]])
    section = {"sources": [{"name": "files", "path": str(write(tmp_path / "in", **files))}], "held_out": 0.3}
    corpus, _ = curated(**section)
    starts = {split: {t[:40] for t in texts_of(corpus, split)} for split in ("train", "held_out")}
    assert starts["held_out"]
    assert not starts["train"] & starts["held_out"]


@pytest.fixture(scope="module")
def stdlib_section() -> dict[str, object]:
    return {"sources": [{"name": "stdlib", "max_bytes": 1_500_000}], "held_out": 0.05}


def test_standard_library(curated: Callable, stdlib_section: dict[str, object]) -> None:
    corpus, out = curated(**stdlib_section)
    assert corpus.sources == ["prose", "python"]
    train = corpus.counts["train"]
    assert train["python"]["bytes"] > 1_000_000
    assert train["prose"]["bytes"] > 200_000
    funnel = corpus.funnel
    kept_code = funnel["filter.gopher"]["python"]["bytes"] / funnel["read"]["python"]["bytes"]
    assert kept_code > 0.9  # rules made for prose do not eat code
    assert out.metrics["near_duplicates"]["unsupported_removals"] == 0
    columns = {
        (k, s)
        for batch in corpus.documents(None)
        for k, s in zip(batch.column("kind"), batch.column("source"), strict=True)
    }
    assert columns == {("prose", "prose"), ("code", "python")}
    # The docstrings of a held-out module are not trained on as prose, nor the other way round.
    origins = {
        split: {o for b in corpus.documents(split) for o in b.column("origin")} for split in ("train", "held_out")
    }
    assert not origins["train"] & origins["held_out"]


def test_two_runs_are_equal_to_the_byte(curated: Callable, stdlib_section: dict[str, object]) -> None:
    (first, out1), (second, out2) = curated(**stdlib_section), curated(**stdlib_section)
    assert out1.metrics == out2.metrics
    files = [path.relative_to(first.path) for path in sorted(first.path.rglob("*")) if path.is_file()]
    assert len(files) > 6
    for file in files:
        assert (first.path / file).read_bytes() == (second.path / file).read_bytes(), file
    json.dumps(out1.metrics)


def test_missing_and_empty_sources_are_named_together_before_work(tmp_path: Path) -> None:
    write(tmp_path / "empty", a="", b="")
    sources = [
        {"name": "files", "path": str(tmp_path / "nowhere")},
        {"name": "stdlib", "max_bytes": 200_000},
        {"name": "jsonl", "path": str(tmp_path / "empty")},
        {"name": "files", "path": str(tmp_path / "empty")},
    ]
    with pytest.raises(ConfigError) as caught:
        CurateOptions.of(Config.model_validate({"data": {"sources": sources}}))
    assert [problem.code for problem in caught.value.problems] == ["L3-SRC-001", "L3-SRC-004", "L3-SRC-002"]
    assert str(tmp_path / "nowhere") in str(caught.value)


def test_a_damaged_shard_is_quarantined_whole_and_named(tmp_path: Path, curated: Callable) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    pq.write_table(pa.table({"text": [prose(n) for n in range(50)]}), folder / "good.parquet")
    pq.write_table(
        pa.table({"text": [prose(100 + n) for n in range(5000)]}), folder / "half.parquet", row_group_size=500
    )
    whole = (folder / "half.parquet").read_bytes()
    damaged = whole[:200_000] + bytes(len(whole) - 300_000) + whole[-100_000:]
    (folder / "half.parquet").write_bytes(damaged)
    (folder / "none.parquet").write_bytes(b"PAR1 this is no parquet file PAR1")
    corpus, out = curated(sources=[{"name": "parquet", "path": str(folder)}])
    assert len(corpus) == 50
    assert out.metrics["quarantined_shards"] == 2
    named = [row["where"] for row in corpus.rejects().to_pylist() if row["reason"] == "shard_quarantined"]
    assert named == [f"{folder / name}#0" for name in ("half.parquet", "none.parquet")]
    assert (folder / "half.parquet").read_bytes() == damaged


def test_nothing_readable_and_nothing_left_are_errors(tmp_path: Path, curated: Callable) -> None:
    folder = write(tmp_path / "in", a=b"\xff\xff", b=b"\0")
    with pytest.raises(DataError, match="not_utf8 1"):
        curated(sources=[{"name": "files", "path": str(folder)}])
    folder = write(tmp_path / "short", a="the end of it")
    with pytest.raises(DataError, match=r"filter\.gopher\.words 1"):
        curated(sources=[{"name": "files", "path": str(folder)}])


def test_minhash_and_exact_can_be_switched_off(tmp_path: Path, curated: Callable) -> None:
    base = prose(1)
    folder = write(tmp_path / "in", a=base, b=base, c="New " + base)
    section = {"sources": [{"name": "files", "path": str(folder)}], "lines": {"enabled": False}}
    corpus, _ = curated(**section, exact=False, minhash={"enabled": False})
    assert texts_of(corpus, None) == [base, base, "New " + base]
    corpus, _ = curated(**section, minhash={"enabled": False})
    assert texts_of(corpus, None) == [base, "New " + base]
    assert np.all(np.array(corpus.scores().column("kept")))


class Broken:
    """A source or filter of a third party that does not keep its contract."""

    features = frozenset({"words"})

    def __init__(self, fault: str) -> None:
        self.fault = fault

    def shards(self) -> list[ShardRef]:
        return [ShardRef("theirs", "somewhere")]

    def read(self, shard: ShardRef) -> Iterator[DocumentBatch]:
        good = DocumentBatch.of([prose(1)], source="theirs", urls=["u"])
        yield good
        if self.fault == "raises":
            raise KeyError("oops")
        yield DocumentBatch(good.records.drop_columns(["kind"]))

    def judge(self, batch: DocumentBatch) -> Judgement:
        if self.fault == "raises":
            raise ZeroDivisionError("oops")
        return Judgement(np.zeros(1), np.ones(1, bool), [""])


@pytest.mark.parametrize(
    ("fault", "said"), [("raises", "test_curate:Broken: `read` failed. KeyError"), ("columns", "without kind")]
)
def test_a_source_that_fails_costs_its_shard(
    tmp_path: Path, curated: Callable, monkeypatch: pytest.MonkeyPatch, fault: str, said: str
) -> None:
    folder = write(tmp_path / "in", a=prose(7))
    good = discover().build("sources", "files", {"path": str(folder)})
    built = {"files": good, "theirs": Broken(fault)}
    monkeypatch.setattr("llama3.data.curating.build_sources", lambda slots: [built[slot.name] for slot in slots])
    corpus, out = curated(sources=["theirs", "files"])
    assert texts_of(corpus) == [prose(7)]
    assert out.metrics["quarantined_shards"] == 1
    assert said in corpus.rejects().to_pylist()[0]["detail"]


@pytest.mark.parametrize(
    ("fault", "said"), [("raises", r"Broken\.judge failed\. ZeroDivisionError"), ("size", "judge gave")]
)
def test_a_filter_that_fails_stops_the_stage(
    tmp_path: Path, curated: Callable, monkeypatch: pytest.MonkeyPatch, fault: str, said: str
) -> None:
    monkeypatch.setattr("llama3.data.curating.build_filters", lambda slots: {"theirs": Broken(fault)})
    folder = write(tmp_path / "in", a=prose(1), b=prose(2))
    with pytest.raises(PluginError, match=said):
        curated(sources=[{"name": "files", "path": str(folder)}])


def test_a_filter_listed_twice_is_refused(tmp_path: Path, curated: Callable) -> None:
    folder = write(tmp_path / "in", a=prose(1))
    with pytest.raises(ConfigError, match="listed twice"):
        curated(sources=[{"name": "files", "path": str(folder)}], filters=["gopher", "gopher"])


def test_changed_files_change_the_request(tmp_path: Path) -> None:
    folder = write(tmp_path / "in", a=prose(1), b=prose(2))
    config = lambda path, **section: Config.model_validate(
        {"data": {"sources": [{"name": "files", "path": str(path)}], **section}}
    )
    before = CurateOptions.of(config(folder))
    assert CurateOptions.of(config(folder, mix={"in": 2.0})) == before, "the mix is not read here"
    (folder / "b.txt").write_text(prose(3))
    assert CurateOptions.of(config(folder)).found != before.found
    with pytest.raises(ConfigError, match="L3-SRC-001"):
        CurateOptions.of(config(tmp_path / "no"))


def test_a_language_is_a_corpus_of_its_own_where_it_may_be(tmp_path: Path, curated: Callable) -> None:
    """Near duplicates and frequent lines of two languages do not meet."""
    line = "A line that stands in many documents of the place"
    sources = []
    for language, shift in (("en", 0), ("de", 1), ("fr", 2)):
        folder = tmp_path / language
        texts = {f"{n}": f"{prose(10 * shift + n)}\n{line}\n{prose(100 * (shift + 1) + n)}" for n in range(4)}
        write(folder, **texts, same=prose(77) + f" {language}.")
        sources.append({"name": "files", "path": str(folder), "source": language, "language": language})
    together, _ = curated(sources=sources, filters=[])
    assert not any(line in text for text in texts_of(together))
    assert len(texts_of(together)) == 13
    apart, out = curated(sources=sources, filters=[], by_language=True)
    assert len(texts_of(apart)) == 15
    assert sum(line in text for text in texts_of(apart)) == 12
    assert out.metrics["lines"] == {"frequent": 0, "dropped": 0}
    few, out = curated(sources=sources, filters=[], by_language=True, lines={"max_count": 3})
    assert not any(line in text for text in texts_of(few))
    assert out.metrics["lines"] == {"frequent": 3, "dropped": 12}
