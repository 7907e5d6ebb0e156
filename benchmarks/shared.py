"""A model that two processes share, beside one process with as many threads: greedy ids first, then tokens a second.

Random weights of about 100M parameters in float32, prompts of 64 tokens. Each layout is a process of its own, in turns;
times are those of the wall, so nothing else should run.
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

CONFIG = ModelConfig(768, 12, 12, 4, 2048, 16_384, max_seq_len=2048)
LAYOUTS = {"one process": Sharing(), "tp 2": Sharing(tp=2), "pp 2": Sharing(pp=2)}
THREADS = 2


def measure(folder: str, layout: str, answers: int, tokens: int) -> dict[str, object]:
    """In a process of its own: the ids, and tokens a second of answers and of their prompts."""
    torch.set_num_threads(THREADS)  # those that share divide them among themselves
    _core.set_num_threads(THREADS)
    random = np.random.default_rng(0)
    prompts = [random.integers(0, CONFIG.vocab_size, 64) for _ in range(answers)]
    with opened(folder, device="cpu", sharing=LAYOUTS[layout]) as (llama, ranks):
        engine = Engine(llama.transformer, ranks=ranks)
        engine.generate(prompts, Sampling(2, temperature=0))
        engine.reset()
        began = time.perf_counter()
        engine.generate(prompts, Sampling(1, temperature=0))
        first = time.perf_counter()
        found = engine.generate(
            prompts, Sampling(tokens, temperature=0)
        )  # whose prompts are cached, but for the last block
        seconds = time.perf_counter() - first
    return {
        "ids": [answer.ids for (answer,) in found],
        "tokens/s": answers * tokens / seconds,
        "prompt tokens/s": answers * 64 / (first - began),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--measure", nargs=3, metavar=("FOLDER", "LAYOUT", "ANSWERS"), help="what each process does")
    arguments = parser.parse_args()
    if arguments.measure:
        folder, layout, answers = arguments.measure
        print(json.dumps(measure(folder, layout, int(answers), arguments.tokens)))
        return
    rows = []
    with TemporaryDirectory() as folder:
        save_model(init_weights(Transformer(CONFIG), 0), folder)
        toy_tokenizer().save(Path(folder))
        for answers in (1, 16):
            rounds: dict[str, list[dict]] = {layout: [] for layout in LAYOUTS}
            for _ in range(arguments.rounds):
                for layout in LAYOUTS:
                    command = [sys.executable, __file__, "--tokens", str(arguments.tokens), "--measure", folder, layout]
                    done = subprocess.run([*command, str(answers)], stdout=subprocess.PIPE, check=True, text=True)
                    rounds[layout].append(json.loads(done.stdout))
            ids = [found["ids"] for of_layout in rounds.values() for found in of_layout]
            assert all(found == ids[0] for found in ids), "greedy ids differ"
            rows += [
                {
                    "layout": layout,
                    "answers": answers,
                    **{
                        name: float(np.median([one[name] for one in found])) for name in ("tokens/s", "prompt tokens/s")
                    },
                }
                for layout, found in rounds.items()
            ]
    print(common.table(rows))
    path = common.write_results(
        "shared",
        {
            "command": "make bench-shared",
            "versions": common.versions("torch"),
            "workload": {"rounds": arguments.rounds, "tokens": arguments.tokens, "parameters": CONFIG.num_params()},
            "clock": "seconds of the wall, two threads in all",
            "load": os.getloadavg(),
            "layouts": rows,
        },
    )
    print(f"written to {path}")


if __name__ == "__main__":
    main()
