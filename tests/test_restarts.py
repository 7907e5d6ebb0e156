"""`llama3 run --restarts`: a run that is struck by faults comes to its end by itself, as one that nothing disturbed."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import started
from test_recipe import install_coin, write_config, write_text
from test_torchrun import TORCHRUN, rank_of

import llama3
from llama3.artifacts.run import RunDir
from llama3.plugins.registry import discover
from llama3.training.effective_time import accounts, summary
from llama3.training.ledger import rows_of_rank

STRIKER = """
import ctypes, re
from pathlib import Path
from llama3.plugins import LoggerSpec, hookimpl
from pydantic import BaseModel


@hookimpl
def llama3_loggers():
    return [LoggerSpec(name="striker", factory="striker:Striker", options="striker:Options")]


class Options(BaseModel):
    faults: dict[int, str]
    done: str


class Striker:
    '''Each fault once, after its step.'''

    def __init__(self, options): self.faults, self.done = options.faults, Path(options.done)
    def open(self, directory, stage): self.stage = stage
    def sample(self, step, sample): ...
    def close(self): ...

    def log(self, step, metrics):
        fault = self.faults.get(step)
        mark = self.done / f"{step}-{fault}"
        if self.stage != "pretrain" or fault is None or mark.exists():
            return
        mark.touch()
        {"segfault": lambda: ctypes.string_at(1), "hang": lambda: re.match(r"(a+)+$", "a" * 60 + "b")}[fault]()
"""


@pytest.fixture(scope="module")
def calm(tmp_path_factory):
    """A config whose run is short, and what it makes where no fault strikes; and the site with the striker."""
    folder = tmp_path_factory.mktemp("calm")
    site = install_coin(tmp_path_factory.mktemp("site"))
    (site / "striker.py").write_text(STRIKER)
    info = site / "striker-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: striker\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[llama3.plugins]\nstriker = striker\n")
    sys.path.insert(0, str(site))
    discover.cache_clear()
    write_text(folder / "text")
    config = write_config(folder, evaluation__limit=1)
    changes = ["quantization=[]", "post_training.rounds=0"]
    yield config, changes, llama3.run(config, changes)
    sys.path.remove(str(site))
    discover.cache_clear()


def command(config, changes, *more):
    settings = [part for change in changes for part in ("--set", change)]
    return ["-m", "llama3", "run", str(config), *settings, *more]


def launch(words):
    path = os.pathsep.join(part for part in sys.path if part)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    return started.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def weights(run: Path) -> bytes:
    return RunDir(run).current()["pretrain"].file("model.safetensors").read_bytes()


def test_a_run_that_crashes_and_hangs_goes_on_by_itself(calm, tmp_path):
    config, changes, undisturbed = calm
    faults = "{2: segfault, 5: hang}"
    striker = f"logging=[jsonl, {{name: striker, faults: {faults}, done: {tmp_path}}}]"
    more = [f"run.dir={tmp_path / 'runs'}", striker, "reliability.hang_seconds=3"]
    process = launch([sys.executable, *command(config, [*changes, *more], "--restarts", "5", "--json")])
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors[-3000:]
    assert json.loads(output)["bits_per_byte"], "one document, of the last process"
    run = tmp_path / "runs" / "small"
    assert weights(run) == weights(undisturbed.path)
    told = summary(run)
    # On a machine that others starve, a slow step may be taken for one more hang.
    assert {hit["cause"] for hit in told["interruptions"]} == {"crash", "hang"}
    assert errors.count("starting again") == len(told["interruptions"])
    assert [stage["problems"] for stage in told["stages"]] == [[]]
    straight = accounts(rows_of_rank(undisturbed.path))[0]
    assert accounts(rows_of_rank(run))[0].content == straight.content


def test_a_stop_is_passed_on_and_not_undone(calm, tmp_path):
    config, changes, _ = calm
    changes = [*changes, f"run.dir={tmp_path}", "pretrain.phases=[{steps: 100000}]"]
    process = launch([sys.executable, *command(config, changes, "--restarts", "5")])
    rows = lambda: [row["kind"] for row in rows_of_rank(tmp_path / "small")]
    deadline = time.monotonic() + 120
    while "steps" not in rows() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "L3-TRN-001" in errors
    assert "starting again" not in errors
    assert rows()[-1] == "end"


def test_ranks_of_a_launcher_are_not_restarted_from_within(calm, monkeypatch):
    config, changes, _ = calm
    process = started.run(
        [sys.executable, *command(config, changes, "--restarts", "2")],
        env=os.environ | {"WORLD_SIZE": "1", "PYTHONPATH": os.pathsep.join(part for part in sys.path if part)},
    )
    assert process.returncode == 2
    assert "torchrun --max-restarts 2" in process.stderr


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds the second rank in /proc")
def test_torchrun_starts_ranks_again(calm, tmp_path):
    """A rank is killed; torchrun's own restarts bring the run to its end. Without --standalone, as the documents write
    it: then all attempts share one store, in which the addresses of dead ranks stay."""
    config, changes, _ = calm
    changes = [*changes, f"run.dir={tmp_path / 'runs'}", "parallelism.dp=fsdp", "pretrain.phases=[{steps: 150}]"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = ["--master-port", str(free.getsockname()[1])]
    launcher = [
        *(word for word in TORCHRUN[:-1] if word != "--standalone"),
        *port,
        TORCHRUN[-1],
        "2",
        "--max-restarts",
        "3",
    ]
    process = launch([*launcher, *command(config, changes)])
    run = tmp_path / "runs" / "small"
    deadline = time.monotonic() + 240
    while sum(row["kind"] == "saved" for row in rows_of_rank(run)) < 5 and time.monotonic() < deadline:
        time.sleep(0.05)
    pids = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal()]
    (second,) = [pid for pid in pids if rank_of(pid) == (str(process.pid), "1")]
    os.kill(second, signal.SIGKILL)
    output, errors = process.communicate(timeout=400)
    (stage,) = summary(run)["stages"]
    assert (stage["done"], stage["problems"]) == (True, []), output[-2000:] + errors[-2000:]
    assert stage["interruptions"] >= 1
    assert (run / "report.json").exists()


LEFT = """
import tempfile, time
from llama3.cli.restarts import _fork

child = _fork(tempfile.TemporaryFile("w+"))
if child:
    print(child, flush=True)
time.sleep(60)
"""


def test_a_child_ends_with_its_supervisor():
    with started.Popen([sys.executable, "-c", LEFT], stdout=subprocess.PIPE, text=True) as supervisor:
        assert supervisor.stdout is not None
        child = int(supervisor.stdout.readline())
        assert Path(f"/proc/{child}").exists()
        supervisor.kill()
    for _ in range(200):
        status = Path(f"/proc/{child}/status")
        if not status.exists() or "State:\tZ" in status.read_text():
            return
        time.sleep(0.05)
    os.kill(child, signal.SIGKILL)
    pytest.fail("it goes on without anybody who would start it again")
