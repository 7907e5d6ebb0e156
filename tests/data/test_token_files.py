"""Token files of Megatron and datatrove: their own readers and writers beside ours, round trips, and damage."""

from __future__ import annotations

import struct
import warnings
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from data_texts import prose
from hypothesis import given, settings
from hypothesis import strategies as st
from token_plans import make_plan

from llama3 import _core
from llama3.artifacts import Artifact
from llama3.artifacts.run import RunDir
from llama3.config.schema import TokenizerSection
from llama3.config.token_files import TokenFormat
from llama3.data import datatrove, imported, megatron, token_files
from llama3.data.exported import export_tokens
from llama3.data.imported import ImportOptions
from llama3.data.plan import TokenPlan
from llama3.data.vocabulary import TokenizerOptions
from llama3.data.vocabulary import tokenizer as tokenizer_stage
from llama3.errors import ConfigError, DataError
from llama3.tokenizer import Tokenizer

DOCUMENTS = st.lists(st.lists(st.integers(0, 65_000), max_size=12), min_size=1, max_size=30)


def documents_of(file: token_files.TokenFile) -> list[list[int]]:
    return [
        ids_T[start:stop].tolist()
        for ids_T, starts_D1 in token_files.portions(file)
        for start, stop in pairwise(starts_D1.tolist())
    ]


def stored(folder: Path) -> dict[str, list[list[int]]]:
    """The documents of token shards by source."""
    plan = TokenPlan.load(folder)
    found: dict[str, list[list[int]]] = {}
    for source in plan.sources:
        for path in plan.paths(source):
            shard = _core.Shard(path)
            found.setdefault(source.name, []).extend(shard.document(n)[1].tolist() for n in range(shard.documents))
    return found


