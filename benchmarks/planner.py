"""How far the planner's step times are from published runs: `make bench-planner`.

The three shares of `llama3.scaling.step_time.Efficiency` that no data sheet states are fitted to the runs on H100. Each
of these is then predicted by a fit to the others (leave one out), and runs on another GPU by the fit to all, which has
not seen them. A run's measured figure is tokens a second of a GPU.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from llama3.cost.gpus import Gpu, known_gpus
from llama3.model.config import PRESETS, ModelConfig
from llama3.plugins.registry import discover
from llama3.scaling.layouts import Way, Workload, costs_of
from llama3.scaling.plan_table import layout_text
from llama3.scaling.planner import Predicted, plan
from llama3.scaling.step_time import ON_GPU, Efficiency
from llama3.training.estimate import Cost, Recompute, StepShape
from llama3.training.parallel import Dims
from llama3_plugins.parallelism.sharding import sharded

H100 = known_gpus()["h100"]
LIMITED = (500 / 700) ** 0.5
"""Of its rate, what is left to a GPU that may take 500 W of 700: an assumption, that the rate goes with the root."""
SLOW_H100 = H100.model_copy(
    update={"memory": 96e9, "bandwidth": 2.4e12, "flops": {"bf16": LIMITED * H100.rate("bf16")}}
)
"""torchtitan's: HBM2e of 2.4 TB/s, limited to 500 W."""
A100 = known_gpus()["a100"]


@dataclass(frozen=True)
class Run:
    """A published run. dp: how its ranks along dp share weights; measured: tokens a second of a GPU"""

    name: str
    model: ModelConfig
    gpu: Gpu
    dims: Dims
    batch: int
    seq_len: int
    measured: float
    rows: int = 1
    stages: int = 1
    recompute: Recompute = "selective"
    dp: str = "sharded"

    def predicted(self, efficiency: Efficiency) -> float:
        step = StepShape(
            self.batch // self.dims.dp // self.rows, self.rows * self.seq_len, self.seq_len, recompute=self.recompute
        )
        work = Workload(
            self.name, self.model, "", self.gpu, self.dims.world, self.seq_len, self.batch, 0, None, REGISTRY
        )
        pipeline = {"schedule": "interleaved", "stages": self.stages} if self.stages > 1 else {}
        options = {
            axis: pipeline if axis == "pp" else {} for axis in ("tp", "cp", "pp") if getattr(self.dims, axis) > 1
        }
        way = Way(self.dims, options, self.rows, step)
        costs = {**costs_of(work, way), "dp": self._dp(step)}
        if self.dp == "replicated" and "pp" in costs:  # as many layers on each rank, the embedding and the head besides
            costs["pp"] = replace(costs["pp"], work=1 / self.dims.pp, weights=1 / self.dims.pp)
        return Predicted(work, way, costs, efficiency).tokens_per_second

    def _dp(self, step: StepShape) -> Cost:
        if self.dp == "once":
            return sharded(self.model, self.dims, step, reshard=False)
        if self.dp == "sharded":
            return sharded(self.model, self.dims, step, reshard=True)
        gradients = self.model.num_params() / (self.dims.tp * self.dims.pp)
        return Cost(sent=2 * 2 * gradients * (1 - 1 / self.dims.dp))


REGISTRY = discover()
B8, B70, B405 = (PRESETS[f"llama-3.1-{size}"] for size in ("8b", "70b", "405b"))


def paper(gpus: int, cp: int, dp: int, seq_len: int, tera: float) -> Run:
    """A row of the Llama 3 paper's table 4. It states operations; which attention they count it does not say: here the
    full square, as torchtitan does."""
    measured = tera * 1e12 / B405.flops_per_token(seq_len)
    dims, batch = Dims(tp=8, cp=cp, pp=16, dp=dp), (1 << 24) // seq_len
    name = f"Llama 3 paper, 405B, {gpus:,} GPUs, {seq_len:,} tokens"
    return Run(name, B405, H100, dims, batch, seq_len, measured, stages=8, dp="once")


FITTED = [
    Run("torchtitan 2024-12, 8B, fsdp 8, compiled", B8, SLOW_H100, Dims(dp=8), 16, 8192, 6667, rows=2),
    Run("torchtitan 2024-12, 8B, fsdp 128, compiled", B8, SLOW_H100, Dims(dp=128), 256, 8192, 6514, rows=2),
    Run("torchtitan 2025-06, 8B, tp 8, fsdp 8", B8, SLOW_H100, Dims(tp=8, dp=8), 96, 8192, 4378, rows=12),
    Run(
        "torchtitan 2025-06, 70B, tp 8, fsdp 32", B70, SLOW_H100, Dims(tp=8, dp=32), 512, 8192, 597, rows=16,
        recompute="full",
    ),
    paper(8_192, 1, 64, 8_192, 430),
    paper(16_384, 1, 128, 8_192, 400),
    paper(16_384, 16, 8, 131_072, 380),
]  # fmt: skip


