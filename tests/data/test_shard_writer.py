"""Own texts to shards to rows, through public names only."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from data_texts import prose

from llama3.data import ShardWriter, TokenLoader, shards
from llama3.errors import DataError
from llama3.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train([prose(n) for n in range(20)], 400, 16)


def documents_of(loader: TokenLoader, tokenizer: Tokenizer) -> list[str]:
    """The texts of one pass over a stream that was written in order."""
    rows = sorted((loader.place(n).window, int(loader[n][0])) for n in range(len(loader)))
    stream = np.array([token for _, token in rows])
    bos, eos = tokenizer.encode("", bos=True, eos=True)
    parts = np.split(stream, np.flatnonzero(stream == eos) + 1)[:-1]
    assert all(part[0] == bos for part in parts)
    return [tokenizer.decode(part[1:-1]) for part in parts]


def test_texts_become_rows(tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "SHARD_TOKENS", 1000)
    texts = [prose(n, 40) for n in range(60)]
    with ShardWriter(tmp_path / "shards", tokenizer) as writer:
        for at in range(0, 60, 10):
            writer.add(texts[at : at + 10])
    loader = TokenLoader(tmp_path / "shards", seq_len=1)
    assert loader.sources == ["text"]
    assert len(list((tmp_path / "shards").glob("*.tok"))) > 1
    assert documents_of(loader, tokenizer) == texts


def test_sources_and_kinds_of_texts(tmp_path: Path, tokenizer: Tokenizer) -> None:
    column = pa.chunked_array([[prose(1)], [prose(2)]])
    with ShardWriter(tmp_path, tokenizer) as writer:
        writer.add(column, source="books")
        writer.add((prose(n) for n in range(3, 5000 // 100)), source="a web/page")
        writer.add([], source="nothing")
    plan = TokenLoader(tmp_path, seq_len=16).plan
    assert [(source.name, source.shards[0].documents) for source in plan.sources] == [("books", 2), ("a web/page", 47)]


def test_shards_are_never_written_over_and_a_failure_leaves_none(tmp_path: Path, tokenizer: Tokenizer) -> None:
    def failing() -> Iterator[str]:
        yield prose(1)
        raise KeyError("mine")

    def write(some: list[str], more: Any) -> None:
        with ShardWriter(tmp_path, tokenizer) as writer:
            writer.add(some)
            writer.add(more)

    for some, more, error in (
        ([prose(1)], failing(), KeyError),
        ([prose(1)], [prose(2), None], DataError),
        ([prose(1)], "one text", DataError),
        ([], [], DataError),
    ):
        with pytest.raises(error):
            write(some, more)
        assert list(tmp_path.iterdir()) == []
    with ShardWriter(tmp_path, tokenizer) as writer:
        writer.add([prose(1)])
    with pytest.raises(DataError, match="L3-DAT-208"):
        ShardWriter(tmp_path, tokenizer)