def write(writer: token_files.TokenFileWriter, documents: list[list[int]], cuts: int = 1) -> None:
    """In `cuts` portions."""
    size = -(-len(documents) // cuts)
    for at in range(0, len(documents), size):
        some = documents[at : at + size]
        writer.write(np.array([id for ids in some for id in ids], np.int64), np.cumsum([0, *map(len, some)]))
    writer.close()


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train([prose(n) for n in range(20)], 400, 16)


@pytest.fixture
def convert(tmp_path, tokenizer):
    """Token files as shards in a run directory."""
    tokenizer.save(tmp_path / "tokenizer")

    def run(paths: list[Path], format: TokenFormat, *, complete: bool = True) -> Artifact:
        options = ImportOptions.of(paths, format, tokenizer, complete=complete)
        named = TokenizerOptions(section=TokenizerSection(path=str(tmp_path / "tokenizer")))
        with RunDir(tmp_path / "run") as run:
            known = run.execute(tokenizer_stage, {}, named)
            return run.execute(imported.imported, {"tokenizer": known}, options, "shard")

    return run


# -- beside their own programs ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def theirs():
    """Megatron's own dataset and builder."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reason = "megatron-core is not installed"
        return pytest.importorskip("megatron.core.datasets.indexed_dataset", reason=reason)


def test_megatron_reads_what_we_write(theirs, tmp_path):
    for vocab_size in (300, 128_256):
        plan, content = make_plan(tmp_path / f"plan-{vocab_size}", vocab_size=vocab_size)
        export_tokens(plan, "megatron", tmp_path / f"out-{vocab_size}")
        for number, source in enumerate(plan.sources):
            found = theirs.IndexedDataset(str(tmp_path / f"out-{vocab_size}" / f"{number:04d}-{source.name}"))
            assert [found[n].tolist() for n in range(len(found))] == [ids for _, ids in content[source.name]]
            assert found.document_indices.tolist() == list(range(len(found) + 1))
            assert found.index.dtype == (np.uint16 if vocab_size == 300 else np.int32)


def test_we_read_what_megatron_writes(theirs, tmp_path):
    """Documents of several sequences, and every type of whole numbers that it knows."""
    import torch

    cut = [[[1, 2], [3]], [[4, 5, 6]], [[], [7]], [[8], [9], [10, 11]]]
    for type_ in (np.uint8, np.int8, np.int16, np.int32, np.int64, np.uint16):
        stem = tmp_path / type_.__name__
        builder = theirs.IndexedDatasetBuilder(f"{stem}.bin", dtype=type_)
        for sequences in cut:
            for ids in sequences:
                builder.add_item(torch.tensor(ids, dtype=torch.int64))
            builder.end_document()
        builder.finalize(f"{stem}.idx")
        found = megatron.MegatronFile.open(stem)
        assert documents_of(found) == [[id for ids in sequences for id in ids] for sequences in cut]
        assert (found.documents, found.tokens) == (4, 11)


@pytest.fixture(scope="module")
def trove():
    """datatrove's own writer."""
    return pytest.importorskip("datatrove.pipeline.tokens.tokenizer", reason="datatrove is not installed")


def test_we_read_what_datatrove_writes(trove, tmp_path):
    documents = [[1, 2, 3], [4], [], [70, 5]]
    for width in (2, 4):
        file = trove.TokenizedFile(
            str(tmp_path / str(width)), "a.ds", save_loss_metadata=True, save_final_metadata=True, token_size=width,
            tokenizer_name_or_path="a|b",
        )  # fmt: skip
        for ids in documents:
            file.write(ids, np.ones(len(ids), bool))
        file.close()
        found = datatrove.DatatroveFile.open(tmp_path / str(width) / "a.ds")
        assert documents_of(found) == documents
        assert found.tokenizer == "a|b"
        assert [path.name for path in found.files] == ["a.ds", "a.ds.index", "a.ds.loss", "a.ds.metadata"]


def test_datatrove_reads_what_we_write(trove, tmp_path):
    from datatrove.utils.dataset import DatatroveFileDataset

    plan, content = make_plan(tmp_path / "plan", sources=1, vocab_size=128_256)
    export_tokens(plan, "datatrove", tmp_path / "out")
    flat = [id for _, ids in content["source-0"] for id in ids]
    rows = DatatroveFileDataset(str(tmp_path / "out" / "0000-source-0.ds"), 15, token_size=4, return_positions=True)
    read = [rows[n] for n in range(len(rows))]
    assert [id for row in read for id in row["input_ids"].tolist()] == flat[: 16 * len(rows)]
    places = [place for _, ids in content["source-0"] for place in range(len(ids))]
    starts = [n for n, place in enumerate(places) if place == 0]
    for n, row in enumerate(read):  # its positions begin anew in every row
        inside = [start - 16 * n for start in starts if 16 * n < start < 16 * n + 15]
        assert [at for at, place in enumerate(row["positions"][:15].tolist()) if place == 0 and at] == inside


def test_datatrove_writes_megatron_files_that_we_read(trove, tmp_path):
    from datatrove.pipeline.tokens.megatron_tokenizer import MegatronTokenizedFile

    file = MegatronTokenizedFile(str(tmp_path), "a", token_size=4)
    for ids in ([1, 2, 3], [100_000]):
        file.write(ids)
    file.close()
    assert documents_of(megatron.MegatronFile.open(tmp_path / "a")) == [[1, 2, 3], [100_000]]


# -- round trips -----------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(documents=DOCUMENTS, cuts=st.integers(1, 4), portion=st.integers(1, 40), vocab=st.sampled_from([65_001, 70_000]))
def test_what_is_written_is_read(tmp_path_factory, documents, cuts, portion, vocab):
    folder = tmp_path_factory.mktemp("files")
    write(megatron.MegatronWriter(folder / "a.b", vocab), documents, cuts)
    write(datatrove.DatatroveWriter(folder / "c.ds", vocab, "t"), documents, cuts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(token_files, "PORTION", portion)
        patch.setattr(megatron, "SOME", 3)
        for found in (megatron.MegatronFile.open(folder / "a.b"), datatrove.DatatroveFile.open(folder / "c.ds")):
            assert documents_of(found) == documents
            assert (found.documents, found.tokens) == (len(documents), sum(map(len, documents)))
            sizes = [len(ids) for ids, starts in token_files.portions(found) if len(starts) > 2]
            assert max(sizes, default=0) <= portion, "only a single document is longer"


@pytest.mark.parametrize("format", ["megatron", "datatrove"])
def test_shards_come_back_as_they_were(tmp_path, convert, tokenizer, format):
    plan, content = make_plan(tmp_path / "plan", vocab_size=tokenizer.vocab_size)
    written = export_tokens(plan, format, tmp_path / "files")
    made = convert([tmp_path / "files"], format, complete=False)
    assert stored(made.path) == {"files": [ids for documents in content.values() for _, ids in documents]}
    assert made.metrics["tokens"] == sum(row["tokens"] for row in written.values())
    again = convert([tmp_path / "files"], format, complete=False)
    assert again.location == made.location, "found, not made again"


def test_documents_get_what_begins_and_ends_them(tmp_path, convert, tokenizer):
    bos, eos = tokenizer.bos_id, tokenizer.eos_id
    documents = [[5, 6], [bos, 7], [8, eos], [bos, 9, eos], [], [eos], [bos]]
    write(megatron.MegatronWriter(tmp_path / "a_text_document", tokenizer.vocab_size), documents)
    made = convert([tmp_path / "a_text_document.bin"], "megatron")
    expected = [[bos, 5, 6, eos], [bos, 7, eos], [bos, 8, eos], [bos, 9, eos], [bos, eos], [bos, eos]]
    assert stored(made.path) == {"a_text_document": expected}
    counted = {name: made.metrics[name] for name in ("empty_documents", "added_bos", "added_eos")}
    assert counted == {"empty_documents": 1, "added_bos": 3, "added_eos": 3}


def test_without_an_index_documents_end_at_eos(tmp_path, convert, tokenizer):
    eos = tokenizer.eos_id
    (tmp_path / "a.ds").write_bytes(np.array([5, 6, eos, 7, eos, 8, 9], "<u2").tobytes())
    with pytest.raises(DataError, match="L3-DAT-222"):
        datatrove.DatatroveFile.open(tmp_path / "a.ds")
    made = convert([tmp_path / "a.ds"], "datatrove", complete=False)
    assert stored(made.path) == {"a": [[5, 6, eos], [7, eos], [8, 9]]}


# -- damage ----------------------------------------------------------------------------------------


@pytest.fixture
def pair(tmp_path):
    write(megatron.MegatronWriter(tmp_path / "a", 300), [[1, 2, 3], [4], [5, 6]])
    return tmp_path / "a"


def change(path: Path, at: int, data: bytes) -> None:
    old = path.read_bytes()
    path.write_bytes(old[:at] + data + old[at + len(data) :])


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda a: change(a.with_suffix(".idx"), 0, b"X"), "does not begin with the head"),
        (lambda a: a.with_suffix(".idx").write_bytes(b""), "does not begin with the head"),
        (lambda a: change(a.with_suffix(".idx"), 9, struct.pack("<Q", 2)), "version 2"),
        (lambda a: change(a.with_suffix(".idx"), 17, b"\x07"), "float32"),
        (lambda a: change(a.with_suffix(".idx"), 17, b"\x63"), "type 99"),
        (lambda a: change(a.with_suffix(".idx"), 18, struct.pack("<Q", 1 << 60)), "a.idx has 102 bytes"),
        (lambda a: a.with_suffix(".idx").write_bytes(a.with_suffix(".idx").read_bytes() + b"\0\0\0"), "not all text"),
        (lambda a: change(a.with_suffix(".idx"), 34, struct.pack("<i", -1)), "sequence 0 has -1 tokens"),
        (lambda a: change(a.with_suffix(".idx"), 46, struct.pack("<q", 2)), "sequence 0 begins at byte 2"),
        (lambda a: change(a.with_suffix(".idx"), 70, struct.pack("<q", 1)), "first document begins at sequence 1"),
        (lambda a: change(a.with_suffix(".idx"), 78, struct.pack("<q", 9)), "before the end of the one before"),
        (lambda a: change(a.with_suffix(".idx"), 94, struct.pack("<q", 2)), "end at sequence 2 of 3"),
        (lambda a: a.with_suffix(".bin").write_bytes(b"\0" * 11), "a.bin has 11 bytes where 6 tokens make 12"),
        (lambda a: a.with_suffix(".bin").unlink(), "a.bin is missing"),
        (lambda a: a.with_suffix(".idx").unlink(), "a.idx is missing"),
    ],
)
def test_a_damaged_megatron_file_is_refused(pair, damage, told):
    damage(pair)
    with pytest.raises(DataError, match=r"L3-DAT-220") as refused:
        imported.token_files(pair, "megatron")
    assert told in str(refused.value)


