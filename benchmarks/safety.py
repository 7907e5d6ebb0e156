"""The whole of safety on a real model, from one command: both guards trained, a red team, safety finetuning, and VR and
FRR before and after, with and without each guard, on prompts that nothing learnt.

Each step is a command of `llama3` as a user types it; its output is kept beside what it makes. What is finished is
found again: the same command goes on where it was killed.

    python benchmarks/safety.py MODEL --packages FOLDER
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import common
import yaml
from llama_guard import RECIPE
from prompt_guard import folders_of, write
from safety_prompts import labelled, safety_texts

from llama3.artifacts import Artifact
from llama3.evaluation.safety_tables import TableOf, changes_tables, shown, systems_table

EVENTS = ("violates", "refuses")
BUDGET = 240
"""Messages of the red team."""
ANSWER_TOKENS = 32
OF_EACH_KIND = {"safety": 33, "held_out": 60}
"""Prompts that are asked at most of each kind: three models answer them, and all is to fit into half an hour."""
PATIENCE_MS = 60_000
"""How long a guard may take: with one core beside others a model that judges is slow."""
GUARDS = {"prompt_guard": "prompt-guard/artifacts/prompt_guard", "llama_guard": "llama-guard/artifacts/llama_guard"}
TOLD_OF_ATTACKS = ("attempts", "messages", "outcomes", "all", "by_style", "guards")
GATE_CLOSED = 5
"""What `llama3 run` exits with where an audit found something lost. The figures are there all the same."""
SUITES = {"safety": "the prompts that come with llama3", "held_out": "held-out prompts of public lists"}


@dataclass
class Walk:
    """Commands one after another, in one folder; `seconds` of each are kept between calls."""

    folder: Path
    seconds: dict[str, float] = field(default_factory=dict)
    finished: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.times.exists():
            told = json.loads(self.times.read_text("utf-8"))
            self.seconds, self.finished = told["seconds"], told["finished"]

    @property
    def times(self) -> Path:
        return self.folder / "seconds.json"

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Count the time of a step, over all calls until it is finished: then it only finds what it made."""
        started, done = time.perf_counter(), False
        try:
            yield
            done = True
        finally:
            if name not in self.finished:
                self.seconds[name] = round(self.seconds.get(name, 0.0) + time.perf_counter() - started, 1)
                self.finished += [name] if done else []
            text = json.dumps({"seconds": self.seconds, "finished": self.finished}, indent=1)
            self.times.write_text(text, "utf-8")
            print(f"  {name}: {self.seconds[name]:.0f} s", flush=True)

    def step(self, name: str, *commands: Sequence[object], may_fail: Sequence[int] = ()) -> None:
        """Run commands of `llama3` side by side. Ends the program where one fails, with the end of what it said."""
        threads = str(max(1, (os.cpu_count() or 1) // len(commands)))
        environment = os.environ | {"OMP_NUM_THREADS": threads}
        running = []
        with self.timed(name):
            for number, command in enumerate(commands):
                log = self.folder / f"{name.replace(' ', '-')}{number or ''}.log"
                argv = [sys.executable, "-m", "llama3", *map(str, command)]
                print(f"$ llama3 {' '.join(argv[3:])}", flush=True)
                with log.open("ab") as out:
                    running.append((subprocess.Popen(argv, stdout=out, stderr=out, env=environment), log))
            for process, log in running:
                if process.wait() not in (0, *may_fail):
                    sys.exit(f"{name} ended with {process.returncode}: {log}\n{log.read_text('utf-8')[-2000:]}")


def write_rows(folder: Path, packages: Mapping[str, Path], share: float) -> dict[str, Any]:
    """Files of rows and prompts; how many each has, and a hash of their texts."""
    texts = safety_texts(packages, share)
    files = {
        "attacks": texts.prompt_guard,
        "hazards": texts.llama_guard,
        "learnt": texts.learnt,
        "seeds": texts.seeds,
        "held_out": texts.held_out,
        "labelled": list(labelled(packages)),
    }
    for name, rows in files.items():
        write(folder / f"{name}.jsonl", rows)
    held_out = Counter(row["kind"] for row in texts.held_out)
    return {
        "rows": {name: len(rows) for name, rows in files.items()},
        "held_out": dict(held_out),
        "corpus": common.corpus_hash(json.dumps(row) for rows in files.values() for row in rows),
    }


def write_guards(folder: Path, model: Path, share: float) -> list[Path]:
    """What `llama3 guard train` is asked for: a classifier of attacks, and the model itself as a judge of hazards."""
    run = {"dir": str(folder), "device": "cpu"}
    prompt_guard = {
        "kind": "prompt_guard",
        "data": str(folder / "attacks.jsonl"),
        "run": {**run, "name": "prompt-guard"},
        "fpr": 0.01 if share == 1 else 0.1,
        "model": {"preset": "tiny", "n_layers": 3},
        "train": {"epochs": 2, "batch": 16},
    }
    llama_guard = {
        **yaml.safe_load(RECIPE.read_text("utf-8")),
        "data": str(folder / "hazards.jsonl"),
        "model": str(model),
        "run": {**run, "name": "llama-guard"},
    }
    if share < 1:  # so few rows calibrate nothing
        llama_guard |= {"fpr": None}
    return [written(folder / f"{config['run']['name']}.yaml", config) for config in (prompt_guard, llama_guard)]


def policy_of(folder: Path) -> dict[str, Any]:
    """The whole chain: rules, the classifier and the judge before the model, the judge again behind it."""
    prompt_guard = {"name": "prompt_guard", "model": str(folder / "prompt-guard" / "artifacts" / "prompt_guard")}
    llama_guard = {"name": "llama_guard", "model": str(folder / "llama-guard" / "artifacts" / "llama_guard")}
    judged = {"guard": llama_guard, "timeout_ms": PATIENCE_MS}
    return {
        "input": {"any": ["prompt_injection", {"guard": prompt_guard, "timeout_ms": PATIENCE_MS}, judged]},
        "output": judged,
    }


def run_of(folder: Path, model: Path, share: float) -> dict[str, Any]:
    """The config of the run: the preset `safety`, asked more, behind the chain, with the red team's finds to learn."""
    prompts = ["built_in", str(folder / "learnt.jsonl")]
    finds = folder / "redteam" / "finds.jsonl"
    if finds.read_text("utf-8").strip():
        prompts.append(str(finds))
    judges = {event: {"card": str(card_of(folder, event))} for event in EVENTS}
    limit = lambda most: {"limit": max(8, round(most * share)), "max_tokens": ANSWER_TOKENS}
    return {
        "extends": "safety",
        "run": {"dir": str(folder), "name": "model"},
        "model": {"path": str(model)},
        "post_training": {"safety": {"prompts": prompts, "limit": max(16, round(320 * share))}},
        "evaluation": {
            "tasks": [
                {"name": "safety", **limit(OF_EACH_KIND["safety"]), **judges},
                {"name": "safety", "suite": "held_out", "path": str(folder / "held_out.jsonl"),
                 **limit(OF_EACH_KIND["held_out"]), **judges},
                {"name": "refusals", "limit": max(8, round(96 * share))},
                {"name": "harmless", "limit": max(8, round(96 * share))},
                {"name": "bits_per_byte", "suite": "text", "max_bytes": 60000, "document_bytes": 3000},
            ]
        },
        "safety": {"policy": policy_of(folder)},
        "release": {"red_team": str(folder / "redteam")},
        # So few rows as somebody tries cannot show that nothing was lost.
        **({} if share == 1 else {"audit": {"margin": 0.9, "relative_margin": 0.9, "must_improve": []}}),
    }  # fmt: skip


def card_of(folder: Path, event: str) -> Path:
    return folder / f"judge-{event}.json"


def written(path: Path, config: Mapping[str, Any]) -> Path:
    plain = json.loads(json.dumps(config))  # nothing stands in it twice, so that no anchor is written
    path.write_text(yaml.safe_dump(plain, sort_keys=False), "utf-8")
    return path


def told(report: Mapping[str, Any]) -> dict[str, Any]:
    """By suite the models side by side, each with and without each guard, and by how much the whole chain lowers VR."""
    found = {}
    for suite in SUITES:
        changes = report["safety"]["suites"][suite]
        found[suite] = {
            "chain": chain_of(changes),
            "changes": {key: changes[key] for key in ("against", "models", "changes")},
            "evaluations": {
                model: {key: rows[suite][key] for key in ("systems", "changes", "rows", "judges", "prompts")}
                for model, rows in report["evaluations"].items()
            },
        }
    return found


def chain_of(changes: Mapping[str, Any]) -> dict[str, Any]:
    """What the model behind the whole policy changes against the given one without: `vr`, and the `frr` it has then."""
    return {"vr": changes["changes"]["final"]["full"]["vr"], "frr": changes["models"]["final"]["full"]["frr"]}


def show(report: Mapping[str, Any]) -> None:
    """The tables, and the claim of each suite."""
    for suite, what in SUITES.items():
        changes = report["safety"]["suites"][suite]
        show_table(what, next(changes_tables(changes)))
        for model, rows in report["evaluations"].items():
            show_table(f"{what}: {model} with and without each guard", systems_table(rows[suite]))
        chain = chain_of(changes)
        relative = chain["vr"]["relative"] or 0.0  # none where nothing violated before
        print(f"\nthe whole chain changes VR by {relative:+.1%}, at an FRR of {shown(chain['frr'])}")


def show_table(title: str, table: TableOf) -> None:
    print(f"\n{title}")
    print(common.table([dict(zip(table.head, row, strict=True)) for row in table.rows]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model", type=Path)
    parser.add_argument("--packages", type=Path, help="a folder that the packages were installed into")
    parser.add_argument("--folder", type=Path, default=Path("runs/safety"), help="where everything lies")
    parser.add_argument("--share", type=float, default=1.0, help="of the rows and budgets, to try it")
    asked = parser.parse_args()
    walk, model, share = Walk(asked.folder), asked.model, asked.share
    folder = walk.folder

    with walk.timed("rows"):
        rows = write_rows(folder, folders_of(asked.packages), share)
    labels = folder / "labelled.jsonl"
    walk.step("judges", *(["judge", labels, "--event", event, "--out", card_of(folder, event)] for event in EVENTS))
    for config in write_guards(folder, model, share):
        walk.step(config.stem, ["guard", "train", config])
    policy = written(folder / "policy.yaml", policy_of(folder))
    attack = ["--prompts", folder / "seeds.jsonl", "--budget", max(16, round(BUDGET * share)), "--seed", 1]
    attack += ["--max-tokens", ANSWER_TOKENS, "--out", folder / "redteam"]
    walk.step("red team", ["redteam", model, "--policy", policy, *attack])
    walk.step("model", ["run", written(folder / "model.yaml", run_of(folder, model, share))], may_fail=[GATE_CLOSED])

    if not (folder / "model" / "report.json").exists():  # refused before anything was trained
        sys.exit((folder / "model.log").read_text("utf-8")[-2000:])
    report = json.loads((folder / "model" / "report.json").read_text("utf-8"))
    show(report)
    if share < 1:
        return
    attacked = json.loads((folder / "redteam" / "report.json").read_text("utf-8"))["figures"]
    results = {
        "versions": common.versions("torch", "llama3"),
        "command": "make safety",
        "seconds": walk.seconds,
        "minutes": round(sum(walk.seconds.values()) / 60, 1),
        "texts": rows,
        "guards": {name: Artifact(folder / place).metrics for name, place in GUARDS.items()},
        "red_team": {name: attacked[name] for name in TOLD_OF_ATTACKS},
        "suites": told(report),
        "audit": report["audit"] and {"passed": report["audit"]["passed"], "verdict": report["verdict"]},
    }
    print(common.write_results("safety", results))


if __name__ == "__main__":
    main()
