"""A checkpoint is whole or not there: damage of every kind is found, named, and an older one is used."""

import json
import os
import shutil

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llama3.errors import CheckpointError
from llama3.training import checkpoint as checkpoint_module
from llama3.training.checkpoint import CheckpointStore, check_identity, write_parts
from llama3.training.parallel import ParallelContext
from llama3.training.parts import StoredTensors, held
from llama3.training.saving import CheckpointSaver


def tensors(step: int) -> dict[str, dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(step)
    return {
        "model": {f"w{i}": torch.randn(5, 3, generator=generator) for i in range(3)},
        "optimizer": {"w0/exp_avg": torch.randn(5, 3, generator=generator), "w0/step": torch.tensor(float(step))},
        "average": {},
    }


@pytest.fixture
def store(tmp_path):
    return CheckpointStore(tmp_path / "checkpoints")


def save(store, *steps):
    saver = CheckpointSaver(store, ParallelContext(torch.device("cpu")))
    for step in steps:
        saver.save(step, tensors(step), {"step": step}, last=True)


def assert_is(found, step):
    assert found.step == step
    assert found.state == {"step": step}
    for group, expected in tensors(step).items():
        got = found.tensors(group)
        assert got.keys() == expected.keys()
        assert all(torch.equal(got[name], expected[name]) for name in expected)


def test_round_trip_and_newest_wins(store):
    assert store.load() is None
    save(store, 9, 10)
    assert store.steps() == [9, 10]
    assert_is(store.load(), 10)


def test_shards_are_cut_by_size_and_read_back(store, monkeypatch):
    monkeypatch.setattr(checkpoint_module, "FILE_BYTES", 130)
    save(store, 1)
    assert len(list((store.directory / "step-1").glob("model-*.safetensors"))) == 2
    assert_is(store.load(), 1)


FILES = [
    "model-00000-00000.safetensors",
    "optimizer-00000-00000.safetensors",
    "index.json",
    "state.json",
    "manifest.json",
    "COMMIT",
]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["flip", "truncate", "remove", "swap"])
def test_damage_falls_back_to_the_older_one(store, name, damage, caplog):
    save(store, 1, 2)
    file = store.directory / "step-2" / name
    if damage == "flip":
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    elif damage == "truncate":
        file.write_bytes(file.read_bytes()[:-1])
    elif damage == "swap":
        shutil.copy(store.directory / "step-1" / name, file)
    else:
        file.unlink()
    if (name, damage) in (("COMMIT", "truncate"), ("index.json", "swap")):
        assert_is(store.load(), 2)  # only the newline is gone: the hash is whole; both list the same tensors
        return
    assert_is(store.load(), 1)
    if not (name == "COMMIT" and damage == "remove"):  # without COMMIT it never was a checkpoint
        assert "step-2" in caplog.text


@settings(max_examples=30)
@given(data=st.data())
def test_every_flipped_bit_is_found(tmp_path_factory, data):
    store = CheckpointStore(tmp_path_factory.mktemp("bits"))
    save(store, 1)
    file = store.directory / "step-1" / data.draw(st.sampled_from(FILES[:-1]))
    content = bytearray(file.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match="L3-TRN-011"):
        store.load()


def test_all_damaged_is_an_error_that_names_each(store):
    save(store, 1, 2)
    for step in (1, 2):
        (store.directory / f"step-{step}" / "state.json").unlink()
    with pytest.raises(CheckpointError) as caught:
        store.load()
    assert len(caught.value.problems) == 2
    assert all("state.json" in problem.where for problem in caught.value.problems)


def test_uncommitted_directories_are_never_loaded_and_never_counted(store):
    save(store, 1, 2)
    for step in range(3, 13):  # ten saves that were killed before COMMIT
        shutil.copytree(store.directory / "step-2", store.directory / f"step-{step}")
        (store.directory / f"step-{step}" / "COMMIT").unlink()
    (store.directory / "step-13.tmp-0123abcd").mkdir()
    assert_is(store.load(), 2)
    save(store, 13)
    assert store.steps() == [2, 13]
    assert sorted(path.name for path in store.directory.iterdir()) == ["step-13", "step-2"]


def test_purge_keeps_two_that_verify(store):
    save(store, 1, 2)
    (store.directory / "step-2" / "state.json").write_text("{}")
    save(store, 3)
    assert store.steps() == [1, 2, 3]  # the damaged one does not count as the second good one
    save(store, 4)
    assert store.steps() == [3, 4]


def test_saving_a_step_again_keeps_the_good_and_replaces_the_damaged(store):
    save(store, 1)
    before = (store.directory / "step-1" / "manifest.json").stat().st_mtime_ns
    save(store, 1)
    assert (store.directory / "step-1" / "manifest.json").stat().st_mtime_ns == before
    (store.directory / "step-1" / "state.json").unlink()
    save(store, 1)
    assert_is(store.load(), 1)


@pytest.mark.parametrize("failing", ["save_tensors", "publish", "write_bytes_atomic"])
def test_a_failed_save_says_so_and_loses_nothing(store, monkeypatch, failing):
    save(store, 1)

    def fail(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint_module, failing, fail)
    with pytest.raises(CheckpointError, match=r"No space left.*free disk space"):
        save(store, 2)
    monkeypatch.undo()
    assert_is(store.load(), 1)
    save(store, 2)
    assert_is(store.load(), 2)


