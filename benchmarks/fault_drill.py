"""A drill of 60 random faults: a run that is killed, crashed, frozen and bit-flipped, and what that cost.

    python benchmarks/fault_drill.py [--faults 60] [--every 15]     or: make drill

`llama3 run --restarts` trains a small model while a seeded list of faults strikes, one after about `--every` seconds of
work, as the paper's 54 days had 466 (one in 2.8 hours): kills from outside, crashes from inside, hangs of a thread
and of the interpreter, flipped bits of weights. It prints `llama3 ledger`, and whether the weights are to the bit those
of the same run without faults.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import yaml

INSIDE = """
import ctypes, json, os, threading, re, time
from pathlib import Path
from llama3.plugins import LoggerSpec, hookimpl
from pydantic import BaseModel


@hookimpl
def llama3_loggers():
    return [LoggerSpec(name="drill", factory="drill:Drill", options="drill:Options")]


class Options(BaseModel):
    plan: str


class Drill:
    '''Does what the first line of its plan says, once the time for it has come, and strikes it out.'''

    def __init__(self, options): self.plan = Path(options.plan)
    def open(self, directory, stage): ...
    def sample(self, step, sample): ...
    def close(self): ...

    def log(self, step, metrics):
        due = self.plan / "due"
        if not due.exists():
            return
        fault = due.read_text()
        due.unlink()
        {"segfault": lambda: ctypes.string_at(1), "exit": lambda: os._exit(9), "abort": os.abort,
         "error": self.error, "hang": lambda: threading.Event().wait(),
         "interpreter": lambda: re.match(r"(a+)+$", "a" * 60 + "b"), "flip": self.flip}[fault]()

    def error(self):
        raise KeyError("a fault of the drill")

    def flip(self):
        import gc, torch
        from llama3.training.loop import Trainer
        trainer = next(x for x in gc.get_objects() if isinstance(x, Trainer))
        with torch.no_grad():
            next(trainer.module.parameters()).view(torch.int32).view(-1)[0] ^= 1 << 21
"""
"""A logger plugin of a third party: faults come from inside of the process, through a door that every user has."""
MIX = {"kill": 30, "segfault": 8, "abort": 4, "exit": 6, "hang": 4, "interpreter": 2, "flip": 6}
"""How often of 60: the paper's share of hardware is about 78 %, its share of silent corruption 1.4 %."""


def install(folder: Path) -> None:
    (folder / "drill.py").write_text(INSIDE)
    info = folder / "drill-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: drill\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[llama3.plugins]\ndrill = drill\n")


