"""A model that two processes share, beside one process with as many threads: greedy ids first, then tokens a second.

Random weights of 76M parameters in float32, prompts of 65 tokens. Each layout is a process of its own, in turns. Tokens
a second are told by the wall, so nothing else should run; the processor's time, of all processes together, depends less
on that (waiting for another process takes next to none).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import common
import numpy as np
import torch

from llama3 import _core
from llama3.checkpoints.weights import save_model
from llama3.inference import Engine, Sampling
from llama3.model.build import init_weights
from llama3.model.config import ModelConfig
from llama3.model.transformer import Transformer
from llama3.serving.shared import Sharing, opened
from llama3.testing.toys import toy_tokenizer

CONFIG = ModelConfig(768, 8, 12, 4, 2048, 16_384, max_seq_len=2048)
LAYOUTS = {"one process": Sharing(), "tp 2": Sharing(tp=2), "pp 2": Sharing(pp=2)}
THREADS = 2
ANSWERS = (1, 8)
RATES = ("tokens/s", "prompt tokens/s", "processor ms/token")
PROMPT = 65
"""Tokens: whole blocks of the cache, and one."""


def processor_seconds() -> float:
    """Of this process and those that it has started, so far, as Linux tells it."""
    ticks = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if os.getpid() in (int(fields[1]), int(stat.parent.name)):
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def measure(folder: str, layout: str, tokens: int) -> list[dict[str, object]]:
    """In a process of its own, for each number of answers: their ids, tokens a second, and those of their prompts."""
    torch.set_num_threads(THREADS)  # those that share divide them among themselves
    _core.set_num_threads(THREADS)
    random = np.random.default_rng(0)
    rows: list[dict[str, object]] = []
    with opened(folder, device="cpu", sharing=LAYOUTS[layout]) as (llama, ranks):
        engine = Engine(llama.transformer, ranks=ranks)
        engine.generate([[1, 2, 3]], Sampling(3, temperature=0))
        for count in ANSWERS:
            prompts = [random.integers(0, CONFIG.vocab_size, PROMPT) for _ in range(count)]
            began = time.perf_counter()
            engine.generate(prompts, Sampling(1, temperature=0))
            first, before = time.perf_counter(), processor_seconds()
            found = engine.generate(prompts, Sampling(tokens, temperature=0))  # all but the last token is cached
            seconds, used = time.perf_counter() - first, processor_seconds() - before
            rows.append(
                {
                    "ids": [answer.ids for (answer,) in found],
                    "tokens/s": count * tokens / seconds,
                    "prompt tokens/s": count * PROMPT / (first - began),
                    "processor ms/token": 1000 * used / (count * tokens),
                }
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--measure", nargs=2, metavar=("FOLDER", "LAYOUT"), help="what each process does")
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(*arguments.measure, arguments.tokens)))
        return
    rounds: dict[str, list[list[dict]]] = {layout: [] for layout in LAYOUTS}
    with TemporaryDirectory() as folder:
        save_model(init_weights(Transformer(CONFIG), 0), folder)
        toy_tokenizer().save(Path(folder))
        for _ in range(arguments.rounds):
            for layout in LAYOUTS:
                command = [sys.executable, __file__, "--tokens", str(arguments.tokens), "--measure", folder, layout]
                done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
                rounds[layout].append(json.loads(done.stdout))
    rows = []
    for place, answers in enumerate(ANSWERS):
        for layout, of_layout in rounds.items():
            found = [one[place] for one in of_layout]
            assert all(one["ids"] == rounds["one process"][0][place]["ids"] for one in found), "greedy ids differ"
            rates = {name: float(np.median([one[name] for one in found])) for name in RATES}
            rows.append({"layout": layout, "answers": answers, **rates})
    print(common.table(rows))
    path = common.write_results(
        "shared",
        {
            "command": "make bench-shared",
            "versions": common.versions("torch"),
            "workload": {"rounds": arguments.rounds, "tokens": arguments.tokens, "parameters": CONFIG.num_params()},
            "clock": f"seconds of the wall, {THREADS} threads in all",
            "load": os.getloadavg(),
            "layouts": rows,
        },
    )
    print(f"written to {path}")


if __name__ == "__main__":
    main()