def megatron(heads: int, dim: int, layers: int, tp: int, pp: int, gpus: int, batch: int, tera: float) -> Run:
    """A row of table 1 of Narayanan et al. 2021: GPT of 2,048 tokens on A100, everything computed again, operations by
    their equation 3. The pipeline is interleaved, with two stages per rank where its layers allow that; the size of a
    microbatch is not stated, here one row."""
    model = ModelConfig(dim, layers, heads, heads, 8 * dim // 3, 51_200)
    operations = 96 * layers * dim**2 * (1 + 2048 / (6 * dim) + 51_200 / (16 * layers * dim))
    dims = Dims(tp=tp, pp=pp, dp=gpus // (tp * pp))
    stages = 2 if pp > 1 and layers % (2 * pp) == 0 else 1
    name = f"Megatron-LM 2021, {model.num_params() / 1e9:.0f}B, tp {tp}, pp {pp}, {gpus:,} GPUs"
    rate = tera * 1e12 / operations
    return Run(name, model, A100, dims, batch, 2048, rate, stages=stages, recompute="full", dp="replicated")


UNSEEN = [
    megatron(24, 2304, 24, 1, 1, 32, 512, 137),
    megatron(32, 3072, 30, 2, 1, 64, 512, 138),
    megatron(32, 4096, 36, 4, 1, 128, 512, 142),
    megatron(48, 6144, 40, 8, 1, 256, 1024, 135),
    megatron(64, 8192, 48, 8, 2, 512, 1536, 138),
    megatron(80, 10240, 60, 8, 4, 1024, 1792, 140),
    megatron(96, 12288, 80, 8, 8, 1536, 2304, 148),
    megatron(128, 16384, 96, 8, 16, 1920, 2160, 155),
    megatron(128, 20480, 105, 8, 35, 2520, 2520, 163),
    megatron(160, 25600, 128, 8, 64, 3072, 3072, 163),
]

LIMITS = {"products": (0.3, 1.0), "attention": (0.1, 0.8), "link": (0.5, 0.9)}
"""What is fitted, and between what. The other two shares are assumed: seven runs tell no more than three."""


def error(run: Run, efficiency: Efficiency) -> float:
    """How much more the planner promises than the run kept."""
    return run.predicted(efficiency) / run.measured - 1


def misfit(runs: Sequence[Run], efficiency: Efficiency) -> float:
    return sum(math.log1p(error(run, efficiency)) ** 2 for run in runs)


def fit(runs: Sequence[Run], start: Efficiency) -> Efficiency:
    """The least sum of squared logarithms, by going along one share after the other in ever smaller steps."""
    best, least = start, misfit(runs, start)
    step = 0.25
    while step > 0.002:
        moved = False
        for name, (low, high) in LIMITS.items():
            for sign in (-1, 1):
                value = min(high, max(low, getattr(best, name) + sign * step * (high - low)))
                tried = replace(best, **{name: value})
                if (found := misfit(runs, tried)) < least - 1e-9:
                    best, least, moved = tried, found, True
        step = step if moved else step / 2
    return best


def left_out(run: Run, whole: Efficiency) -> Efficiency:
    """The fit to the other runs."""
    return fit([other for other in FITTED if other is not run], whole)


def paper_rows() -> list[str]:
    """The paper's layouts among all that fit, as rows of the table of docs/planning.md."""
    rows = []
    stated = {(8_192, 8_192): "43 %", (16_384, 8_192): "41 %", (16_384, 131_072): "38 %"}
    for run in FITTED[-3:]:
        gpus = run.dims.world
        work = Workload(run.name, B405, "h100", H100, gpus, run.seq_len, run.batch, 0, None, REGISTRY)
        ranked = plan(work)
        place = next(place for place, one in enumerate(ranked) if one.dims == run.dims)
        one, behind = ranked[place], ranked[place].seconds / ranked[0].seconds - 1
        others = run.predicted(left_out(run, ON_GPU)) * B405.flops_per_token(run.seq_len) / H100.rate("bf16")
        rows.append(
            f"| {layout_text(run.dims)} ({gpus:,}, {run.seq_len:,}) | {place + 1} of {len(ranked)} | {behind:.1%} "
            f"| {one.mfu:.1%} | {others:.1%} | {stated[gpus, run.seq_len]} |"
        )
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args(arguments)
    whole = fit(FITTED, ON_GPU)
    print(f"fitted to the {len(FITTED)} runs on H100: {', '.join(f'{n} {getattr(whole, n):.3f}' for n in LIMITS)}")
    print(f"in use: {', '.join(f'{name} {getattr(ON_GPU, name):.3f}' for name in LIMITS)}\n")
    print(f"{'tokens/s of a GPU':52}  measured   by all  error   others  error")
    missed = []
    for run in FITTED:
        others = left_out(run, whole)
        missed.append(error(run, others))
        told = "".join(f"{run.predicted(found):9,.0f}  {error(run, found):+5.0%}" for found in (whole, others))
        print(f"{run.name:52}  {run.measured:8,.0f}{told}")
    print(f"mean size of the error when left out: {sum(map(abs, missed)) / len(missed):.0%}\n")
    print("never fitted, another GPU and another program:")
    unseen = [error(run, ON_GPU) for run in UNSEEN]
    for run, off in zip(UNSEEN, unseen, strict=True):
        print(f"{run.name:52}  {run.measured:8,.0f}{run.predicted(ON_GPU):9,.0f}  {off:+5.0%}")
    print(f"mean size of the error: {sum(map(abs, unseen)) / len(unseen):.0%}\n")
    print("| layout (GPUs, tokens of a row) | rank | behind the first | MFU, fitted | left out | paper |")
    print("|---|---|---|---|---|---|")
    for row in paper_rows():
        print(row)


if __name__ == "__main__":
    main()
