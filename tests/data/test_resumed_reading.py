"""A curation that is killed goes on after the last shard that it read, and makes the same corpus."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest
from data_texts import prose

from llama3.artifacts.progress import Display
from llama3.artifacts.run import RunDir
from llama3.config.schema import Config
from llama3.data import staging
from llama3.data.curate import CurateOptions, curate

SHARDS = 8


@pytest.fixture(scope="module")
def options(tmp_path_factory) -> CurateOptions:
    """Files of several records each, one of them torn: rejects are part of what is gone on from."""
    texts = tmp_path_factory.mktemp("texts")
    for number in range(SHARDS):
        lines = [f'{{"text": "{prose(10 * number + line, 90)}"}}' for line in range(6)]
        lines[2] = '{"text": torn' if number % 2 else lines[2]
        (texts / f"{number}.jsonl").write_text("\n".join(lines))
    sources = [{"name": "jsonl", "path": str(texts), "source": "texts"}]
    return CurateOptions.of(Config.model_validate({"data": {"sources": sources, "held_out": 0.1}}))


def made(folder: Path, options: CurateOptions) -> tuple[str, dict[str, int]]:
    with RunDir(folder, Display.silent()) as run:
        corpus = run.execute(curate, {}, options)
        return corpus.hash, corpus.metrics["rejects"]


def killed_after(shards: int, folder: Path, options: CurateOptions) -> None:
    """kill -9 in the middle of the shard after so many."""
    child = os.fork()
    if child == 0:
        read, left = staging._write_shard, [shards]

        def dying(found, shard, file, near):
            left[0] -= 1
            if left[0] < 0:
                file.write_bytes(b"half of it")
                os.kill(os.getpid(), signal.SIGKILL)
            return read(found, shard, file, near)

        staging._write_shard = dying
        made(folder, options)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


@pytest.mark.parametrize("kills", [[0], [3], [1, 2, 4], [SHARDS - 1]])
def test_a_shard_is_read_once_however_often_the_stage_is_killed(options, tmp_path, monkeypatch, kills):
    expected = made(tmp_path / "whole", options)
    assert sum(count for why, count in expected[1].items() if why.startswith("read.")) == SHARDS // 2
    for more in kills:
        killed_after(more, tmp_path / "killed", options)
    read, count = staging._write_shard, []
    monkeypatch.setattr(staging, "_write_shard", lambda *given: count.append(given) or read(*given))
    assert made(tmp_path / "killed", options) == expected
    assert len(count) == SHARDS - sum(kills)


def test_what_is_read_again_is_what_was_held(options, tmp_path):
    """The facts that the next steps read, from the first process and from one that finds them."""
    from llama3.data.curate import _all_shards, _guarded, _near, _sources

    def staged() -> staging.Staged:
        found = staging.Staged(tmp_path, _near(options.minhash))
        for source, shard in _all_shards(_sources(options.sources)):
            found.add(_guarded(source, shard), shard)
        return found

    first, again = staged(), staged()
    assert first.ids == again.ids
    assert (first.pages_N3 == again.pages_N3).all()
    assert (first.keys_NB == again.keys_NB).all()
    assert first.bytes_N.tolist() == again.bytes_N.tolist()
    assert first.bytes_N.sum() == sum(np.sum(batch.bytes_D) for _, batch in again.documents(np.ones(len(again), bool)))
