"""Runs of several processes: their numbers are those of one process, and they stop together.

`torchrun` starts them as a user does, once for numbers and once for a stop; other algorithms run in forks of this
process.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import started
from forked import run_ranks
from test_recipe import install_coin, write_config, write_text

import llama3
from llama3.plugins.registry import discover

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
UNLIKE = {"tokens_per_second", "artifact"}
"""What may differ: an artifact's name has the hash of its request, which says how many ranks there are."""


@pytest.fixture(scope="module", autouse=True)
def coin(tmp_path_factory):
    """A reward that an untrained model meets about half of the time, installed while these tests run."""
    folder = install_coin(tmp_path_factory.mktemp("site"))
    sys.path.insert(0, str(folder))
    discover.cache_clear()
    yield
    sys.path.remove(str(folder))
    discover.cache_clear()


@pytest.fixture(scope="module")
def ready(tmp_path_factory):
    """A config and a finished run of it. Steps have 3 prompts and then 2: shares differ from rank to rank, and so does
    the number of microbatches."""
    folder = tmp_path_factory.mktemp("ready")
    write_text(folder / "text")
    config = write_config(folder, run__name="small", evaluation__limit=2)
    sizes = {"prompts": 5, "samples": 3, "batch": 3, "microbatch_tokens": 48, "max_tokens": 8}
    changes = ["quantization=[]", *(f"post_training.prefer.{name}={value}" for name, value in sizes.items())]
    llama3.run(config, changes)
    return folder, config, changes


