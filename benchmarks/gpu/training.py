"""Training on a GPU: tokens a second and the share of the device's arithmetic (MFU), plain, with compiled blocks, with
every block computed again, and with Muon.

One step as training does it: bfloat16 products over float32 weights, `score` over whole rows, backward, clipping left
out, fused AdamW. FLOPs are counted in the usual convention (`ModelConfig.flops_per_token`: attention over the full
square); MFU is by the vendor's figure where the device is known, and always beside it by the speed of a large product
that was measured here.

Run: make bench-gpu. Without a GPU: python benchmarks/gpu/training.py --device cpu --shape tiny
"""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from typing import Any, Literal

import device as gpu
import torch

from llama3.config.schema import OptimizerSection
from llama3.model.activations import Recompute, activation_bytes
from llama3.model.batch import Batch
from llama3.model.compilation import compile_blocks
from llama3.model.config import PRESETS, ModelConfig
from llama3.model.precision import autocast
from llama3.model.remat import Rematerialisation
from llama3.model.score import score
from llama3.model.transformer import Transformer
from llama3.training.optimizer import build_optimizer, set_lr

STEPS = 6


@dataclass(frozen=True)
class Variant:
    """How a model is trained."""

    compiled: bool = True
    budget: int | None = None
    """Bytes of activations that may be kept; None: all are."""
    optimizer: Literal["adamw", "muon"] = "adamw"


VARIANTS = {
    "plain": Variant(compiled=False),
    "compiled blocks": Variant(),
    "compiled blocks, all computed again": Variant(budget=0),
    "all blocks computed again": Variant(compiled=False, budget=0),
    "compiled blocks, Muon": Variant(optimizer="muon"),
    "Muon": Variant(compiled=False, optimizer="muon"),
}


def main() -> None:
    options = gpu.arguments(__doc__.splitlines()[0] if __doc__ else "", "llama-3.2-1b")
    device, runs = torch.device(options.device), gpu.Runs(options.seconds)
    rows, length = (4, 4096) if device.type == "cuda" else (2, 32)
    config = dataclasses.replace(PRESETS[options.shape], max_seq_len=length)
    # Heads of 128 channels, as the larger models have: attention kernels are faster at it.
    wide = dataclasses.replace(PRESETS["llama-3.1-8b"], n_layers=4, max_seq_len=length)
    shapes = {options.shape: config} | ({"llama-3.1-8b, 4 layers": wide} if device.type == "cuda" else {})
    product = (runs.add("product", lambda: {"bf16 FLOP/s": gpu.product_speed(device)}) or {}).get("bf16 FLOP/s")
    for name, shape in shapes.items():
        for label, variant in VARIANTS.items():
            if device.type != "cuda" and variant.compiled:  # a minute of compilation shows nothing of a GPU
                continue
            runs.add(
                f"train, {name}, {label}",
                lambda shape=shape, variant=variant: train(shape, device, rows, length, variant, product),
            )
    runs.write("gpu-training", options)


def train(
    config: ModelConfig, device: torch.device, rows: int, length: int, variant: Variant, product: float | None
) -> dict[str, Any]:
    """A few steps on random rows; the first two pay for kernels."""
    model = gpu.random_model(config, device, torch.float32).requires_grad_(True)
    if variant.compiled:
        compile_blocks(model, device)
    if variant.budget is not None:
        model.remat = Rematerialisation(config, variant.budget)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    optimizer = build_optimizer(model, OptimizerSection(optimizer=variant.optimizer))
    set_lr(optimizer, 1e-5)
    tokens = rows * length
    batch = Batch.of_documents(
        torch.randint(0, config.vocab_size, (tokens,), generator=torch.Generator().manual_seed(0)),
        torch.arange(0, tokens, length, dtype=torch.int32),
    ).to(device)
    losses = [step(model, batch, optimizer, device) for _ in range(2)]
    gpu.synchronize(device)
    start = time.perf_counter()
    losses += [step(model, batch, optimizer, device) for _ in range(STEPS)]
    gpu.synchronize(device)
    seconds = (time.perf_counter() - start) / STEPS
    flops = config.flops_per_token(length) * tokens / seconds
    vendor = gpu.peak(device)
    return {
        "tokens/s": tokens / seconds,
        "TFLOP/s": flops / 1e12,
        "MFU": None if vendor is None else flops / vendor,
        "share of a product's speed": None if product is None else flops / product,
        "losses": [float(loss) for loss in losses],
        "estimated activations GiB": activations(config, tokens, variant) / 2**30,
        "peak memory GiB": torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else None,
        "rows x tokens": [rows, length],
    }


def activations(config: ModelConfig, tokens: int, variant: Variant) -> int:
    """Bytes that a forward keeps by the estimate, beside which the measured peak stands."""
    what = Recompute.NOTHING if variant.budget is None else Recompute.BLOCK
    return activation_bytes(config, tokens, what, precision="bf16")


def step(model: Transformer, batch: Batch, optimizer: torch.optim.Optimizer, device: torch.device) -> torch.Tensor:
    with autocast("bf16", device):
        loss = -score(model, batch).logps_M.mean()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return loss.detach()


if __name__ == "__main__":
    main()
