"""Curation in pieces: killed at any moment, shared out among any processes, on damaged disks: the corpus is the same to
the byte, and what was finished is not made again."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from data_texts import prose
from staged_texts import staged

from llama3.artifacts import Artifact
from llama3.artifacts.progress import Display
from llama3.artifacts.run import RunDir
from llama3.cli import main
from llama3.config.schema import Config
from llama3.data import commits, deciding, staging
from llama3.data.curate import CurateOptions, curate, parts_folder, take_share
from llama3.data.curating import Curation
from llama3.data.documents import DocumentBatch, Source
from llama3.data.tables import UNREADABLE

SHARDS = 5
LISTS = [
    {"name": "token_distribution", "least_words": 10, "bits": 8},
    "gopher",
    {"name": "personal_data", "email": "mask"},
]


@pytest.fixture(scope="module", autouse=True)
def small_pieces():
    """A shard has several portions, and the corpus several parts. A kill loses nothing that was written, forced to disk
    or not, so nothing is: it takes most of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        patch.setattr(staging, "GROUP_BYTES", 600)
        patch.setattr(staging, "PORTION_BYTES", 1200)
        patch.setattr(deciding, "PORTION_BYTES", 3000)
        patch.setattr(deciding, "HELD", 20)
        yield


@pytest.fixture(scope="module")
def texts(tmp_path_factory) -> Path:
    """Files of several records each, half of them with a torn one; copies, near copies, menus, versions of a page; one
    file that breaks off."""
    folder = tmp_path_factory.mktemp("texts")
    draw = random.Random(1)
    for number in range(SHARDS):
        rows = []
        for line in range(6):
            words = prose(draw.choice([10 * number + line, draw.randrange(12)]), 90).split()
            words[draw.randrange(90)] = draw.choice(["the", "new", "mail ann@example.org"])
            row = {"text": " ".join(words) + "\nHome\nMenu"}
            if line == 5:
                row |= {"url": f"https://a.example/{number % 3}", "date": f"2024-01-{number + 1:02}"}
            rows.append(json.dumps(row))
        rows[2] = '{"text": torn' if number % 2 else json.dumps({"text": prose(1, 90)})
        (folder / f"{number}.jsonl").write_text("\n".join(rows))
    (folder / "9.jsonl.gz").write_bytes(b"\x1f\x8b no gzip at all")
    return folder


def section(texts: Path) -> dict[str, object]:
    sources = [{"name": "jsonl", "path": str(texts), "source": "texts"}]
    return {"sources": sources, "held_out": 0.1, "filters": LISTS, "by_language": True}


@pytest.fixture(scope="module")
def options(texts) -> CurateOptions:
    return CurateOptions.of(Config.model_validate({"data": section(texts)}))


def made(folder: Path, options: CurateOptions) -> tuple[str, dict[str, int]]:
    with RunDir(folder, Display.silent()) as run:
        corpus = run.execute(curate, {}, options)
        return corpus.hash, corpus.metrics["rejects"]


@pytest.fixture(scope="module")
def expected(options, tmp_path_factory) -> tuple[str, dict[str, int]]:
    whole = tmp_path_factory.mktemp("expected") / "run"
    found = made(whole, options)
    steps = ("read.broken_json", "read.shard_quarantined", "url.same_address", "exact.exact_duplicate")
    assert set(found[1]) == {*steps, "near.near_duplicate"}
    assert len(list((whole / "artifacts" / "curate" / "documents").iterdir())) > 2
    return found


def dies_at(piece: int, work) -> None:
    """kill -9 while that piece is being committed, counted from 0."""
    child = os.fork()
    if child == 0:
        commit, left = commits.commit, [piece]

        def dying(folder, name, files, facts):
            left[0] -= 1
            if left[0] < 0:
                next(iter(files.values()), folder / "x").write_bytes(b"half of it")
                os.kill(os.getpid(), signal.SIGKILL)
            return commit(folder, name, files, facts)

        commits.commit = dying
        work()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


class Counted:
    """The names of the pieces that are committed."""

    def __init__(self, monkeypatch):
        self.pieces: list[str] = []
        commit = commits.commit

        def counting(folder, name, files, facts):
            self.pieces.append(f"{folder.name.partition('-')[0]}/{name}")
            return commit(folder, name, files, facts)

        monkeypatch.setattr(commits, "commit", counting)


