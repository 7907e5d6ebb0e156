"""Generation on a GPU: the ways to read the cache, bfloat16 and FP8, next to what the memory's bandwidth allows.

First all ways must give the token ids that a CPU gives (a model of two layers, in float32). Then a model of the real
size with random weights is timed: the speed of a step does not depend on the numbers. Decoding is timed after all
prompts are computed, one token of each answer a step; a share of the bound is the bytes that a step must read (weights
of products once, keys and values of every answer) by the bytes that the device's copy moves in its time.

Run: make bench-gpu (minutes, unattended). Without a GPU: python benchmarks/gpu/serving.py --device cpu --shape tiny
"""

from __future__ import annotations

import dataclasses
import sys
import time
from typing import Any

import device as gpu
import numpy as np
import torch

from llama3.checkpoints.quantized import quantize_model
from llama3.inference import Engine, Sampling
from llama3.inference.paged_attention import Way
from llama3.model.config import PRESETS, ModelConfig
from llama3.model.transformer import Transformer
from llama3.plugins.registry import discover

WARM = 4
"""Steps before those that are timed: graphs are captured."""
PREFILL = 8192
"""Tokens of prompts that a step computes."""


def main() -> None:
    options = gpu.arguments(__doc__.splitlines()[0] if __doc__ else "", "llama-3.1-8b")
    device, runs = torch.device(options.device), gpu.Runs(options.seconds)
    context, answers, steps = (1024, 64, 48) if device.type == "cuda" else (24, 4, 3)
    config = dataclasses.replace(PRESETS[options.shape], max_seq_len=8 * context)
    if not runs.add("parity", lambda: parity(config, device)):
        runs.write("gpu-serving", options)
        sys.exit("not timed: the ways to read the cache do not agree")
    bandwidth = runs.add("bandwidth", lambda: {"bytes/s": gpu.bandwidth(device)})
    products = runs.add("product", lambda: {"bf16 FLOP/s": gpu.product_speed(device)})
    bounds = (bandwidth or {}).get("bytes/s"), (products or {}).get("bf16 FLOP/s")

    model = gpu.random_model(config, device, torch.bfloat16)
    for way in (None, "gather", "varlen") if device.type == "cuda" else (None, "gather"):
        for count in (1, answers):
            label = f"decode, bf16, {way or 'default'}, {count}"
            runs.add(label, lambda count=count, way=way: decode(model, count, context, steps, bounds, way))
        runs.add(f"prefill, bf16, {way or 'default'}", lambda way=way: prefill(model, 4 * context, bounds, way))
    runs.add(
        "decode, bf16, steps launched one by one, 1", lambda: decode(model, 1, context, steps, bounds, None, False)
    )

    expected = logps_of(model, context)
    quantize_model(model, discover().build("quantization", "fp8_rowwise"))
    for count in (1, answers):
        runs.add(
            f"decode, fp8, default, {count}", lambda count=count: decode(model, count, context, steps, bounds, None)
        )
    runs.add("prefill, fp8, default", lambda: prefill(model, 4 * context, bounds, None))
    runs.add("fp8 beside bf16", lambda: compared(runs.results, logps_of(model, context) - expected, answers))
    runs.write("gpu-serving", options)


def prompts_of(config: ModelConfig, count: int, length: int, seed: int = 0) -> list[list[int]]:
    return np.random.default_rng(seed).integers(0, config.vocab_size, (count, length)).tolist()


def parity(config: ModelConfig, device: torch.device) -> dict[str, Any]:
    """Greedy ids of every way in float32 against a CPU's; in bfloat16 how far the log-probabilities are apart."""
    small = dataclasses.replace(config, n_layers=2, vocab_size=min(config.vocab_size, 4096))
    model = gpu.random_model(small, device, torch.float32)
    on_cpu = gpu.random_model(small, device, torch.float32).to("cpu")
    prompts = [prompt[: 7 + 90 * i] for i, prompt in enumerate(prompts_of(small, 4, 300))]
    prompts = [prompt[: small.max_seq_len - 16] for prompt in prompts]
    sampling = Sampling(16, temperature=0)
    expected = [answer.ids for (answer,) in Engine(on_cpu, attention="gather").generate(prompts, sampling)]
    ways: list[Way] = ["gather", "triton"] if device.type == "cuda" else ["gather"]
    ids = {way: Engine(model, attention=way).generate(prompts, sampling) for way in [*ways, None]}
    equal = {way or "default": [a.ids for (a,) in found] == expected for way, found in ids.items()}
    if not all(equal.values()):
        raise ValueError(f"ids as on a CPU: {equal}")
    half = model.bfloat16()
    ways += ["varlen"] if device.type == "cuda" else []
    taken = Engine(half).cache.ways
    first: dict[str, Any] = {way: _first_logps(half, way, prompts) for way in ways}
    apart = {way: float(np.abs(first[way] - first["gather"]).max()) for way in ways}
    default = {"few tokens": taken.few or "gather", "many tokens": taken.many or "gather"}
    return {"ids as on a CPU": equal, "default": default, "bf16 log-probs from gather's": apart}


