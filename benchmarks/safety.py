"""The whole of safety on a real model, from one command: both guards trained, a red team, safety finetuning, and VR and
FRR before and after, with and without each guard, on prompts that nothing learnt.

Each step is a command of `llama3` as a user types it; its output is kept beside what it makes. What is finished is found
again: the same command goes on where it was killed.

    python benchmarks/safety.py MODEL --packages FOLDER
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import common
import yaml
from llama_guard_rows import TAXONOMY
from prompt_guard import folders_of, write
from safety_prompts import labelled, safety_texts

from llama3.evaluation.safety_tables import TableOf, changes_tables, systems_table

GATE_CLOSED = 5
"""What `llama3 run` exits with where an audit found something lost. The figures are there all the same."""
SUITES = {"safety": "the prompts that come with llama3", "held_out": "held-out prompts of public lists"}


@dataclass
class Walk:
    """Commands one after another, in one folder; `seconds` of each are kept between calls."""

    folder: Path
    seconds: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.times.exists():
            self.seconds = json.loads(self.times.read_text("utf-8"))

    @property
    def times(self) -> Path:
        return self.folder / "seconds.json"

    def step(self, name: str, *commands: Sequence[str], may_fail: Sequence[int] = ()) -> None:
        """Run commands of `llama3` side by side. Ends the program where one fails, with the end of what it said."""
        started = time.perf_counter()
        threads = str(max(1, (os.cpu_count() or 1) // len(commands)))
        environment = os.environ | {"OMP_NUM_THREADS": threads}
        running = []
        for number, command in enumerate(commands):
            log = self.folder / f"{name}{number or ''}.log"
            print(f"$ llama3 {' '.join(command)}", flush=True)
            argv = [sys.executable, "-m", "llama3", *command]
            with log.open("ab") as out:
                running.append((subprocess.Popen(argv, stdout=out, stderr=out, env=environment), log))
        for process, log in running:
            if process.wait() not in (0, *may_fail):
                sys.exit(f"{name} ended with {process.returncode}: {log}\n{log.read_text('utf-8')[-2000:]}")
        self._took(name, time.perf_counter() - started)

    def _took(self, name: str, seconds: float) -> None:
        # A step that was finished before only finds what it made: its first time is what it costs.
        self.seconds[name] = round(max(seconds, self.seconds.get(name, 0.0)), 1)
        self.times.write_text(json.dumps(self.seconds, indent=1), "utf-8")
        print(f"  {name}: {self.seconds[name]:.0f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model", type=Path)
    parser.add_argument("--packages", type=Path, help="a folder that the packages were installed into")
    parser.add_argument("--folder", type=Path, default=Path("runs/safety"), help="where everything lies")
    parser.add_argument("--share", type=float, default=1.0, help="of the rows and budgets, to try it")
    arguments = parser.parse_args()
    walk = Walk(arguments.folder)
    counts = write_rows(walk, folders_of(arguments.packages), arguments.share)
    configs = write_configs(walk.folder, arguments.model, arguments.share)

    walk.step("judges", *(["judge", str(walk.folder / "labelled.jsonl"), "--event", event, "--out", card(walk, event)]
                          for event in ("violates", "refuses")))  # fmt: skip
    walk.step("guards", *(["guard", "train", str(configs[name])] for name in ("prompt-guard", "llama-guard")))
    walk.step("red_team", ["redteam", str(arguments.model), "-c", str(configs["run"]),
                           "--prompts", str(walk.folder / "seeds.jsonl"), "--out", str(walk.folder / "redteam"),
                           "--budget", str(max(16, int(BUDGET * arguments.share))), "--seed", "1",
                           "--max-tokens", "48"])  # fmt: skip
    walk.step("finetuning", ["run", str(configs["run"])], may_fail=[GATE_CLOSED])
    tell(walk, counts, arguments.share)