def test_what_is_finished_is_made_once_however_often_the_stage_is_killed(options, expected, tmp_path, monkeypatch):
    """Killed at pieces of every step, inside of shards too."""
    steps = set()
    for more in (0, 5, 14, 24, 5, 3):
        dies_at(more, lambda: made(tmp_path / "killed", options))
        steps |= {path.parent.name[:4] for path in (tmp_path / "killed").rglob("0*.json")}
    finished = {f"{path.parent.name.partition('-')[0]}/{path.stem}" for path in (tmp_path / "killed").rglob("0*.json")}
    assert steps >= {"0000", "deci", "coun"}
    counted = Counted(monkeypatch)
    assert made(tmp_path / "killed", options) == expected
    assert len(finished) > 25
    assert finished.isdisjoint(counted.pieces)
    assert list((tmp_path / "killed" / "scratch").iterdir()) == []


@pytest.mark.parametrize("seed", range(2))
def test_killed_at_random_moments_nothing_is_lost_and_nothing_is_there_twice(options, expected, tmp_path, seed):
    draw = random.Random(seed)
    for _ in range(5):
        child = os.fork()
        if child == 0:
            made(tmp_path / "run", options)
            os._exit(0)
        time.sleep(draw.uniform(0.01, 0.6))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert made(tmp_path / "run", options) == expected


def command(texts: Path, out: Path, *options: str) -> None:
    sets = [f"--set=data.{name}={json.dumps(value)}" for name, value in section(texts).items() if name != "sources"]
    source = json.dumps([{"name": "jsonl", "path": str(texts), "source": "texts"}])
    config = out.parent / "config.yaml"
    config.write_text(f"data: {{sources: {source}}}")
    with pytest.raises(SystemExit) as done:
        main(["data", "curate", str(config), "--out", str(out), *sets, *options])
    assert not done.value.code


@pytest.fixture(scope="module")
def whole(texts, tmp_path_factory) -> Path:
    """The run of one process."""
    out = tmp_path_factory.mktemp("whole") / "run"
    command(texts, out)
    return out


def same_bytes(one: Path, other: Path) -> None:
    places = [path / "artifacts" / "curate" for path in (one, other)]
    files = [{str(path.relative_to(place)) for path in place.rglob("*") if path.is_file()} for place in places]
    assert files[0] == files[1]
    assert len(files[0]) > 12
    for name in files[0] - {"manifest.json", "COMMIT"}:
        assert (places[0] / name).read_bytes() == (places[1] / name).read_bytes(), name
    assert Artifact(places[0]).hash == Artifact(places[1]).hash


@pytest.mark.parametrize(
    ("world", "rounds"),
    [(2, [[1, 0]] * 3), (3, [[2, 0, 1, 2], [1, 1], [0]]), (5, [[4, 0, 3]]), (8, [range(8)] * 3)],
)
def test_a_job_array_of_any_size_makes_the_corpus_of_one_process(
    texts, options, whole, tmp_path, monkeypatch, world, rounds
):
    """In any order, one share twice, some never: those are done by the last command."""
    for ranks in rounds:
        for rank in ranks:
            command(texts, tmp_path / "parts", "--rank", str(rank), "--world", str(world))
    folder = parts_folder(tmp_path / "parts", options)
    complete = all(set(range(world)) <= set(ranks) for ranks in rounds) and len(rounds) > 1
    with monkeypatch.context() as patch:
        counted = Counted(patch)
        command(texts, tmp_path / "parts")
    left = [name for name in counted.pieces if not name.endswith(("/quarantined", "/shard"))]
    assert (left == []) == complete
    assert not folder.parent.exists(), "the pieces are gone"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.yaml", "parts"]
    same_bytes(whole, tmp_path / "parts")


def test_two_ranks_at_the_same_part_disturb_nobody(options, expected, tmp_path):
    """Four processes do all of it at once, two are killed."""
    folder = parts_folder(tmp_path / "run", options)
    children = []
    for _ in range(4):
        child = os.fork()
        if child == 0:
            take_share(Curation(options, folder), 0, 1)
            os._exit(0)
        children.append(child)
    time.sleep(0.3)
    for child in children[:2]:
        os.kill(child, signal.SIGKILL)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    assert codes[2:] == [0, 0]
    assert made(tmp_path / "run", options) == expected


