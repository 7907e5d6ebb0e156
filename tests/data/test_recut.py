"""Corpora cut by other limits, as commands: what stays is what a curation by these limits keeps, and it is a corpus."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from data_texts import prose

from llama3.artifacts import Artifact
from llama3.cli.app import main
from llama3.config.slot_types import Slot
from llama3.data.corpus import EDITED, Corpus, corpus_at
from llama3.data.documents import DocumentBatch
from llama3.data.judging import build_filters
from llama3.data.recut import recut
from llama3.data.tables import Table
from llama3.errors import DataError
from llama3.tokenizer import Tokenizer

MAIL = "ann@example.org"
TEXTS = [prose(n, 30 + 10 * n) for n in range(20)]
TEXTS += [f"{prose(n, length)} Write to {MAIL} soon." for n, length in ((50, 90), (51, 200))]


def words(least: int) -> dict[str, Any]:
    return {"name": "gopher", "prose": {"words": {"min": least}}}


WIDE = [words(60), {"name": "c4", "sentences": {}}, "personal_data"]
STRICT = [words(140), {"name": "c4", "sentences": {"min": 15}}]


def call(*arguments: str | Path, code: int = 0) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["data", *map(str, arguments)])
    assert caught.value.code in ((None, 0) if not code else (code,))


def config(path: Path, filters: list[Any], source: Path | None = None) -> Path:
    sources = [] if source is None else [{"name": "jsonl", "path": str(source), "source": "web"}]
    path.write_text(json.dumps({"data": {"filters": filters, **({"sources": sources} if sources else {})}}))
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a corpus by wide limits, one by strict limits, and the first cut by the latter."""
    folder = tmp_path_factory.mktemp("recut")
    (folder / "in.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    (folder / "list").write_text("darn\n")
    listed = {"name": "dirty_words", "lists": {"en": str(folder / "list")}}
    for name, filters in (("wide", [*WIDE, listed]), ("strict", STRICT)):
        call("curate", config(folder / f"{name}.yaml", filters, folder / "in.jsonl"), "--out", folder / name)
    call("recut", folder / "wide", folder / "strict.yaml", "--out", folder / "cut")
    return folder


def ids(place: Path) -> list[str]:
    return [id for batch in Corpus(corpus_at(place)).documents(None) for id in batch.column("id")]


def test_a_cut_by_other_limits_is_that_of_a_curation(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wide, strict = (Artifact(corpus_at(made / name)) for name in ("wide", "strict"))
    call("recut", made / "wide", made / "strict.yaml", "--json")
    told = json.loads(capsys.readouterr().out)
    assert told["removed"] == {name: n for name, n in strict.metrics["rejects"].items() if name.startswith("filter.")}
    assert ids(made / "cut") == ids(made / "strict")
    assert told["kept"] == len(ids(made / "cut")) < told["kept_before"] < told["judged"]
    assert told["go"] == told["kept_before"] - told["kept"]
    looser = recut(wide.path, build_filters([Slot.model_validate(words(40))])).figures()
    assert (looser["judged"], looser["would_come_back"]) == (22, 2)


def test_a_cut_is_a_corpus(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What every other corpus can be, it can: inspected, sampled, sharded, deduplicated against and cut again."""
    wide, cut = Artifact(corpus_at(made / "wide")), Artifact(made / "cut").expect("corpus")
    assert [parent.hash for parent in cut.manifest.parents] == [wide.hash]
    assert [use.name for use in cut.manifest.plugins] == ["c4", "gopher"]

    call("inspect", made / "cut", "--json")
    shown = json.loads(capsys.readouterr().out)
    assert shown["ok"]
    assert shown["corpus"]["verified"]
    assert shown["corpus"]["funnel"] == cut.metrics["funnel"] == Corpus(cut.path).funnel
    left = [sum(cell["documents"] for cell in cut.metrics["funnel"][stage].values()) for stage in cut.metrics["funnel"]]
    assert left[-3] == left[-2] + left[-1] == len(ids(made / "cut"))
    assert list(cut.metrics["funnel"])[-3:] == ["recut", "train", "held_out"]

    # Whoever is not in it stands in its log once, with the reason; what stays is edited as it was.
    log = Corpus(cut.path).rejects().to_pylist()
    assert shown["corpus"]["removed"] == cut.metrics["rejects"]
    gone = set(ids(made / "wide")) - set(ids(made / "cut"))
    assert gone
    assert gone <= {row["id"] for row in log if row["stage"].startswith("filter.") and row["score"] >= 0}
    assert sorted([row["id"] for row in log] + ids(made / "cut")) == sorted(
        [row["id"] for row in Corpus(wide.path).rejects().to_pylist()] + ids(made / "wide")
    )
    edited = [set(Table(place / EDITED).read().column("id").to_pylist()) for place in (wide.path, cut.path)]
    assert edited[1] == edited[0] & set(ids(made / "cut"))
    assert [len(some) for some in edited] == [2, 1]

    call("sample", made / "cut", "--json")
    drawn = json.loads(capsys.readouterr().out)
    assert drawn["kept"]
    assert set(drawn["removed"]) == set(cut.metrics["rejects"])

    Tokenizer.train(TEXTS, 300, num_special=16).save(tmp_path / "tokenizer")
    call("shard", made / "cut", "--tokenizer", tmp_path / "tokenizer", "--out", tmp_path / "tokens", "--json")
    assert json.loads(capsys.readouterr().out)["sources"]["web"]["documents"] == left[-2]

    call("dedup", made / "in.jsonl", "--out", tmp_path / "rest", "--against", made / "cut", "--json")
    known = json.loads(capsys.readouterr().out)["rejects"]
    assert known == {"exact.in_earlier_corpus": len(ids(made / "cut"))}
    nearly = tmp_path / "nearly.jsonl"
    nearly.write_text("".join(json.dumps({"text": f"{text} more"}) + "\n" for text in TEXTS))
    call("dedup", nearly, "--out", tmp_path / "other", "--against", made / "cut", "--json")
    found = json.loads(capsys.readouterr().out)["rejects"]
    assert found == {"near.in_earlier_corpus": len(ids(made / "cut"))}

    call("recut", made / "cut", config(tmp_path / "c.yaml", [words(200)]), "--out", tmp_path / "again", "--json")
    again = Artifact(tmp_path / "again")
    assert json.loads(capsys.readouterr().out)["written"] == len(ids(tmp_path / "again")) < len(ids(made / "cut"))
    assert list(again.metrics["funnel"]) == list(cut.metrics["funnel"])
    assert [parent.hash for parent in again.manifest.parents] == [cut.hash]


def test_a_cut_that_cannot_be_made_leaves_nothing(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call("recut", made / "wide", made / "strict.yaml", "--out", made / "cut", code=1)
    assert "L3-DAT-264" in capsys.readouterr().err
    wide = corpus_at(made / "wide")
    with pytest.raises(DataError, match=r"'fineweb' reads what is not recorded here: .*newlines_per_word"):
        recut(wide, build_filters([Slot(name="fineweb")]))

    class Reading:
        features: frozenset[str] = frozenset()

        def judge(self, batch: DocumentBatch) -> Any:
            return batch.texts

    with pytest.raises(DataError, match=r"reads the text of documents"):
        recut(wide, {"mine": Reading()})
    # What the scores of a cut were made with is known as that of the corpus before it.
    (tmp_path / "other").write_text("blast\n")
    with pytest.raises(DataError, match=r"'dirty_words' has read other lists.*L3-DAT-274"):
        recut(made / "cut", build_filters([Slot(name="dirty_words", lists={"en": str(tmp_path / "other")})]))
    # A damaged corpus is not cut.
    call("recut", made / "cut", config(tmp_path / "c.yaml", [words(200)]), "--out", tmp_path / "new" / "a")
    documents = next((tmp_path / "new" / "a" / "documents").iterdir())
    documents.write_bytes(documents.read_bytes()[:-9] + b"123456789")
    call("recut", tmp_path / "new" / "a", tmp_path / "c.yaml", "--out", tmp_path / "new" / "b", code=1)
    assert "L3-ART-005" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a"]