def test_hostile_manifest_is_refused(store):
    save(store, 1)
    path = store.directory / "step-1"
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["files"].append({"name": "../../etc/passwd", "bytes": 0, "blake3": ""})
    content = json.dumps(manifest).encode()
    (path / "manifest.json").write_bytes(content)
    (path / "COMMIT").write_text(checkpoint_module.blake3_bytes(content))
    with pytest.raises(CheckpointError, match="L3-TRN-011"):
        store.verify(1)


def test_a_checkpoint_of_the_older_format_is_refused_by_name(store):
    save(store, 1)
    path = store.directory / "step-1"
    content = json.dumps({**json.loads((path / "manifest.json").read_text()), "schema": 1}).encode()
    (path / "manifest.json").write_bytes(content)
    (path / "COMMIT").write_text(checkpoint_module.blake3_bytes(content))
    with pytest.raises(CheckpointError, match=r"its schema is 1, this version reads 2.*L3-TRN-012"):
        store.load()


def test_at_most_takes_an_older_one(store):
    save(store, 4, 8)
    assert store.load(at_most=8).step == store.load(at_most=99).step == 8
    assert_is(store.load(at_most=7), 4)
    assert store.load(at_most=3) is None


def test_another_state_of_a_step_replaces_it(store):
    save(store, 1, 2)
    saver = CheckpointSaver(store, ParallelContext(torch.device("cpu")))
    saver.save(2, tensors(3), {"step": 3}, last=True)
    assert store.load().state == {"step": 3}
    assert torch.equal(store.load().tensors("model")["w0"], tensors(3)["model"]["w0"])
    assert store.steps() == [1, 2]


def commit(store, change):
    """A save whose files are changed after they were written, before they are committed."""
    directory = store.begin(3, b"{}")
    files, index = write_parts(directory, 0, tensors(3), held(tensors(3)))
    change(directory, index)
    return store.commit(3, directory, files, index, b"{}")


def test_what_is_not_all_there_is_not_committed(store):
    def truncate(directory, index):
        file = directory / "model-00000-00000.safetensors"
        file.write_bytes(file.read_bytes()[:-1])

    def forget(directory, index):
        index["model"]["w1"]["parts"].clear()

    for change, message in ((truncate, "L3-TRN-041"), (forget, r"lacks 15 of the 15 numbers of w1.*L3-TRN-040")):
        with pytest.raises(CheckpointError, match=message):
            commit(store, change)
        assert store.steps() == []
    commit(store, lambda directory, index: None)
    assert store.steps() == [3]


def test_a_part_that_no_file_has_is_named(store):
    save(store, 1)
    stored = StoredTensors(store.directory / "step-1", {"w0": {"shape": [5, 3], "parts": []}})
    with pytest.raises(CheckpointError, match="lacks 15 of the 15 numbers of w0"):
        stored["w0"]


FILE = "model-00000-00000.safetensors"


@pytest.mark.parametrize(
    ("name", "file", "shape", "message"),
    [
        ("w0", "../step-2/" + FILE, [5, 3], "outside of itself"),
        ("w0", "state.json", [5, 3], "does not hold the tensors"),
        ("w9", FILE, [5, 3], "w9"),
        ("w0", FILE, [5_000_000_000, 3], r"has the shape \[5, 3\]"),
    ],
)
def test_an_index_that_somebody_made_up_is_refused(store, name, file, shape, message):
    save(store, 1, 2)
    index = {name: {"shape": shape, "parts": [[file, [0, 0], shape]]}}
    with pytest.raises(CheckpointError, match=rf"{message}.*L3-TRN-042"):
        StoredTensors(store.directory / "step-1", index)[name]


def test_another_runs_checkpoint_is_refused_with_every_difference(tmp_path):
    check_identity({"a": 1}, {"a": 1}, tmp_path)
    with pytest.raises(CheckpointError) as caught:
        check_identity({"a": 1, "b": 2, "c": 3}, {"a": 1, "b": 3, "d": 4}, tmp_path)
    assert [problem.what.split(":")[1].split()[0] for problem in caught.value.problems] == ["b", "c", "d"]


SYSCALLS = ["fsync", "rename", "mkdir", "unlink", "rmdir"]


def killed_at(call: int, save_in_child) -> bool:
    """Run a save in a forked process that dies just before its `call`-th operation that changes the disk.

    Returns whether the save had so many.
    """
    child = os.fork()
    if child == 0:
        remaining = [call]
        for name in SYSCALLS:
            real = getattr(os, name)

            def counted(*args, real=real, **kwargs):
                remaining[0] -= 1
                if remaining[0] == 0:
                    os._exit(9)
                return real(*args, **kwargs)

            setattr(os, name, counted)
        save_in_child()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


def test_killed_at_any_moment_of_a_save_a_good_checkpoint_is_there(tmp_path):
    for call in range(1, 200):
        store = CheckpointStore(tmp_path / str(call))
        save(store, 1, 2)
        killed = killed_at(call, lambda store=store: save(store, 3))
        found = store.load()
        assert_is(found, found.step)
        assert found.step in ((2, 3) if killed else (3,))
        assert len([step for step in store.steps() if step != 3]) >= 1
        save(store, 3, 4)  # goes on as if nothing had been
        assert store.steps() == [3, 4]
        if not killed:
            break
    assert call > 12  # fsyncs of six files and two directories, two renames, the purge