def test_everything_that_is_wrong_is_told_at_once(tmp_path, pair, tokenizer):
    write(megatron.MegatronWriter(tmp_path / "b", 300), [[1]])
    change(tmp_path / "a.idx", 94, struct.pack("<q", 2))
    (tmp_path / "a.bin").write_bytes(b"")
    (tmp_path / "b.bin").unlink()
    with pytest.raises(DataError) as refused:
        ImportOptions.of([tmp_path, tmp_path / "none"], "megatron", tokenizer)
    told = str(refused.value)
    for part in ("a.bin has 0 bytes", "documents end at sequence 2", "b.bin is missing", "none: there is no megatron"):
        assert part in told


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda a: a.write_bytes(b"\0" * 13), "a.ds has 13 bytes where 6 tokens of its index make 12"),
        (lambda a: Path(f"{a}.index").write_bytes(b"\0" * 9), "no whole number of ends"),
        (lambda a: Path(f"{a}.index").write_bytes(struct.pack("<3Q", 3, 2, 6)), "document 1 ends before it begins"),
        (lambda a: Path(f"{a}.index").write_bytes(struct.pack("<2Q", 3, 5)), "5 tokens of its index"),
        (lambda a: Path(f"{a}.metadata").write_text("t|2\n7\n7"), "tells of 7 tokens, there are 6"),
        (lambda a: Path(f"{a}.metadata").write_text("t|3\nx"), "2 or 4 bytes"),
        (lambda a: Path(f"{a}.metadata").write_text(""), "how many tokens"),
        (lambda a: Path(f"{a}.loss").write_bytes(b"\1" * 5), "a.ds.loss has 5 bytes"),
    ],
)
def test_a_damaged_datatrove_file_is_refused(tmp_path, damage, told):
    write(datatrove.DatatroveWriter(tmp_path / "a.ds", 300, "t"), [[1, 2, 3], [4], [5, 6]])
    damage(tmp_path / "a.ds")
    with pytest.raises(DataError, match="L3-DAT-220") as refused:
        imported.token_files(tmp_path, "datatrove")
    assert told in str(refused.value)