def launch(config: Path, *changes: str, processes: int = 2, program: tuple[str, ...] = ()) -> subprocess.Popen:
    path = os.pathsep.join(part for part in sys.path if part)
    settings = [part for change in changes for part in ("--set", change)]
    return started.Popen(
        [*TORCHRUN, str(processes), *(program or ("-m", "llama3")), "run", str(config), *settings],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def metrics_of(run: Path, lines: int = 0) -> list[dict]:
    """What was logged after so many lines."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()[lines:]]
    return [{name: value for name, value in row.items() if name not in UNLIKE} for row in rows]


def metrics_after(run: Path, lines: int) -> list[dict]:
    """What post-training has logged since."""
    return [row for row in metrics_of(run, lines) if row["stage"] in ("reward", "prefer")]


def by_torchrun(folder: Path, config: Path, changes: list[str]) -> str:
    """What the ranks print. One may abort on its way out, after all is done: judge by what was written."""
    return launch(config, *changes, "parallelism.dp=fsdp").communicate(timeout=240)[0]


def by_forks(folder: Path, config: Path, changes: list[str]) -> str:
    run_ranks(folder / "ranks", 2, as_rank, config, [*changes, "parallelism.dp=fsdp"])
    return ""


def as_rank(config: Path, changes: list[str]) -> dict:
    llama3.run(config, changes)
    return {}


@pytest.mark.parametrize(
    ("algorithm", "start"),
    [
        ("{name: grpo, samples: 3, beta: 0.04}", by_torchrun),
        ("{name: ppo, samples: 3, epochs: 2, minibatches: 2}", by_forks),
        # Draws as GRPO does.
        pytest.param("{name: rejection_sampling, samples: 3}", by_forks, marks=pytest.mark.slow),
        ("{name: online_dpo, samples: 3}", by_forks),
    ],
)
def test_sampling_algorithms_train_as_in_one_process(ready, tmp_path, algorithm, start):
    folder, config, changes = ready
    changes = [*changes, f"post_training.algorithm={algorithm}"]
    if "online_dpo" in algorithm:  # its rewards come from a reward model that the same run trains
        changes += ["post_training.reward={epochs: 1, batch: 4, precision: fp32, microbatch_tokens: 64, log_every: 1}"]
    for name in ("one", "two"):
        shutil.copytree(folder / "runs", tmp_path / name, symlinks=True)
    before = len((folder / "runs/small/metrics.jsonl").read_text().splitlines())
    llama3.run(config, [*changes, f"run.dir={tmp_path / 'one'}"])
    output = start(tmp_path, config, [*changes, f"run.dir={tmp_path / 'two'}"])
    one, two = (metrics_after(tmp_path / name / "small", before) for name in ("one", "two"))
    assert len(one) == len(two) > 0, output[-3000:]
    for expected, found in zip(one, two, strict=True):
        assert found == pytest.approx(expected, abs=1e-5, nan_ok=True)


def rank_of(pid: int) -> tuple[str, str] | None:
    """(parent's pid, RANK) of a process, or None where it cannot be read."""
    try:
        status = (Path("/proc") / str(pid) / "status").read_text()
        environment = (Path("/proc") / str(pid) / "environ").read_bytes().split(b"\0")
    except OSError:
        return None
    parent = next(line.split()[1] for line in status.splitlines() if line.startswith("PPid:"))
    ranks = [value.decode().partition("=")[2] for value in environment if value.startswith(b"RANK=")]
    return (parent, ranks[0]) if ranks else None


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds the second rank in /proc")
def test_a_stop_that_one_rank_sees_stops_all_after_saving(ready, tmp_path):
    folder, config, changes = ready
    shutil.copytree(folder / "runs", tmp_path / "runs", symlinks=True)
    run = tmp_path / "runs" / "small"
    before = len((run / "metrics.jsonl").read_text().splitlines())
    changes = [*changes, f"run.dir={tmp_path / 'runs'}", "pretrain.steps=100000"]
    process = launch(config, *changes, "parallelism.dp=fsdp")
    deadline = time.monotonic() + 120
    while len((run / "metrics.jsonl").read_text().splitlines()) <= before + 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    pids = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal()]
    (second,) = [pid for pid in pids if rank_of(pid) == (str(process.pid), "1")]
    os.kill(second, signal.SIGTERM)
    output, _ = process.communicate(timeout=120)
    assert output.count("L3-TRN-001") == 1, output[-3000:]  # rank 0 says it, the other follows
    assert "[rank" not in output, output[-3000:]  # how torch begins the lines of a rank's traceback
    assert list(run.rglob("COMMIT")), "what was done is saved"


ENDED = 'trap : INT TERM; "$0" -m llama3 "$@"; echo "rank $RANK ended with $?"'


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_signal_to_torchrun_ends_every_rank_after_saving(ready, tmp_path, number):
    """torchrun hands it on, and ends with code 1 and a traceback of its own, as docs/scale.md tells."""
    folder, config, changes = ready
    shutil.copytree(folder / "runs", tmp_path / "runs", symlinks=True)
    run = tmp_path / "runs" / "small"
    before = len((run / "metrics.jsonl").read_text().splitlines())
    changes = [*changes, f"run.dir={tmp_path / 'runs'}", "pretrain.steps=100000"]
    program = ("--no-python", "bash", "-c", ENDED, sys.executable)
    process = launch(config, *changes, "parallelism.dp=fsdp", program=program)
    deadline = time.monotonic() + 120
    while len((run / "metrics.jsonl").read_text().splitlines()) <= before + 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(number)
    output, _ = process.communicate(timeout=120)
    assert sorted(re.findall(r"rank (\d) ended with (\d+)", output)) == [("0", "130"), ("1", "130")], output[-3000:]
    assert output.count("error: ") == output.count("L3-TRN-001") + output.count("L3-RUN-010") == 2, output[-3000:]
    package = str(Path(llama3.__file__).parent)
    assert not [place for place in re.findall(r'File "(.*?)"', output) if place.startswith(package)]
    assert list(run.rglob("COMMIT")), "what was done is saved"
    assert (process.returncode, "SignalException" in output) == (1, True)


@pytest.mark.parametrize("mesh", [("pp=2",), pytest.param(("tp=2", "pp=2"), marks=pytest.mark.slow)], ids=" x ".join)
def test_a_mesh_raises_the_model_that_one_process_does(ready, tmp_path, mesh):
    """Pretraining, finetuning and preferences with the matrices and the layers cut, as a user starts it."""
    _, config, changes = ready
    changes = [*changes, "model.n_kv_heads=2", "post_training.algorithm=dpo", "evaluation.limit=1"]
    llama3.run(config, [*changes, f"run.dir={tmp_path / 'one'}"])
    axes = [f"parallelism.{size}" for size in mesh]
    process = launch(config, *changes, *axes, f"run.dir={tmp_path / 'many'}", processes=2 ** len(mesh))
    output, _ = process.communicate(timeout=400)
    one, many = (metrics_of(tmp_path / name / "small") for name in ("one", "many"))
    assert {row["stage"] for row in one} >= {"pretrain", "sft", "prefer"}
    assert len(one) == len(many), output[-3000:]
    for expected, found in zip(one, many, strict=True):
        assert found == pytest.approx(expected, abs=1e-5, nan_ok=True)


def test_a_mesh_that_does_not_fit_is_refused_before_anything_is_written(ready, tmp_path):
    _, config, changes = ready
    process = launch(config, *changes, f"run.dir={tmp_path}", "parallelism.tp=2")
    output, _ = process.communicate(timeout=120)
    assert process.returncode != 0
    # This model has one key-value head. Both ranks find that, and rank 0 says it.
    assert output.count("L3-PAR-010") == 1, output[-3000:]
    assert not list(tmp_path.iterdir())
