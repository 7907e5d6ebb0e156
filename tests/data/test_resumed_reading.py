"""A curation that is killed goes on after the last shard that it read, and makes the same corpus."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest
from data_texts import prose

from llama3.artifacts import Artifact
from llama3.artifacts.progress import Display
from llama3.artifacts.run import RunDir
from llama3.cli import main
from llama3.config.schema import Config
from llama3.data import staging
from llama3.data.curate import CurateOptions, curate

SHARDS = 8


@pytest.fixture(scope="module")
def texts(tmp_path_factory) -> Path:
    """Files of several records each, half of them with a torn one: rejects are part of what is gone on from."""
    folder = tmp_path_factory.mktemp("texts")
    for number in range(SHARDS):
        lines = [f'{{"text": "{prose(10 * number + line, 90)}"}}' for line in range(6)]
        lines[2] = '{"text": torn' if number % 2 else lines[2]
        (folder / f"{number}.jsonl").write_text("\n".join(lines))
    return folder


@pytest.fixture(scope="module")
def options(texts) -> CurateOptions:
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


def command(texts: Path, out: Path, *options: str) -> None:
    with pytest.raises(SystemExit) as done:
        main(["data", "curate", str(texts), "--out", str(out), "--set", "data.held_out=0.1", *options])
    assert not done.value.code


def hash_of(out: Path) -> str:
    return Artifact(out / "artifacts" / "curate").hash


@pytest.mark.parametrize(("world", "ranks"), [(2, [1, 0]), (3, [2, 0, 1, 2]), (8, [7, 0, 3]), (11, range(11))])
def test_a_job_array_of_any_size_makes_the_corpus_of_one_process(texts, tmp_path, monkeypatch, world, ranks):
    """In any order, one part twice, some never: those are read by the last command."""
    command(texts, tmp_path / "whole")
    for rank in ranks:
        command(texts, tmp_path / "parts", "--rank", str(rank), "--world", str(world))
    read, count = staging._write_shard, []
    monkeypatch.setattr(staging, "_write_shard", lambda *given: count.append(given) or read(*given))
    command(texts, tmp_path / "parts")
    assert len(count) == SHARDS - sum(number % world in set(ranks) for number in range(SHARDS))
    whole, parts = (path / "artifacts" / "curate" for path in (tmp_path / "whole", tmp_path / "parts"))
    assert hash_of(tmp_path / "whole") == hash_of(tmp_path / "parts")
    names = sorted(path.name for path in whole.iterdir() if path.suffix == ".parquet")
    assert len(names) == 3
    for name in names:
        assert (whole / name).read_bytes() == (parts / name).read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["parts", "whole"], "what was read is gone"


@pytest.mark.parametrize("part", [["--rank", "0"], ["--world", "2"], ["--rank", "2", "--world", "2"]])
def test_a_part_that_cannot_be_is_refused(texts, tmp_path, capsys, part):
    with pytest.raises(SystemExit) as done:
        main(["data", "curate", str(texts), "--out", str(tmp_path / "out"), *part])
    assert done.value.code
    assert "L3-DAT-270" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_what_is_read_again_is_what_was_held(options, tmp_path):
    """The facts that the next steps read, from the first process and from one that finds them."""
    from llama3.data.curate import _near, all_shards, build_sources, guarded

    def staged() -> staging.Staged:
        found = staging.Staged(tmp_path, _near(options.minhash))
        for source, shard in all_shards(build_sources(options.sources)):
            found.add(guarded(source, shard), shard)
        return found

    first, again = staged(), staged()
    assert first.ids == again.ids
    assert (first.pages_N3 == again.pages_N3).all()
    every = np.arange(len(first))
    assert (first.keys(every, False) == again.keys(every, False)).all()
    assert first.bytes_N.tolist() == again.bytes_N.tolist()
    assert first.bytes_N.sum() == sum(np.sum(batch.bytes_D) for _, batch in again.documents(np.ones(len(again), bool)))