def test_a_mask_that_leaves_tokens_out_is_refused(tmp_path):
    write(datatrove.DatatroveWriter(tmp_path / "a.ds", 300, "t"), [[1, 2, 3]])
    (tmp_path / "a.ds.loss").write_bytes(b"\0\1\0")
    with pytest.raises(DataError, match=r"2 of its 3 tokens are not to be learnt.*L3-DAT-223"):
        imported.token_files(tmp_path, "datatrove")


def test_tokens_that_the_tokenizer_lacks_are_refused_in_all_files(tmp_path, convert):
    write(megatron.MegatronWriter(tmp_path / "a", 9000), [[1], [2, 401, 5], [500, 501]])
    write(megatron.MegatronWriter(tmp_path / "b", 9000), [[1]])
    write(megatron.MegatronWriter(tmp_path / "c", 128_000), [[100_000]])
    with pytest.raises(DataError) as refused:
        convert([tmp_path / name for name in "abc"], "megatron")
    first, second = refused.value.problems
    assert "2 of 3 of its documents" in str(first)
    assert "document 1 has 401" in str(first)
    assert "1 of 1 of its documents" in str(second)
    assert not list((tmp_path / "run" / "artifacts").glob("shard*")), "nothing half-made is there"


def test_files_that_change_before_they_are_read_are_refused(tmp_path, pair, tokenizer):
    options = ImportOptions.of([pair], "megatron", tokenizer)
    write(megatron.MegatronWriter(tmp_path / "x", 300), [[9, 9, 9], [4], [5, 6]])
    (tmp_path / "a.bin").write_bytes((tmp_path / "x.bin").read_bytes())
    tokenizer.save(tmp_path / "t")
    with RunDir(tmp_path / "run") as run:
        named = TokenizerOptions(section=TokenizerSection(path=str(tmp_path / "t")))
        known = run.execute(tokenizer_stage, {}, named)
        with pytest.raises(DataError, match="L3-DAT-226"):
            run.execute(imported.imported, {"tokenizer": known}, options)


def test_a_file_that_becomes_shorter_is_an_error_and_no_crash(tmp_path, pair):
    (found,) = imported.token_files(pair, "megatron")
    (tmp_path / "a.bin").write_bytes(b"\0\0")
    with pytest.raises(DataError, match="became shorter"):
        documents_of(found)


def test_shards_that_are_damaged_leave_no_export(tmp_path):
    plan, _ = make_plan(tmp_path / "plan")
    change(tmp_path / "plan" / "2-1.tok", 4100, b"\xff\xff")
    with pytest.raises(DataError, match="L3-DAT-203"):
        export_tokens(plan, "megatron", tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["plan"]
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "mine").write_text("mine")
    with pytest.raises(ConfigError, match="L3-CNV-001"):
        export_tokens(plan, "megatron", tmp_path / "there")
    assert (tmp_path / "there" / "mine").read_text() == "mine"