@pytest.mark.parametrize("ending", [".parquet", ".npz", ".run", ".json", ".documents", ".lines"])
def test_a_damaged_piece_is_made_again(options, expected, tmp_path, ending):
    """A flipped bit in every second file of a kind, and half of another."""
    folder = parts_folder(tmp_path / "run", options)
    share = take_share(Curation(options, folder), 0, 1)
    assert share.waits_in == ""
    files = sorted(path for path in folder.rglob(f"*{ending}") if path.stat().st_size)
    assert len(files) > 2
    for path in files[::2]:
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 4
        path.write_bytes(data)
    os.truncate(files[1], files[1].stat().st_size // 2)
    assert made(tmp_path / "run", options) == expected


def test_a_full_disk_costs_no_piece_of_a_job_array(options, expected, tmp_path, monkeypatch):
    folder = parts_folder(tmp_path / "run", options)
    commit, left = commits.commit, [12]

    def full(*given):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(28, "No space left on device")
        return commit(*given)

    with monkeypatch.context() as patch:
        patch.setattr(commits, "commit", full)
        with pytest.raises(OSError, match="No space"):
            take_share(Curation(options, folder), 0, 1)
    counted = Counted(monkeypatch)
    assert made(tmp_path / "run", options) == expected
    assert sum(name.startswith("0") for name in counted.pieces) >= 1
    assert not list(tmp_path.rglob("*.tmp-*"))


@pytest.mark.parametrize(
    ("part", "error"),
    [
        (["--rank", "0"], "L3-DAT-281"),
        (["--world", "2"], "L3-DAT-281"),
        (["--rank", "0", "--world", "2", "--ray", "local"], "L3-DAT-285"),
        (["--rank", "2", "--world", "2"], "L3-DAT-270"),
    ],
)
def test_a_part_that_cannot_be_is_refused(texts, tmp_path, capsys, part, error):
    with pytest.raises(SystemExit) as done:
        main(["data", "curate", str(texts), "--out", str(tmp_path / "out"), *part])
    assert done.value.code
    assert error in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


# -- inside a shard ----------------------------------------------------------------------------------


def batches(count: int, source: str = "s") -> list[DocumentBatch]:
    return [DocumentBatch.of([prose(n, 90)], source=source, urls=[f"u{n}"]) for n in range(count)]


def test_a_shard_goes_on_after_its_last_portion(tmp_path, monkeypatch):
    """What is finished of it is neither hashed nor written again."""

    def breaking():
        yield from batches(11)
        end = time.monotonic() + 60  # what a busy machine writes late is no less finished
        while len(list((tmp_path / "broken").rglob("0*.json"))) < 3 and time.monotonic() < end:
            time.sleep(0.01)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        staged(tmp_path / "broken", 0, breaking(), threads=1)
    counted = Counted(monkeypatch)
    found = staged(tmp_path / "broken", 0, batches(20))
    assert len(found.portions) > 5
    assert 2 < len(counted.pieces) < len(found.portions) - 1
    whole = staged(tmp_path / "whole", 0, batches(20))
    assert found.hash == whole.hash
    texts = [text for p in found.portions for _, b in p.batches(np.ones(p.documents, bool)) for text in b.texts]
    assert texts == [prose(n, 90) for n in range(20)]


def test_a_shard_that_breaks_off_counts_for_nothing_until_it_can_be_read(options, tmp_path, monkeypatch):
    """It is tried again by whoever comes to it, for it may be the disk."""
    curation = Curation(options, tmp_path)
    broken = len(curation.shards) - 1
    assert "9.jsonl.gz" in curation.read(broken).quarantined
    before = curation.staged()
    assert before is None, "the others are missing"
    for number in range(broken):
        curation.read(number)
    first = curation.staged()
    source: Source = curation.shards[broken][0]
    monkeypatch.setattr(type(source), "read", lambda self, shard: iter(batches(3, "texts")))
    assert curation.read(broken).quarantined == ""
    again = curation.staged()
    assert len(again) == len(first) + 3
    assert again.hash != first.hash, "what was decided before is not used for it"


def test_a_failing_source_leaves_the_reason_alone(tmp_path):
    def failing():
        yield from batches(9)
        raise UNREADABLE("here", error="it is cut off")

    found = staged(tmp_path, 0, failing())
    assert [portion.documents for portion in found.portions] == [0]
    (reject,) = found.portions[0].rejects()
    assert reject.reason == "shard_quarantined"