def write_config(folder: Path, steps: int, hang: float) -> Path:
    words = ["alpha", "beta", "gamma", "count", "value", "index", "total", "first", "last", "read", "write", "item"]
    rng = random.Random(0)
    (folder / "text").mkdir()
    for number in range(80):
        text = " ".join(rng.choice(words) + str(rng.randrange(100)) for _ in range(300))
        (folder / "text" / f"{number}.txt").write_text(text)
    train = {"precision": "fp32", "warmup": 20, "log_every": 1, "microbatch_tokens": 4096}
    config = {
        "run": {"name": "drill", "dir": str(folder / "runs"), "threads": 1, "device": "cpu"},
        "reliability": {"hang_seconds": hang, "hash_every": 1},
        "data": {"sources": [{"name": "files", "path": str(folder / "text")}], "filters": [], "held_out": 0.05},
        "tokenizer": {"vocab_size": 400, "num_special": 16},
        "model": {"preset": "tiny", "dim": 32, "n_layers": 2, "n_heads": 2, "n_kv_heads": 1, "ffn_dim": 64},
        "pretrain": {"steps": steps, "batch": 8, "seq_len": 128, "checkpoint_every": 20, **train},
        "post_training": {"rounds": 0},
        "quantization": [],
        "evaluation": {"limit": 1, "max_tokens": 4},
        "logging": ["jsonl", {"name": "drill", "plan": str(folder)}],
    }
    path = folder / "drill.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def start(config: Path, site: Path, *more: str) -> subprocess.Popen[str]:
    path = os.pathsep.join([str(site), *(part for part in sys.path if part)])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    return subprocess.Popen(
        [sys.executable, "-m", "llama3", "run", str(config), *more],
        env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def worker_of(pid: int) -> int | None:
    """The child of the supervisor."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(found[0]) if found else None


def strike(faults: Sequence[str], steps: int, folder: Path, supervisor: subprocess.Popen[str], seed: int) -> int:
    """Let the faults strike, evenly but for chance among the steps of the run; how many did."""
    rng, struck = random.Random(seed), 0
    gaps = [rng.uniform(0.5, 1.5) for _ in range(len(faults) + 1)]
    ledger = folder / "runs" / "drill" / "reliability" / "ledger.jsonl"
    for number, fault in enumerate(faults, start=1):
        due = steps * sum(gaps[:number]) / sum(gaps)
        while reached(ledger) < due and supervisor.poll() is None:
            time.sleep(0.05)
        if supervisor.poll() is not None:
            break
        if fault == "kill":
            if (worker := worker_of(supervisor.pid)) is not None:
                os.kill(worker, signal.SIGKILL)
        else:
            (folder / "due").write_text(fault)
            while (folder / "due").exists() and supervisor.poll() is None:
                time.sleep(0.02)
        struck += 1
    return struck


def reached(ledger: Path) -> int:
    """The last step that was made, where steps are being made just now; else -1."""
    try:
        rows = [json.loads(row) for row in ledger.read_text().splitlines()[-2:]]
    except (OSError, ValueError):
        return -1
    made = [row["last"] for row in rows if row["kind"] == "steps"]
    return made[-1] if made and rows[-1]["kind"] in ("steps", "saved") else -1


def weights(run: Path) -> bytes:
    """Of the pretrained model."""
    return (run / "artifacts" / "pretrain" / "model.safetensors").read_bytes()


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--faults", type=int, default=60)
    arguments.add_argument("--every", type=float, default=15.0, help="seconds of work between faults, about")
    arguments.add_argument("--steps", type=int, default=0, help="default: as many as take so long")
    arguments.add_argument("--hang-seconds", type=float, default=2.0)
    arguments.add_argument("--seed", type=int, default=1)
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder, site = Path(name), Path(name) / "site"
        site.mkdir()
        install(site)
        pace = measure(folder / "pace", site)
        steps = given.steps or round(given.faults * given.every / pace)
        print(f"a step takes {1000 * pace:.1f} ms; {steps} steps; a fault in about {given.every:g} s")
        rng = random.Random(given.seed)
        faults = [fault for fault, count in MIX.items() for _ in range(round(count * given.faults / 60))]
        rng.shuffle(faults)
        home = folder / "struck"
        home.mkdir()
        config = write_config(home, steps, given.hang_seconds)
        run = start(config, site, "--restarts", str(2 * given.faults))
        struck = strike(faults, steps, home, run, given.seed)
        _, errors = run.communicate()
        print(f"{struck} faults struck; exit code {run.returncode}")
        if run.returncode:
            print(errors[-3000:])
        told = subprocess.run([sys.executable, "-m", "llama3", "ledger", str(home / "runs/drill")], check=False)
        assert told.returncode == 0
        calm = folder / "calm"
        calm.mkdir()
        again = start(write_config(calm, steps, given.hang_seconds), site)
        again.communicate()
        same = weights(home / "runs/drill") == weights(calm / "runs/drill")
        print(f"weights as without faults: {'equal to the bit' if same else 'DIFFERENT'}")


def measure(folder: Path, site: Path) -> float:
    """Seconds of a step, of a short run."""
    folder.mkdir()
    start(write_config(folder, 60, 0), site).communicate()
    rows = [json.loads(row) for row in (folder / "runs/drill/reliability/ledger.jsonl").read_text().splitlines()]
    spans = [row for row in rows if row["kind"] == "steps" and row["first"] > 20]
    return sum(row["seconds"] for row in spans) / sum(row["last"] - row["first"] + 1 for row in spans)


if __name__ == "__main__":
    main()
