"""What a KV cache of codes costs a real model, beside one of float32, and how much more fits into it.

Every token of some texts is scored by an engine with each cache, and prompts are answered greedily with each. One
thread; times are CPU seconds of the process.
"""

from __future__ import annotations

import argparse
import time
from typing import get_args

import common
import numpy as np
import torch
from llama3.serving.readers import PromptLogps

from llama3 import _core
from llama3.config.serving import KvDtype
from llama3.inference import Engine, Llama, Sampling


def logps_of(engine: Engine, texts: list[np.ndarray]) -> np.ndarray:
    """Of every token of every text but the first ones."""
    found: list[float] = []
    for ids in texts:
        reader = PromptLogps(ids, 0)
        engine.wait(engine.submit(ids, Sampling(1, temperature=0), reader=reader))
        found += reader.logps
    return np.array(found)


def agreement(ids: list[list[int]], expected: list[list[int]]) -> float:
    """Share of tokens before the first one of an answer that differs."""
    pairs = [zip(mine, others, strict=False) for mine, others in zip(ids, expected, strict=True)]
    agreed = [next((i for i, (a, b) in enumerate(pair) if a != b), None) for pair in pairs]
    counts = [len(mine) if at is None else at for mine, at in zip(ids, agreed, strict=True)]
    return sum(counts) / sum(map(len, ids))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model", help="a model's directory or GGUF file")
    parser.add_argument("--texts", type=int, default=6)
    parser.add_argument("--context", type=int, default=384, help="tokens of a text")
    parser.add_argument("--tokens", type=int, default=24, help="tokens of an answer")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    _core.set_num_threads(1)
    llama = Llama.load(arguments.model, device="cpu")
    sources = [text for text in common.stdlib_texts(4 << 20) if len(text) > 20 * arguments.context]
    ids = [llama.tokenizer.encode(text, bos=True)[: arguments.context] for text in sources[: arguments.texts]]
    prompts = [text[: arguments.context // 2] for text in ids]
    sampling = Sampling(arguments.tokens, temperature=0)
    exact: np.ndarray | None = None
    answers: list[list[int]] = []
    rows = []
    for kind in get_args(KvDtype):
        engine = Engine(llama.transformer, kv_dtype=kind)
        logps = logps_of(engine, ids)
        began = time.process_time()
        found = [answer.ids for (answer,) in engine.generate(prompts, sampling)]
        seconds = time.process_time() - began
        exact, answers = (logps, found) if exact is None else (exact, answers)
        rows.append(
            {
                "cache": "fp32" if kind == "auto" else kind,
                "bytes per token": engine.cache.block_bytes(
                    llama.config, 1, engine.model.embed.weight.dtype, engine.cache.codes
                ),
                "mean log-prob": float(logps.mean()),
                "mean difference": float((logps - exact).mean()),
                "mean |difference|": float(np.abs(logps - exact).mean()),
                "greedy tokens alike": agreement(found, answers),
                "tokens/s": sum(map(len, found)) / seconds,
            }
        )
    print(common.table(rows))
    path = common.write_results(
        "kv_cache",
        {
            "command": "make bench-kv-cache",
            "versions": common.versions("torch"),
            "workload": {
                **{key: value for key, value in vars(arguments).items() if key != "model"},
                "texts_sha256": common.corpus_hash(sources[: arguments.texts]),
            },
            "clock": "CPU seconds of the process, one thread",
            "caches": rows,
        },
    )
    print(f"written to {path}")


if __name__ == "__main__":
    main()
