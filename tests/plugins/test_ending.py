"""A plugin that ends or crashes the program, takes what it needs away, or leaves a thread at work is named by the
command that asked it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PLUGIN = """
import os
import signal
import sys
import threading
import time

from llama3.filters import Judgement
from llama3.plugins import FilterSpec, SourceSpec, hookimpl
from llama3.sources import DocumentBatch, ShardRef
from pydantic import BaseModel

WHERE, _, WHAT = os.environ["ACTS"].partition(" ")
TEXTS = [f"Sailor {n} has a rope, a boat and {n * n} nets that he mends by the harbour." for n in range(20)]


def act(where):
    if where == WHERE:
        exec(WHAT)


def stop_then_work():
    while threading.main_thread().is_alive():
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGINT)
    work()


def work():
    while True:
        time.sleep(0.1)


act("import")


class Options(BaseModel):
    pass


class Source:
    def __init__(self, options):
        act("source")

    def shards(self):
        act("shards")
        return [ShardRef(source="acts", location="/acts/0", stamp="1")]

    def read(self, shard):
        act("read")
        if WHAT == "number = 5" and WHERE == "read":
            yield 5
        yield DocumentBatch.of(TEXTS, source="acts", urls=[f"u{n}" for n in range(20)])


class Filter:
    features = frozenset()

    def __init__(self):
        act("filter")

    def judge(self, batch):
        act("judge")
        return Judgement([1.0] * len(batch), [True] * len(batch), [""] * len(batch))


@hookimpl
def llama3_filters():
    return [FilterSpec(name="acts", factory="acme_acts:Filter")]


@hookimpl
def llama3_sources():
    return [SourceSpec(name="acts", factory="acme_acts:Source", options="acme_acts:Options", labels=("acts",))]
"""
CONFIG = {
    "run": {"name": "acts", "threads": 1},
    "data": {"sources": ["acts"], "filters": ["acts"], "held_out": 0.1, "lines": {"enabled": False}},
}
COMMAND = """
from llama3.cli import ending, main
ending.TELL_AFTER, ending.END_AFTER = 0.2, {end_after}
main()
"""


@pytest.fixture
def curated(site, tmp_path: Path):
    """Runs `llama3 data curate` where the plugin does something somewhere: its exit code, and what it says."""
    site.add("acme-acts", PLUGIN, module="acme_acts")
    (tmp_path / "acts.yaml").write_text(json.dumps(CONFIG))
    path = os.pathsep.join([str(site.path), *filter(None, sys.path)])

    def run(acts: str, *words: str, end_after: float | None = 0.2) -> tuple[int, str]:
        words = words or ("data", "curate", "acts.yaml", "--out", "out")
        sooner = ("-c", COMMAND.format(end_after=end_after))
        command = [sys.executable, *(("-m", "llama3") if end_after is None else sooner), *words]
        told = subprocess.run(
            command, cwd=tmp_path, env=os.environ | {"ACTS": acts, "PYTHONPATH": path}, capture_output=True, timeout=120
        )
        return told.returncode, told.stderr.decode()

    return run


@pytest.mark.parametrize("where", ["import", "source", "shards", "read"])
def test_one_that_ends_the_process(curated, tmp_path: Path, where: str) -> None:
    code, told = curated(f"{where} os._exit(0)")
    assert (code, "tried to end the program (os._exit(0))" in told) == (4, True), told
    assert all(".tmp-" in path.name for path in tmp_path.glob("out/artifacts/*")), "nothing is taken for made"


def test_one_that_ends_a_process_which_may_be_started_again(curated) -> None:
    code, told = curated("read os._exit(0)", "run", "acts.yaml", "--restarts", "1")
    assert (code, "tried to end the program (os._exit(0))" in told) == (4, True), told


@pytest.mark.parametrize("where", ["filter", "judge"])
@pytest.mark.parametrize("what", ["KeyboardInterrupt", "SystemExit", "GeneratorExit"])
def test_a_filter_that_raises_what_ends_programs(curated, where: str, what: str) -> None:
    code, told = curated(f"{where} raise {what}")
    assert (code, "Traceback" in told, f"{what} at " in told) == (4, False, True), told
    assert "acme_acts:Filter failed" in told if where == "filter" else "'acts': Filter.judge failed" in told


@pytest.mark.parametrize("what", ["raise KeyboardInterrupt", "sys.exit(0)", "1 / 0", "number = 5"])
def test_a_source_that_fails(curated, what: str) -> None:
    code, told = curated(f"read {what}")
    assert (code, "source acme_acts:Source: `read` failed" in told) == (1, True), told
    assert "it gave a int, not a DocumentBatch" in told or what != "number = 5"


@pytest.mark.parametrize("what", ["sys.stdout = None", "sys.setrecursionlimit(sys.getrecursionlimit() - 900)"])
def test_what_it_takes_away_is_put_back(curated, what: str) -> None:
    code, told = curated(f"shards {what}")
    assert (code, "corpus: " in told) == (0, True), told


@pytest.mark.parametrize("where", ["read", "filter"])
def test_a_thread_that_it_leaves_at_work_is_ended(curated, where: str) -> None:
    code, told = curated(f"{where} threading.Thread(target=work).start()")
    assert (code, "corpus: " in told) == (0, True), told
    assert "! ended at work: 1 thread of plugin acme-acts at " in told or "threads of plugin acme-acts at " in told


@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM"])
def test_a_signal_in_code_from_a_string_ends_with_the_exit_code_of_an_interrupt(curated, number: str) -> None:
    """Python would end the process as by SIGINT then."""
    code, told = curated(f"shards signal.raise_signal(signal.{number})", end_after=None)
    assert (code, "error: " in told) == (130, True), told


def test_who_stops_what_is_done_waits_for_no_thread(curated) -> None:
    code, told = curated("read threading.Thread(target=stop_then_work).start()", end_after=100)
    assert (code, "corpus: " in told, "ended at work" in told) == (0, True, False), told


def test_a_crash_of_what_it_calls_is_told_with_its_code(curated) -> None:
    code, told = curated("read __import__('ctypes').string_at(0)")
    assert (code, "Segmentation fault" in told, "acme_acts.py" in told) == (-11, True, True), told
