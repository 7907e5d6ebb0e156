"""A killed export leaves a folder beside OUT; the next one with the same OUT removes it, and nothing else. A signal
before the program has begun is a stop like any other."""

from __future__ import annotations

import fcntl
import signal
import subprocess
import sys

import pytest
import started
from exporting import write_checkpoint

from llama3.artifacts.leftovers import owned, remove_leftovers
from llama3.release.export import export

WAITING = """
import sys, time
from pathlib import Path
from llama3.release.export import export
from llama3_plugins.exporters.hf import HfExporter

real = HfExporter.export
def export_and_wait(self, checkpoint, folder):
    made = real(self, checkpoint, folder)
    print("written", flush=True)
    time.sleep(600)
    return made

HfExporter.export = export_and_wait
export(Path(sys.argv[1]), Path(sys.argv[2]), "hf")
"""


@pytest.fixture
def model(tmp_path):
    write_checkpoint(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def writing(model, tmp_path):
    """A process that has written its export into a temporary folder and not yet given it its place."""
    (tmp_path / "place").mkdir()
    child = started.Popen(
        [sys.executable, "-c", WAITING, str(model), str(tmp_path / "place" / "out")], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout.readline() == "written\n"
    yield child, tmp_path / "place"
    child.kill()
    child.wait()
    child.stdout.close()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_next_run_removes_what_a_killed_one_left(model, writing):
    child, place = writing
    child.send_signal(signal.SIGKILL)
    child.wait()
    left = names(place)
    assert len(left) == 2, "a folder and its lock"
    assert all(name.startswith("out.tmp-") for name in left)
    mine, of_another, link = place / "out.tmp-deadbeef", place / "out2.tmp-deadbeef", place / "out.tmp-0badcafe"
    mine.mkdir()
    of_another.mkdir()
    (mine / "x").write_text("x")
    link.symlink_to(mine)
    export(model, place / "out", "hf")
    assert names(place) == ["out", "out.tmp-0badcafe", "out.tmp-deadbeef", "out2.tmp-deadbeef"]
    assert names(mine) == ["x"]


def test_what_is_being_written_is_left_alone(model, writing):
    child, place = writing
    before = names(place)
    export(model, place / "out", "hf")
    assert names(place) == ["out", *before]
    assert child.poll() is None


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b'{"host": "another machine"}'])
def test_a_lock_that_this_machine_did_not_sign_stays(tmp_path, content):
    (tmp_path / "out.tmp-12345678").mkdir()
    (tmp_path / "out.tmp-12345678.lock").write_bytes(content)
    assert remove_leftovers(tmp_path / "out") == []
    assert names(tmp_path) == ["out.tmp-12345678", "out.tmp-12345678.lock"]


def test_a_lock_whose_process_was_killed_before_it_signed_goes(tmp_path):
    lock = tmp_path / "out.tmp-12345678.lock"
    lock.touch()
    with lock.open("r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # it is about to sign
        assert remove_leftovers(tmp_path / "out") == []
        assert names(tmp_path) == [lock.name]
    assert remove_leftovers(tmp_path / "out") == ["out.tmp-12345678"]
    assert names(tmp_path) == []


def test_a_lock_that_a_sweeper_took_before_it_was_locked_is_made_again(tmp_path, monkeypatch):
    real, swept = fcntl.flock, []

    def flock(descriptor, how):
        if not swept:
            swept.append(True)
            swept.append(remove_leftovers(tmp_path / "out"))
        real(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    with owned(tmp_path / "out.tmp-12345678"):
        assert swept == [True, ["out.tmp-12345678"]]
        assert names(tmp_path) == ["out.tmp-12345678.lock"]
        assert b"llama3" in (tmp_path / "out.tmp-12345678.lock").read_bytes()
    assert names(tmp_path) == []


def test_nothing_is_left_behind_by_what_ends_itself(tmp_path):
    with owned(tmp_path / "out.tmp-12345678"):
        assert names(tmp_path) == ["out.tmp-12345678.lock"]
        assert remove_leftovers(tmp_path / "out") == []
    assert names(tmp_path) == []


EARLY = """
import os, runpy, signal, sys

class Stop:
    def find_spec(self, name, path=None, target=None):
        if name == "llama3.cli.app":
            os.kill(os.getpid(), signal.{name})

sys.meta_path.insert(0, Stop())
sys.argv = ["llama3", "--version"]
runpy.run_module("llama3", run_name="__main__")
"""


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_before_the_program_has_begun_is_a_stop(name):
    """As torchrun's, which is told to stop while its ranks still import."""
    program = [sys.executable, "-c", EARLY.format(name=name)]
    done = subprocess.run(program, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "error: interrupted\n")
