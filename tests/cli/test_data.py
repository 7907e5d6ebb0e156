"""`llama3 data`: each part alone, over the same stages as a run, and what is refused before any work."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from llama3 import _core
from llama3.artifacts import Artifact
from llama3.data import TokenLoader
from llama3.data.corpus import Corpus
from llama3.data.plan import TokenPlan
from llama3.data.vocabulary import TokenizerOptions, tokenizer
from llama3.errors import LlamaError
from llama3.execution import Executor
from llama3.preflight import load_config, ready
from llama3.recipe import curated, tokenised
from llama3.tokenizer import Tokenizer

WORDS = [
    "the",
    "sea",
    "of",
    "ships",
    "and",
    "to",
    "that",
    "with",
    "be",
    "have",
    "wind",
    "over",
    "water",
    "they",
    "sing",
]


def text(number: int, words: int = 120) -> str:
    draw = np.random.default_rng(number)
    return " ".join(draw.choice(WORDS, words)) + "."


@pytest.fixture
def folder(tmp_path) -> Path:
    """12 documents, one of them twice and one nearly so."""
    place = tmp_path / "book"
    place.mkdir()
    texts = [text(n) for n in range(12)]
    for number, content in enumerate([*texts, texts[3], texts[5].replace(".", " again.")]):
        (place / f"{number:02}.txt").write_text(content)
    return place


@pytest.fixture
def vocabulary(tmp_path) -> Path:
    Tokenizer.train([text(n) for n in range(12)], 290, 16).save(tmp_path / "tokenizer")
    return tmp_path / "tokenizer"


def refused(llama3, code, *args):
    exit_code, _, told = llama3("data", *args)
    assert exit_code != 0
    assert code in told, told
    return told


# -- curate and dedup ------------------------------------------------------------------------------


def test_dedup_removes_duplicates_and_nothing_else(ask, folder, tmp_path):
    made = ask("dedup", folder, "--out", tmp_path / "out")
    assert made["rejects"] == {"exact.exact_duplicate": 1, "near.near_duplicate": 1}
    corpus = Corpus(made["path"])
    assert len(corpus) == 12
    assert corpus.sources == ["book"]
    assert len(Corpus(ask("dedup", folder, "--out", tmp_path / "exact", "--threshold", 1)["path"])) == 13
    again = ask("dedup", folder, "--out", tmp_path / "out")
    assert again["path"] == made["path"], "found, not made again"


def test_dedup_keeps_what_only_shares_an_address_or_words_of_a_benchmark(ask, tmp_path):
    lines, asked, config = tmp_path / "a.jsonl", tmp_path / "asked.jsonl", tmp_path / "c.yaml"
    rows = [{"text": text(n), "url": "http://a/same"} for n in (1, 2, 2)]
    lines.write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked.write_text(json.dumps({"text": text(1)}) + "\n")
    config.write_text(
        f"data: {{sources: [{{name: jsonl, path: {lines}}}], "
        f"decontaminate: {{benchmarks: {{asked: {{path: {asked}}}}}}}}}\n"
    )
    assert ask("dedup", config, "--out", tmp_path / "out")["rejects"] == {"exact.exact_duplicate": 1}


def test_curate_is_the_first_stage_of_a_run(llama3, ask, folder, tmp_path):
    config = tmp_path / "c.yaml"
    config.write_text(
        f"run: {{dir: {tmp_path}, name: mine}}\n"
        f"data: {{sources: [{{name: files, path: {folder}, source: book}}], filters: []}}\n"
    )
    made = ask("curate", config)
    assert Path(made["path"]).parent == tmp_path / "mine" / "artifacts"
    assert ask("curate", tmp_path / "mine")["path"] == made["path"], "a run is a config too"
    (tmp_path / "mine").rename(tmp_path / "moved")
    again = ask("curate", tmp_path / "moved")
    assert Path(again["path"]) == tmp_path / "moved" / "artifacts" / Path(made["path"]).name, "found where it is now"
    assert not (tmp_path / "mine").exists()
    named = ask("curate", tmp_path / "moved", "--set", "run.name=other")
    assert Path(named["path"]).parent == tmp_path / "other" / "artifacts"
    told = llama3("data", "curate", config, "--set", "data.exact=false")
    assert "near_duplicate" in told[1]
    assert "exact_duplicate" not in told[1]


def test_a_folder_is_read_by_its_endings(llama3, ask, folder, tmp_path):
    lines = tmp_path / "lines"
    lines.mkdir()
    rows = [json.dumps({"text": text(n), "url": f"http://a/{n}"}) for n in range(4)]
    (lines / "a.jsonl").write_text("\n".join(rows))
    made = ask("curate", lines, "--out", tmp_path / "lines-run", "--set", "data.filters=[]")
    (batch,) = Corpus(made["path"]).documents(None)
    assert batch.column("url") == [f"http://a/{n}" for n in range(4)]
    (folder / "odd.jsonl").write_text("{}")
    told = refused(llama3, "L3-DAT-234", "dedup", folder, "--out", tmp_path / "no")
    assert "files, jsonl" in told
    assert not (tmp_path / "no").exists()
    assert len(Corpus(ask("dedup", folder, "--out", tmp_path / "as", "--as", "files")["path"])) == 13


def test_rows_of_a_table_are_documents(llama3, ask, tmp_path):
    (tmp_path / "rows").mkdir()
    table = "".join(f'{n},"{text(n)}"\n' for n in range(4))
    (tmp_path / "rows" / "a.csv").write_text(f"id,text\n{table}5\n")
    made = ask("curate", tmp_path / "rows", "--out", tmp_path / "out", "--set", "data.filters=[]")
    assert (len(Corpus(made["path"])), made["rejects"]) == (4, {"read.broken_csv": 1})


def test_a_line_of_a_broken_row_is_no_document_of_another(ask, tmp_path):
    whole = "".join(f'"{text(n)}",v{n}\n' for n in range(4))
    broken = '"unclosed,u2\n"first line\nmiddle line\nlast line of the third row",u3\n'
    (tmp_path / "a.csv").write_text(f"text,url\n{broken}{whole}")
    made = ask("curate", tmp_path / "a.csv", "--out", tmp_path / "out", "--set", "data.filters=[]")
    (batch,) = Corpus(made["path"]).documents(None)
    assert batch.column("url") == [f"v{n}" for n in range(4)]


def test_a_wrong_value_is_told_under_the_option_that_gave_it(llama3, folder, tmp_path):
    told = refused(llama3, "L3-", "dedup", folder, "--out", tmp_path / "out", "--threshold", 7)
    assert "--threshold: data.minhash.threshold" in told
    told = refused(llama3, "L3-", "dedup", folder, "--out", tmp_path / "out", "--against", tmp_path / "nowhere")
    assert "--set" not in told


def test_what_cannot_be_read_is_refused_before_anything_is_there(llama3, folder, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    refused(llama3, "L3-DAT-232", "curate", folder)
    for command in ("curate", "dedup"):
        refused(llama3, "L3-DAT-249", command, tmp_path / "nowhere", "--out", tmp_path / "no")
        assert "'quickstart'" in refused(llama3, "L3-DAT-249", command, "quickstar", "--out", tmp_path / "no")
    refused(llama3, "L3-DAT-233", "curate", empty, "--out", tmp_path / "no")
    refused(llama3, "L3-CFG", "dedup", folder, "--out", tmp_path / "no", "--threshold", "2")
    assert not (tmp_path / "no").exists()
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("thesis")
    refused(llama3, "L3-RUN-005", "dedup", folder, "--out", mine)
    assert [path.name for path in mine.iterdir()] == ["thesis.txt"]


def test_an_option_that_plays_no_part_or_names_nothing_is_refused(llama3, ask, folder, vocabulary, tmp_path):
    no = ("--out", tmp_path / "no")
    for half, other in (("--rank", "--world"), ("--world", "--rank")):
        assert f"{half} is given without {other}" in refused(llama3, "L3-DAT-281", "curate", folder, *no, half, "1")
    refused(llama3, "L3-DAT-270", "curate", folder, *no, "--rank", "2", "--world", "2")
    refused(llama3, "L3-DAT-284", "audit", tmp_path / "nowhere", "--step", "1")
    ask("dedup", folder, "--out", tmp_path / "run")
    assert "give one of book" in refused(llama3, "L3-DAT-282", "sample", tmp_path / "run", "--source", "web")
    refused(llama3, "L3-DAT-283", "shard", tmp_path / "run", *no, "--tokenizer", vocabulary, "--as-is")
    refused(llama3, "L3-DAT-283", "shard", tmp_path / "run", *no, "--tokenizer", vocabulary, "--to", "megatron")
    config = tmp_path / "c.yaml"
    config.write_text(f"data: {{sources: [{{name: files, path: {folder}, source: book}}]}}\n")
    for wrong in (["--source", "web"], ["--source", "book", "--suite", "nope"]):
        assert "L3-SCL-03" in refused(llama3, "L3-SCL-03", "probe", config, *no, *wrong)
    refused(llama3, "L3-SCL-033", "mix-search", config, *no, "--target", "web=1")
    assert not (tmp_path / "no").exists()


# -- inspect and sample ----------------------------------------------------------------------------


@pytest.fixture
def corpus(ask, folder, tmp_path) -> Path:
    """A run directory with a corpus."""
    ask("dedup", folder, "--out", tmp_path / "run")
    return tmp_path / "run"


def test_inspect_tells_what_is_in_a_corpus(llama3, ask, corpus):
    found = ask("inspect", corpus)
    figures = found["corpus"]
    assert found["ok"]
    assert figures["verified"]
    assert figures["documents"] == 12
    assert sum(cell["documents"] for cell in figures["sources"]["book"].values()) == 12
    assert figures["removed"] == {"exact.exact_duplicate": 1, "near.near_duplicate": 1}
    assert figures["kinds"] == {"prose": 12}
    code, printed, _ = llama3("data", "inspect", corpus)
    assert code == 0
    assert "near.near_duplicate" in printed


def test_inspect_names_what_is_damaged(llama3, corpus):
    file = corpus / "artifacts" / "curate" / "scores" / "000000.parquet"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(bytes(data))
    code, printed, told = llama3("data", "inspect", corpus, "--json")
    assert code == 1
    assert not json.loads(printed)["ok"]
    assert "scores/000000.parquet" in told
    refused(llama3, "L3-DAT-230", "inspect", corpus.parent / "tokenizer-that-is-not")


def test_samples_are_drawn_by_the_seed(llama3, ask, corpus):
    drawn = ask("sample", corpus, "--count", 4, "--seed", 7, "--characters", 20)
    assert drawn == ask("sample", corpus / "artifacts" / "curate", "--count", 4, "--seed", 7, "--characters", 20)
    assert len(drawn["kept"]) == 4
    assert all(len(row["text"]) == 20 for row in drawn["kept"])
    others = [ask("sample", corpus, "--count", 4, "--seed", seed)["kept"] for seed in range(6)]
    assert len({tuple(row["id"] for row in rows) for rows in others}) > 1
    assert {reason: len(rows) for reason, rows in drawn["removed"].items()} == {
        "exact.exact_duplicate": 1,
        "near.near_duplicate": 1,
    }
    everything = ask("sample", corpus, "--count", 99)["kept"]
    assert len({row["id"] for row in everything}) == 12
    assert ask("sample", corpus, "--count", 0)["kept"] == []
    refused(llama3, "L3-DAT-231", "sample", corpus.parent)


# -- shard -----------------------------------------------------------------------------------------


def documents(shards: Path) -> list[list[int]]:
    plan = TokenPlan.load(shards)
    found = [_core.Shard(path) for source in plan.sources for path in plan.paths(source)]
    return [shard.document(n)[1].tolist() for shard in found for n in range(shard.documents)]


def test_a_corpus_becomes_shards_and_they_other_files_and_those_shards_again(ask, corpus, vocabulary, tmp_path):
    made = ask("shard", corpus, "--tokenizer", vocabulary, "--out", tmp_path / "shards")
    tokenizer = Tokenizer.load(vocabulary)
    texts = [text for batch in Corpus(corpus / "artifacts" / "curate").documents("train") for text in batch.texts]
    assert documents(Path(made["path"])) == [tokenizer.encode(one, bos=True, eos=True).tolist() for one in texts]
    assert len(TokenLoader(tmp_path / "shards", seq_len=16)) > 0, "the run directory is enough for the loader"
    for format in ("megatron", "datatrove"):
        written = ask("shard", tmp_path / "shards", "--to", format, "--out", tmp_path / format)
        assert sum(row["tokens"] for row in written["files"].values()) == made["tokens"]
        seen = ask("inspect", tmp_path / format)["tokens"]
        assert (seen["format"], seen["tokens"], seen["documents"]) == (format, made["tokens"], len(texts))
        back = ask("shard", tmp_path / format, "--from", format, "--tokenizer", vocabulary,
                   "--out", tmp_path / f"{format}-back")  # fmt: skip
        assert documents(Path(back["path"])) == documents(Path(made["path"]))
        assert (back["added_bos"], back["added_eos"]) == (0, 0)
        shards = ask("inspect", tmp_path / f"{format}-back")["shards"]
        assert shards["verified"]
        assert shards["origins"]["format"] == format
        assert Artifact(back["path"]).type == "shards"


def test_a_run_is_a_tokenizer_too(ask, corpus, vocabulary, tmp_path):
    made = ask("shard", corpus, "--tokenizer", vocabulary, "--out", tmp_path / "first")
    again = ask("shard", corpus, "--tokenizer", tmp_path / "first", "--out", tmp_path / "second")
    assert documents(Path(again["path"])) == documents(Path(made["path"]))
    ask("shard", tmp_path / "first", "--to", "megatron", "--out", tmp_path / "megatron")
    back = ask("shard", tmp_path / "megatron", "--from", "megatron", "--tokenizer", tmp_path / "first", "--out",
               tmp_path / "third")  # fmt: skip
    assert documents(Path(back["path"])) == documents(Path(made["path"]))


def test_inspect_finds_a_flipped_bit_in_a_shard(llama3, ask, corpus, vocabulary, tmp_path):
    made = ask("shard", corpus, "--tokenizer", vocabulary, "--out", tmp_path / "shards")
    (file,) = Path(made["path"]).glob("*.tok")
    data = bytearray(file.read_bytes())
    data[4100] ^= 1
    file.write_bytes(bytes(data))
    told = refused(llama3, "L3-DAT-203", "inspect", tmp_path / "shards")
    assert file.name in told


def test_a_wrong_question_is_refused_at_once(llama3, corpus, vocabulary, tmp_path):
    out = tmp_path / "out"
    refused(llama3, "L3-DAT-236", "shard", corpus, "--out", out)
    refused(llama3, "L3-DAT-236", "shard", corpus, "--from", "megatron", "--out", out)
    refused(llama3, "L3-DAT-237", "shard", corpus, "--from", "megatron", "--to", "datatrove", "--out", out)
    refused(llama3, "L3-DAT-238", "shard", corpus, corpus, "--out", out)
    assert "'megatron'" in refused(llama3, "L3-DAT-235", "shard", corpus, "--to", "megatrom", "--out", out)
    refused(llama3, "L3-DAT-224", "shard", corpus, "--from", "datatrove", "--tokenizer", vocabulary, "--out", out)
    refused(llama3, "L3-DAT-201", "shard", corpus, "--to", "megatron", "--out", out)
    refused(llama3, "L3-DAT-239", "audit", corpus)
    refused(llama3, "L3-DAT-248", "audit", corpus, "--step", "3", "--document", "x")
    refused(llama3, "L3-DAT-241", "audit", corpus, "--step", "1")
    refused(llama3, "L3-DAT-240", "skip", corpus, "--steps", "9-3")
    refused(llama3, "L3-DAT-241", "skip", corpus, "--steps", "3-9")
    assert not out.exists()


def test_a_source_reads_files_of_the_endings_that_it_names(tmp_path, ask):
    rows = [json.dumps({"text": text(n)}) for n in range(3)]
    (tmp_path / "one.NDJSON").write_text("\n".join(rows))
    made = ask("dedup", tmp_path / "one.NDJSON", "--out", tmp_path / "run")
    assert Corpus(made["path"]).sources == ["one.NDJSON"]
    assert len(Corpus(made["path"])) == 3


def test_a_run_trains_on_token_files_that_its_config_names(llama3, ask, folder, corpus, vocabulary, tmp_path):
    ask("shard", corpus, "--tokenizer", vocabulary, "--out", tmp_path / "shards")
    ask("shard", tmp_path / "shards", "--to", "datatrove", "--out", tmp_path / "files")
    config = {
        "run": {"dir": str(tmp_path), "name": "mine", "threads": 1},
        "tokenizer": {"path": str(vocabulary / "tokenizer.json")},
        "data": {
            "sources": [{"name": "files", "path": str(folder), "source": "book"}],
            "filters": [],
            "tokens": {"format": "datatrove", "paths": [str(tmp_path / "files")]},
        },
    }
    loaded = ready(load_config(config))
    with Executor(loaded) as make:
        made = curated(make, loaded.config)
        known = make(tokenizer, "tokenizer", TokenizerOptions.of(loaded.config), corpus=made)
        shards = tokenised(make, loaded.config, made, known)
    assert shards.manifest.stage == "imported"
    assert documents(shards.path) == documents(tmp_path / "shards" / "artifacts" / "shard")

    config["tokenizer"] = {}
    (tmp_path / "files" / "0000-book.ds").write_bytes(b"x")
    with pytest.raises(LlamaError) as refused:
        load_config(config)
    assert {"L3-DAT-247", "L3-DAT-220"} <= {problem.code for problem in refused.value.problems}
