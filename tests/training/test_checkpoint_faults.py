"""Power cuts, broken disks and kills in the middle of a save: what was committed is there, and nothing else is loaded.

The first part records what a save asks of the file system, and plays every state that a disk may be in after a power
cut: what was not forced to it may be there or not.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
import torch

from llama3.errors import CheckpointError
from llama3.training.checkpoint import CheckpointStore
from llama3.training.parallel import ParallelContext
from llama3.training.saving import CheckpointSaver

ALONE = ParallelContext(torch.device("cpu"))


def tensors(step: int) -> dict[str, dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(step)
    return {
        "model": {f"w{i}": torch.randn(40, 3, generator=generator) for i in range(3)},
        "optimizer": {"w0/exp_avg": torch.randn(40, 3, generator=generator), "w0/step": torch.tensor(float(step))},
    }


def save(folder: Path, *steps: int) -> None:
    saver = CheckpointSaver(CheckpointStore(folder), ALONE)
    for step in steps:
        saver.save(step, tensors(step), {"step": step}, last=True)


def loaded_step(folder: Path) -> int:
    """The step of the newest checkpoint, whose content is what was saved."""
    found = CheckpointStore(folder).load()
    assert found is not None
    assert found.state == {"step": found.step}
    for group, expected in tensors(found.step).items():
        got = found.tensors(group)
        assert got.keys() == expected.keys()
        assert all(torch.equal(got[name], expected[name]) for name in expected)
    return found.step


# -- power cuts ----------------------------------------------------------------------------------


class Disk:
    """What a save does to the entries of a folder, in order, and which content was forced to disk."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        self.before = {path: path.read_bytes() if path.is_file() else None for path in root.rglob("*")}
        self.log: list[tuple] = []
        self._known = set(self.before)
        for name in ("fsync", "rename", "mkdir", "unlink", "rmdir"):
            monkeypatch.setattr(os, name, self._recorded(name, getattr(os, name)))

    def _recorded(self, name, real):
        def call(first, *rest, dir_fd=None, **named):
            if name == "fsync":
                self.notice()
                path = Path(os.readlink(f"/proc/self/fd/{first}"))
                self.log.append(("fsync", path, path.read_bytes() if path.is_file() else None))
                return real(first)
            path = Path(os.readlink(f"/proc/self/fd/{dir_fd}"), first) if dir_fd is not None else Path(first)
            self.notice()
            result = real(first, *rest, **({"dir_fd": dir_fd} if dir_fd is not None else {}), **named)
            self.log.append((name, path, Path(rest[0]) if name == "rename" else None))
            self._known = set(self.root.rglob("*"))
            return result

        return call

    def notice(self) -> None:
        """Files that others than Python's `os` have made since the last call."""
        found = set(self.root.rglob("*"))
        self.log += [("create", path, None) for path in sorted(found - self._known)]
        self._known = found

    def after_a_cut(self, length: int, draw: random.Random, lost: float) -> dict[Path, bytes | None]:
        """What is on the disk if the power goes after `length` calls: content that no fsync has forced is lost,
        and so is each change of an entry, with the probability `lost`."""
        entries = dict(self.before)
        content: dict[Path, bytes] = {}
        done = self.log[:length]
        for number, (name, path, other) in enumerate(done):
            later = done[number + 1 :]
            if name == "fsync":
                if other is not None:
                    content[path] = other
                continue
            forced = any(call[0] == "fsync" and call[1] == path.parent for call in later)
            if not forced and draw.random() < lost:
                continue
            if name in ("create", "mkdir"):
                entries[path] = b"" if name == "create" else None
            elif name == "rename":
                for old in [old for old in entries if old == path or path in old.parents]:
                    entries[other / old.relative_to(path)] = entries.pop(old)
                for old in [old for old in content if old == path or path in old.parents]:
                    content[other / old.relative_to(path)] = content.pop(old)
            else:
                for old in [old for old in entries if old == path or path in old.parents]:
                    del entries[old]
        for path in entries:
            if path in content:
                entries[path] = content[path]
        return {
            path: x
            for path, x in entries.items()
            if all(p in entries or p == self.root for p in _above(path, self.root))
        }

    def materialise(self, entries: dict[Path, bytes | None], place: Path) -> None:
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        for path in sorted(entries):
            target = place / path.relative_to(self.root)
            if entries[path] is None:
                target.mkdir()
            else:
                target.write_bytes(entries[path])


def _above(path: Path, root: Path) -> list[Path]:
    return [parent for parent in path.parents if root in parent.parents]


@pytest.fixture
def recorded(tmp_path, monkeypatch):
    """The third save of a folder, and what it did."""

    def record(without_fsync: bool = False) -> Disk:
        folder = tmp_path / "real"
        save(folder, 1, 2)
        with monkeypatch.context() as patch:
            disk = Disk(folder, patch)
            save(folder, 3)
            disk.notice()
        if without_fsync:
            disk.log = [call for call in disk.log if call[0] != "fsync"]
        return disk

    return record


