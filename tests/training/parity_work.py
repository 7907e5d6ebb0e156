"""What a layout must do as one process does: five steps of several algorithms, and what comes of them."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.distributed.tensor.debug import CommDebugMode
from training_toys import Recorder, options, schedule

from llama3.checkpoints.load import read_config
from llama3.config.schema import LoRASection, ParallelismSection
from llama3.inference.sampling import Sampling
from llama3.model.batch import Batch, Segment, Tree
from llama3.model.build import HEADS
from llama3.model.config import ModelConfig
from llama3.model.score import Microbatch, score_stage
from llama3.plugins.registry import discover
from llama3.training.checkpoint import CheckpointStore
from llama3.training.loop import train
from llama3.training.metrics import Loggers, Reporter
from llama3.training.parallel import GlobalStats, Parallel, ParallelContext, start
from llama3.training.placed import PlacedModel
from llama3.training.rollouts import Rewards, Rollouts

CPU = torch.device("cpu")
CONFIG = ModelConfig(dim=32, n_layers=3, n_heads=4, n_kv_heads=2, ffn_dim=48, vocab_size=61, max_seq_len=64)
"""The vocabulary is odd, so that it divides by no number of ranks."""
STEPS = 5
ALGORITHMS = ("next_token", "sft", "dpo", "reward_model")


class Forests:
    """Five rows a step: documents for `next_token`, else prompts with two answers. Lengths and shares are uneven."""

    def __init__(self, algorithm: str) -> None:
        self.row = self._documents if algorithm == "next_token" else self._answers
        self.last_only = algorithm == "reward_model"

    def examples(self, step: int) -> list[Batch]:
        return [self.row(np.random.default_rng((3, step, row))) for row in range(5)]

    def _documents(self, rng: np.random.Generator) -> Batch:
        border = int(rng.integers(4, 20))
        return Batch.of_documents(rng.integers(0, CONFIG.vocab_size, 24), [0, border])

    def _answers(self, rng: np.random.Generator) -> Batch:
        ids = lambda least, most: rng.integers(0, CONFIG.vocab_size, int(rng.integers(least, most)))
        return Batch.of_trees([Tree([Segment(ids(3, 12)), self._answer(ids(2, 9), 0), self._answer(ids(2, 9), 1)])])

    def _answer(self, ids: np.ndarray, place: int) -> Segment:
        if self.last_only:
            return Segment(ids, parent=0, is_target=np.arange(len(ids)) == len(ids) - 1, per_segment={"place": place})
        is_format = np.arange(len(ids)) == len(ids) - 1
        return Segment(ids, parent=0, is_target=True, per_target={"is_format": is_format})


class Services:
    """What the algorithms above ask for."""

    def __init__(self, reference: PlacedModel) -> None:
        self.reference = reference.frozen().scorer(microbatch_tokens=48)
        self.stats = GlobalStats(reference.context)


def parallel_of(parallelism: dict[str, Any] | None, config: ModelConfig = CONFIG) -> Parallel:
    """None: this process."""
    if parallelism is None:
        return Parallel(ParallelContext(CPU))
    return start(ParallelismSection.model_validate(parallelism), config, CPU, discover())


def run(
    parallelism: dict[str, Any] | None,
    checkpoint: Path,
    folder: Path,
    algorithm: str,
    lora: LoRASection | None = None,
    store: CheckpointStore | None = None,
    microbatch_tokens: int = 48,
) -> tuple[PlacedModel, dict[str, Any]]:
    """Five steps from a checkpoint; losses and gradient norms of each."""
    parallel = parallel_of(parallelism, read_config(checkpoint))
    heads = ["score_head"] if algorithm == "reward_model" else []
    model = PlacedModel.loaded(checkpoint, parallel, heads=heads, lora=lora)
    spec = discover().spec("algorithms", algorithm)
    services = Services(PlacedModel.loaded(checkpoint, parallel)) if "reference" in spec.needs else None
    section = options(lr=1e-3, warmup=1, microbatch_tokens=microbatch_tokens, checkpoint_every=3)
    recorder = Recorder()
    train(
        model,
        discover().build("algorithms", algorithm, {}),
        Forests(algorithm),
        collate=Batch.concat,
        options=section,
        schedule=schedule(section, STEPS),
        seed=5,
        want=spec.want,
        want_logged=spec.want_logged,
        services=services,
        store=store,
        reporter=Reporter("toy", Loggers([("recorder", recorder)])),
    )
    found = {name: recorder.column(name) for name in ("loss", "grad_norm")}
    if lora is None:
        model.save(folder / algorithm)
    return model, found


def trained(parallelism: dict[str, Any] | None, checkpoint: Path, folder: Path, algorithm: str) -> dict[str, Any]:
    """What comes of one algorithm."""
    return run(parallelism, checkpoint, folder, algorithm)[1]


def work(
    parallelism: dict[str, Any] | None, checkpoint: Path, folder: Path, algorithms: Sequence[str]
) -> dict[str, Any]:
    """What comes of each algorithm; only rank 0 reports."""
    return {name: trained(parallelism, checkpoint, folder, name) for name in algorithms}


class Prompts:
    """Five prompts a step."""

    def examples(self, step: int) -> list[Batch]:
        rng = np.random.default_rng((4, step))
        ids = [rng.integers(0, CONFIG.vocab_size, int(rng.integers(2, 9))) for _ in range(5)]
        return [Batch.of_trees([Tree([Segment(prompt)])]) for prompt in ids]


class EvenTokens:
    """Rewards each answer by its share of even tokens."""

    def score(self, batch: Batch) -> Rewards:
        even_M = (batch.target_ids_M % 2 == 0).float()
        sums_S = torch.zeros(batch.num_segments).index_add(0, batch.segment_M, even_M)
        is_answer_S = batch.targets_per_segment_S > 0
        shares = (sums_S / batch.targets_per_segment_S)[is_answer_S].tolist()
        return Rewards({"reward": shares, "reward/even": shares}, [("", "")] * len(shares))


def sampled(parallelism: dict[str, Any] | None, checkpoint: Path) -> dict[str, Any]:
    """What the loop logs of three steps of algorithms that learn from their own answers."""
    parallel = parallel_of(parallelism, read_config(checkpoint))
    found = {}
    for algorithm in ("ppo", "grpo"):
        spec = discover().spec("algorithms", algorithm)
        model = PlacedModel.loaded(checkpoint, parallel, heads=["value_head"] if "value" in spec.needs else [])
        services = Services(PlacedModel.loaded(checkpoint, parallel))
        services.policy = services.value = model.scorer(microbatch_tokens=48)
        sampling = Sampling(max_tokens=6, stop_ids=frozenset({0}))
        section, recorder = options(lr=1e-3, warmup=1, microbatch_tokens=48), Recorder()
        train(
            model,
            discover().build("algorithms", algorithm, {"samples": 3}),
            Prompts(),
            collate=Batch.concat,
            options=section,
            schedule=schedule(section, 3),
            seed=5,
            want=spec.want,
            want_logged=spec.want_logged,
            services=services,
            rollouts=Rollouts(model.generator("fp32"), sampling, EvenTokens()),
            reporter=Reporter("toy", Loggers([("recorder", recorder)])),
        )
        for _, row in recorder.rows:
            row.pop("tokens_per_second")
        found[algorithm] = [row for _, row in recorder.rows]
    return found


def columns(parallelism: dict[str, Any] | None, checkpoint: Path, folder: Path) -> dict[str, Any]:
    """All that a model says of a batch, the gradients of a number made of it, answers that are drawn, and the
    checkpoint written again."""
    parallel = parallel_of(parallelism, read_config(checkpoint))
    model = PlacedModel.loaded(checkpoint, parallel, heads=["value_head", "score_head"])
    with torch.no_grad():
        for name, parameter in model.module.named_parameters():
            if name in HEADS:
                parameter.fill_(0.1)
    rng = np.random.default_rng(0)
    batch = Batch.concat(Forests("sft").examples(0))
    ids_Mk = torch.from_numpy(rng.integers(0, model.config.vocab_size, (batch.num_targets, 3)))
    batch = batch.with_(per_target={"soft_ids": ids_Mk, "soft_probs": torch.full(ids_Mk.shape, 0.3)})
    want = frozenset({"logps", "entropy", "collision", "values", "score", "soft", "soft_logps"})
    found: dict[str, torch.Tensor] = {}

    def loss(microbatch: Microbatch, x_TD: torch.Tensor | None) -> torch.Tensor:
        scored = score_stage(model.module, microbatch, want, 0.7, x_TD)
        if isinstance(scored, torch.Tensor):
            return scored
        found.update(vars(scored))
        return torch.stack([column.square().mean() for column in found.values()]).sum()

    model.runner.forward_backward([Microbatch.of(batch, want, model.module.multiple)], loss)
    parallel.sum_gradients(model.module)
    gradients = {name: parameter.grad for name, parameter in model.module.named_parameters()}
    top_ids, top_logps = model.scorer(microbatch_tokens=48).top(batch, 5)
    sampling = Sampling(max_tokens=5, n=2, seed=3, stop_ids=frozenset({0}))
    answers = model.generator("fp32").generate([[1, 2, 3], [7], [5, 9, 11, 13]], sampling)
    PlacedModel.loaded(checkpoint, parallel).save(folder)
    return {
        "answers": [[answer.ids for answer in row] for row in answers],
        "columns": {name: column.detach().clone() for name, column in found.items()},
        "gradients": {name: tensor.clone() for name, tensor in model.gathered(gradients)},
        "top": {"ids": top_ids, "logps": top_logps},
    }


def row_by_row(parallelism: dict[str, Any] | None, checkpoint: Path, folder: Path) -> dict[str, Any]:
    """What comes of steps whose rows each have a backward pass of their own."""
    return run(parallelism, checkpoint, folder, "sft", microbatch_tokens=1)[1]


def exchanges(parallelism: dict[str, Any] | None, checkpoint: Path, count: int) -> dict[str, Any]:
    """How often an update of so many microbatches gathers weights and adds up gradients over ranks."""
    parallel = parallel_of(parallelism, read_config(checkpoint))
    model = PlacedModel.loaded(checkpoint, parallel)

    def loss(microbatch: Microbatch, x_TD: torch.Tensor | None) -> torch.Tensor:
        scored = score_stage(model.module, microbatch, frozenset({"logps"}), 1.0, x_TD)
        return scored if isinstance(scored, torch.Tensor) else scored.logps_M.sum()

    microbatches = [Microbatch.of(row) for row in Forests("sft").examples(0)[:count]]
    with CommDebugMode() as seen:
        model.runner.forward_backward(microbatches, loss)
        parallel.sum_gradients(model.module)
    names = {"allgather": "gathered", "reducescatter": "added", "allreduce": "added"}
    found = dict.fromkeys(names.values(), 0)
    for operation, times in seen.get_comm_counts().items():
        for part, name in names.items():
            found[name] += times if part in str(operation).replace("_", "") else 0
    return found


def resumed(parallelism: dict[str, Any] | None, checkpoint: Path, folder: Path) -> dict[str, Any]:
    """Five steps, and the last two of them again from what was saved after the third."""
    places = {name: folder / name for name in ("straight", "again")}
    context = parallel_of(parallelism).context
    _, straight = run(parallelism, checkpoint, places["straight"], "dpo", store=CheckpointStore(folder / "kept"))
    if context.is_main:
        shutil.copytree(folder / "kept" / "step-3", folder / "cut" / "step-3")
    context.barrier()
    _, again = run(parallelism, checkpoint, places["again"], "dpo", store=CheckpointStore(folder / "cut"))
    return {"straight": straight, "again": again}


def adapted(parallelism: dict[str, Any] | None, checkpoint: Path, folder: Path) -> dict[str, Any]:
    """Adapters trained on a checkpoint: what they say beside the model they were added to, and merged into it."""
    model, found = run(parallelism, checkpoint, folder, "sft", lora=LoRASection(rank=4))
    batch = Batch.concat(Forests("sft").examples(9))
    logps = {name: model.scorer(adapters=name == "adapted").logps(batch) for name in ("adapted", "base")}
    adapter, base = model.adapter(), model.base_hash()
    model.merge()
    logps["merged"] = model.scorer().logps(batch)
    weights = {name: tensor.clone() for name, tensor in model.weights()}
    return {**found, "adapter": adapter, "base": base, "logps": logps, "weights": weights}
