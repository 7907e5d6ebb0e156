"""Decoding of a real model on one thread, one answer alone and sixteen together, beside transformers and llama.cpp.

In float32 all must first give the same greedy token ids. Other precisions round differently in every implementation:
there the model in float32 judges each candidate's answers, whose mean log-probability per token must be near that of
its own. Times are CPU seconds of the process, which a shared machine disturbs less than wall time, and include the
short prompts. llama.cpp takes part where llama-cpp-python is installed; it gets the same weights by our own export, in
its own format of as many bits.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import common
import llama_cpp_peer
import numpy as np
import torch
from generation import Ids, transformers_batching, transformers_generate

from llama3 import _core
from llama3.checkpoints.load import load_model
from llama3.checkpoints.quantized import quantize_model
from llama3.checkpoints.weights import save_model
from llama3.inference import Engine, Sampling
from llama3.model.batch import Batch
from llama3.model.score import score
from llama3.model.transformer import Transformer
from llama3.plugins.registry import discover
from llama3.release.export import export

Generate = Callable[[Ids, int], Ids]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
SCHEMES = {"int8": {"int8": {}, "int8_dynamic": {}}, "int4": {"int4": {"group": 96}}}
"""Ours by bits. No group of 128 columns divides this model's matrices."""
GGUF = {"fp32": "F32", "bf16": "BF16", "int8": "Q8_0", "int4": "Q4_0"}
NEAR = 0.5
"""Nats per token that the answers of a candidate may be less likely than float32's own."""


def ours(model: Transformer, dtype: torch.dtype) -> Generate:
    engine = Engine(model, dtype=dtype)

    def generate(prompts: Ids, tokens: int) -> Ids:
        engine.pool.reset()  # so that no prompt is cached from the round before
        return [answer.ids for (answer,) in engine.generate(prompts, Sampling(tokens, temperature=0))]

    return generate


def quantized(path: str, scheme: str, options: dict[str, int]) -> Generate:
    """Matrices as the scheme keeps them, the rest in bfloat16, as a quantized checkpoint is served."""
    model = load_model(path)
    quantize_model(model, discover().build("quantization", scheme, options))
    for module in (model.embed, model.norm, *(norm for norm in model.modules() if type(norm) is type(model.norm))):
        module.to(torch.bfloat16)
    return ours(model, torch.bfloat16)


def candidates(path: str, folder: str, precision: str) -> Iterator[tuple[str, Generate]]:
    """Those of one precision by their names, ours first. `folder` holds the model in Hugging Face's layout."""
    if precision in DTYPES:
        yield "llama3", ours(load_model(path), DTYPES[precision])
        yield "transformers generate", transformers_generate(folder, DTYPES[precision])
        yield "transformers generate_batch", transformers_batching(folder, DTYPES[precision])
    for scheme, options in SCHEMES.get(precision, {}).items():
        yield f"llama3 {scheme}", quantized(path, scheme, options)
    if llama_cpp_peer.facts() is not None:
        out = Path(folder) / GGUF[precision]
        export(Path(path), out, "gguf", {"type": GGUF[precision]})
        yield f"llama.cpp {GGUF[precision]}", llama_cpp_peer.llama_cpp(str(next(out.glob("*.gguf"))))


@torch.no_grad()
def mean_logp(model: Transformer, prompts: Ids, answers: Ids) -> float:
    """The mean log-probability of the answers' tokens, in nats."""
    texts = [prompt + answer for prompt, answer in zip(prompts, answers, strict=True)]
    starts = np.cumsum([0, *(len(text) for text in texts[:-1])])
    logps_M = score(model, Batch.of_documents(np.concatenate(texts), starts)).logps_M
    assert logps_M is not None
    rows = logps_M.view(len(texts), -1)
    return float(rows[:, -len(answers[0]) :].mean())


def checked(
    model: Transformer, precision: str, found: dict[str, Generate], prompts: Ids, tokens: int
) -> dict[str, float]:
    """The mean log-probability of each candidate's answers. Ends the program where one is not what it should be."""
    answers = {name: run(prompts, tokens) for name, run in found.items()}
    expected = ours(model, torch.float32)(prompts, tokens)
    if precision == "fp32" and (odd := [name for name, ids in answers.items() if ids != expected]):
        sys.exit(f"not timed: the greedy ids of {odd} are not ours")
    likely = {name: mean_logp(model, prompts, ids) for name, ids in answers.items()}
    floor = mean_logp(model, prompts, expected) - NEAR
    if low := {name: logp for name, logp in likely.items() if logp < floor}:
        sys.exit(f"not timed: the answers of {low} are less likely than {floor:.2f}")
    return likely


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model", help="a model's directory or GGUF file")
    parser.add_argument("--prompt", type=int, default=16, help="tokens of a prompt")
    parser.add_argument("--tokens", type=int, default=32, help="tokens of an answer")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--precisions", nargs="*", default=list(GGUF), choices=list(GGUF))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    _core.set_num_threads(1)
    model = load_model(arguments.model)
    random = np.random.default_rng(0)
    prompts: Ids = random.integers(100, model.config.vocab_size, (16, arguments.prompt)).tolist()
    rows = []
    for precision in arguments.precisions:
        with tempfile.TemporaryDirectory() as folder:
            save_model(model, folder)
            found = dict(candidates(arguments.model, folder, precision))
            likely = checked(model, precision, found, prompts, arguments.tokens)
            for answers in (1, 16):
                runs = {
                    name: lambda run=run, some=prompts[:answers]: run(some, arguments.tokens)
                    for name, run in found.items()
                }
                timings = common.interleaved(runs, rounds=arguments.rounds, warmup=0, clock=time.process_time)
                first = next(iter(timings.values())).median
                for name, timing in timings.items():
                    row = {"candidate": name, "precision": precision, "answers": answers}
                    speed = {"tokens/s": answers * arguments.tokens / timing.median}
                    rows.append({**row, **speed, "first is faster by": timing.median / first, **timing.summary()})
                    rows[-1]["mean log-probability"] = likely[name]
    print(common.table(rows))
    path = common.write_results(
        "serving",
        {
            "command": "make bench-serving",
            "versions": common.versions("torch", "transformers") | (llama_cpp_peer.facts() or {"llama.cpp": "absent"}),
            "workload": {key: value for key, value in vars(arguments).items() if key != "model"},
            "clock": "CPU seconds of the process, one thread",
            "timings": rows,
        },
    )
    print(f"written to {path}")


if __name__ == "__main__":
    main()
