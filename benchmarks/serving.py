"""Decoding of a real model on one thread, one answer alone and sixteen together, beside transformers.

In float32 all must first give the same greedy token ids. bfloat16 rounds differently in every implementation, so there
it is counted how many tokens agree. Times are CPU seconds of the process, which a shared machine disturbs less than
wall time, and include the short prompts.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable

import common
import numpy as np
import torch
from generation import Ids, transformers_batching, transformers_generate

from llama3 import _core
from llama3.checkpoints.load import load_model
from llama3.checkpoints.weights import save_model
from llama3.inference import Engine, Sampling
from llama3.model.transformer import Transformer

Generate = Callable[[Ids, int], Ids]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def ours(model: Transformer, dtype: torch.dtype) -> Generate:
    engine = Engine(model, dtype=dtype)

    def generate(prompts: Ids, tokens: int) -> Ids:
        engine.pool.reset()  # so that no prompt is cached from the round before
        return [answer.ids for (answer,) in engine.generate(prompts, Sampling(tokens, temperature=0))]

    return generate


def agreement(ids: Ids, expected: Ids) -> float:
    """Share of tokens before the first one of an answer that differs."""
    agreed = 0
    for mine, others in zip(ids, expected, strict=True):
        differ = [i for i, (a, b) in enumerate(zip(mine, others, strict=True)) if a != b]
        agreed += differ[0] if differ else len(mine)
    return agreed / sum(map(len, expected))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model", help="a model's directory or GGUF file")
    parser.add_argument("--prompt", type=int, default=16, help="tokens of a prompt")
    parser.add_argument("--tokens", type=int, default=32, help="tokens of an answer")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    _core.set_num_threads(1)
    model = load_model(arguments.model)
    random = np.random.default_rng(0)
    prompts: Ids = random.integers(100, model.config.vocab_size, (16, arguments.prompt)).tolist()
    results, rows = [], []
    with tempfile.TemporaryDirectory() as folder:
        save_model(model, folder)
        for precision, dtype in DTYPES.items():
            candidates: dict[str, Generate] = {
                "llama3": ours(model, dtype),
                "transformers generate": transformers_generate(folder, dtype),
                "transformers generate_batch": transformers_batching(folder, dtype),
            }
            expected = candidates["llama3"](prompts, arguments.tokens)
            agreed = {name: agreement(run(prompts, arguments.tokens), expected) for name, run in candidates.items()}
            if precision == "fp32" and min(agreed.values()) < 1:
                sys.exit(f"not timed: not all ids are ours: {agreed}")
            for answers in (1, 16):
                timed = {
                    name: lambda run=run, some=prompts[:answers]: run(some, arguments.tokens)
                    for name, run in candidates.items()
                }
                timings = common.interleaved(timed, rounds=arguments.rounds, clock=time.process_time)
                for name, timing in timings.items():
                    row = {"candidate": name, "precision": precision, "answers": answers}
                    speed = {"tokens/s": answers * arguments.tokens / timing.median}
                    ratio = {"llama3 is faster by": timing.median / timings["llama3"].median}
                    rows.append({**row, **speed, **ratio, "spread": timing.spread})
                    results.append({**row, **speed, **timing.summary(), "ids as ours": agreed[name]})
    print(common.table(rows))
    path = common.write_results(
        "serving",
        {
            "command": "make bench-serving",
            "versions": common.versions("torch", "transformers"),
            "workload": {key: value for key, value in vars(arguments).items() if key != "model"},
            "clock": "CPU seconds of the process, one thread",
            "timings": results,
        },
    )
    print(f"written to {path}")


if __name__ == "__main__":
    main()