def _first_logps(model: Transformer, way: Way, prompts: list[list[int]]) -> Any:
    """Log-probability of one token after each prompt, the same for every way; infinite where the way is refused."""
    forced = Sampling(1, temperature=0, logit_bias=((5, 1e4),))
    try:
        return np.array([a.logps[0] for (a,) in Engine(model, attention=way).generate(prompts, forced)])
    except Exception as error:
        print(f"{way}: {error}", file=sys.stderr)
        return np.full(len(prompts), np.inf)


def decode(
    model: Transformer,
    answers: int,
    context: int,
    steps: int,
    bounds: tuple[float | None, float | None],
    way: Way | None,
    graphs: bool = True,
) -> dict[str, Any]:
    """Tokens a second of `answers` together after prompts of `context` tokens, and the share of the bound."""
    config, device = model.config, model.embed.weight.device
    longest = steps + WARM + 2 + answers * context // PREFILL  # the first answers grow while other prompts are computed
    blocks = 2 + answers * (-(-(context + longest) // 16) + 1)
    engine = Engine(model, num_blocks=blocks, max_batch=answers, prefill_tokens=PREFILL, attention=way)
    if not graphs:
        engine.forwards.graphs = None
    requests = [engine.submit(p, Sampling(longest, temperature=0)) for p in prompts_of(config, answers, context)]
    while any(not request.ids(0) for request in requests):
        engine.step()
    for _ in range(WARM):
        engine.step()
    made = lambda: sum(len(request.ids(0)) for request in requests)
    first = made()
    gpu.synchronize(device)
    start = time.perf_counter()
    for _ in range(steps):
        engine.step()
    gpu.synchronize(device)
    seconds, tokens = time.perf_counter() - start, made() - first
    engine.reset()
    held = answers * context + first + tokens // 2  # on average, over the steps that were timed
    read = weight_bytes(model) + held * kv_bytes(config, model.embed.weight.dtype)
    found = {"tokens/s": tokens / seconds, "step ms": 1e3 * seconds / steps, "bytes a step": read}
    if bounds[0]:
        found["share of the bandwidth bound"] = read * steps / seconds / bounds[0]
    return found


def prefill(
    model: Transformer, tokens: int, bounds: tuple[float | None, float | None], way: Way | None
) -> dict[str, Any]:
    """Tokens of one prompt a second, and the share of a large product's speed."""
    config, device = model.config, model.embed.weight.device
    engine = Engine(model, num_blocks=8 + tokens // 16, max_batch=1, prefill_tokens=tokens, attention=way)
    (prompt,) = prompts_of(config, 1, tokens)

    def run() -> None:
        engine.pool.reset()
        engine.generate([prompt], Sampling(1, temperature=0))

    seconds = gpu.seconds_of(run, device)
    matrices = sum(p.numel() for name, p in _matrices(model) if name != "lm_head")
    # Scores and values of half a square, causal; two operations each.
    attention = 2 * config.n_layers * config.n_heads * config.head_dim * tokens
    found = {"tokens/s": tokens / seconds, "tokens": tokens}
    if bounds[1]:
        found["share of a product's speed"] = (2 * matrices + attention) * tokens / seconds / bounds[1]
    return found


def _matrices(model: Transformer) -> list[tuple[str, torch.Tensor]]:
    """The weight, or the codes, of every matrix product."""
    modules = [(name, module) for name, module in model.named_modules() if name != "embed"]
    found = [(name, getattr(module, "codes", getattr(module, "weight", None))) for name, module in modules]
    return [(name, weight) for name, weight in found if weight is not None and weight.dim() == 2]


def weight_bytes(model: Transformer) -> int:
    """Bytes of all matrices that a step reads: the embedding is looked up, not read."""
    return sum(weight.nbytes for _, weight in _matrices(model))


def kv_bytes(config: ModelConfig, dtype: torch.dtype) -> int:
    """Bytes of a token's keys and values."""
    return 2 * config.n_layers * config.n_kv_heads * config.head_dim * dtype.itemsize


def logps_of(model: Transformer, length: int) -> Any:
    """Log-probabilities of one token after many prompts."""
    prompts = [p[: 8 + i * 3] for i, p in enumerate(prompts_of(model.config, 16, length, seed=1))]
    forced = Sampling(1, temperature=0, logit_bias=((5, 1e4),))
    return np.array([a.logps[0] for (a,) in Engine(model, max_batch=16).generate(prompts, forced)])


def compared(results: dict[str, Any], apart: Any, answers: int) -> dict[str, Any]:
    """FP8 as a multiple of bfloat16, and what it does to log-probabilities of the random model."""
    names = {"prefill": "prefill, {}, default"} | {
        f"decode, {count}": f"decode, {{}}, default, {count}" for count in (1, answers)
    }
    speed = lambda name, kind: results[name.format(kind)].get("tokens/s", float("nan"))
    ratios = {key: speed(name, "fp8") / speed(name, "bf16") for key, name in names.items()}
    return {"times as fast": ratios, "log-probs apart, mean": float(np.abs(apart).mean()), "prefill target": 1.4}


if __name__ == "__main__":
    main()