def cuts(disk: Disk, place: Path, lengths: Iterable[int], seeds: int = 6) -> Iterator[int]:
    """The step that is found after each cut."""
    for length in lengths:
        for seed in range(seeds):
            lost = (0.0, 1.0, 0.5, 0.5, 0.2, 0.8)[seed % 6]
            draw = random.Random(f"{length} {seed}")
            disk.materialise(disk.after_a_cut(length, draw, lost), place)
            yield loaded_step(place)


def test_after_a_power_cut_at_any_moment_the_new_one_or_the_old_one_is_there(recorded, tmp_path):
    disk = recorded()
    found = list(cuts(disk, tmp_path / "cut", range(len(disk.log))))
    assert set(found) == {2, 3}
    # From the end of the save on it is the new one, whatever the disk has not yet written.
    assert set(cuts(disk, tmp_path / "cut", [len(disk.log)], seeds=30)) == {3}


def test_the_same_finds_a_save_that_forces_nothing_to_disk(recorded, tmp_path):
    disk = recorded(without_fsync=True)
    with pytest.raises((AssertionError, CheckpointError)):
        assert set(cuts(disk, tmp_path / "cut", [len(disk.log)], seeds=30)) == {3}


# -- broken disks --------------------------------------------------------------------------------


def test_an_fsync_that_fails_is_told_and_nothing_is_lost(tmp_path, monkeypatch):
    real, failures = os.fsync, 0
    for call in range(1, 40):
        folder = tmp_path / str(call)
        save(folder, 1, 2)
        remaining = [call]

        def fsync(descriptor, remaining=remaining):
            remaining[0] -= 1
            if remaining[0] == 0:
                raise OSError(5, "Input/output error")
            real(descriptor)

        told = ""
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", fsync)
            try:
                save(folder, 3)
            except CheckpointError as error:
                told = str(error)
        if told:
            failures += 1
            assert "L3-TRN-013" in told
            assert "Input/output error" in told
        assert loaded_step(folder) in (2, 3)
        save(folder, 3)  # with descriptors of its own
        assert loaded_step(folder) == 3
        if remaining[0] > 0:
            break
    assert failures > 5


# -- kills ---------------------------------------------------------------------------------------


def killed(folder: Path, seconds: float) -> None:
    """A process that saves one step after the other, killed after a while."""
    child = os.fork()
    if child == 0:
        try:
            save(folder, *range(3, 10_000))
        finally:
            os._exit(0)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def kill_again_and_again(folder: Path, seeds: range) -> None:
    save(folder, 1, 2)
    newest = 2
    for seed in seeds:
        killed(folder, random.Random(seed).uniform(0.01, 0.15))
        newest = max(newest, loaded_step(folder))
        assert CheckpointStore(folder).steps()[-1] == newest, "a committed checkpoint has gone"
        shutil.rmtree(folder)
        save(folder, 1, 2)
        newest = 2


def test_killed_at_random_moments_of_saves(tmp_path):
    kill_again_and_again(tmp_path / "few", range(10))


@pytest.mark.slow
def test_killed_at_two_hundred_random_moments_of_saves(tmp_path):
    kill_again_and_again(tmp_path / "many", range(10, 210))


CALLS = ("openat", "write", "ftruncate", "fsync", "rename", "mkdir", "unlinkat", "rmdir", "chmod")


def killed_at_call(folder: Path, name: str, call: int) -> bool:
    """Save a step in a process that the kernel kills at the `call`-th system call that one of its threads
    makes of a name; whether it came so far."""
    go_read, go_write = os.pipe()
    child = os.fork()
    if child == 0:
        os.read(go_read, 1)
        save(folder, 3)
        os._exit(0)
    tracer = subprocess.Popen(
        ["strace", "-f", "-p", str(child), "-e", f"trace={name}", "-e", f"inject={name}:signal=SIGKILL:when={call}"],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert "attached" in tracer.stderr.readline()
    os.write(go_write, b"x")
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    tracer.communicate()
    os.close(go_read)
    os.close(go_write)
    return status == -signal.SIGKILL


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("strace") is None, reason="strace kills at a system call")
@pytest.mark.parametrize("name", CALLS)
def test_killed_at_every_system_call_of_a_save(tmp_path, name):
    torch.set_num_threads(1)
    kills = 0
    for call in range(1, 200):
        folder = tmp_path / str(call)
        save(folder, 1, 2)
        if not killed_at_call(folder, name, call):
            break
        kills += 1
        assert loaded_step(folder) in (2, 3)
        save(folder, 3, 4)
        assert CheckpointStore(folder).steps() == [3, 4]
    assert kills > 0
