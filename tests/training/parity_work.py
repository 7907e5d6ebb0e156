"""What a layout must do as one process does: five steps of several algorithms, and what comes of them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
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
) -> tuple[PlacedModel, dict[str, Any]]:
    """Five steps from a checkpoint; losses and gradient norms of each."""
    parallel = parallel_of(parallelism, read_config(checkpoint))
    heads = ["score_head"] if algorithm == "reward_model" else []
    model = PlacedModel.loaded(checkpoint, parallel, heads=heads, lora=lora)
    spec = discover().spec("algorithms", algorithm)
    services = Services(PlacedModel.loaded(checkpoint, parallel)) if "reference" in spec.needs else None
    section = options(lr=1e-3, warmup=1, microbatch_tokens=48, checkpoint_every=3)
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


def work(parallelism: dict[str, Any] | None, checkpoint: Path, folder: Path) -> dict[str, Any]:
    """What comes of every algorithm; only rank 0 reports."""
    return {name: trained(parallelism, checkpoint, folder, name) for name in ALGORITHMS}


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
    want = frozenset({"logps", "entropy", "values", "score", "soft"})
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
    """Adapters trained on a checkpoint."""
    model, found = run(parallelism, checkpoint, folder, "sft", lora=LoRASection(rank=4))
    return {**found, "adapter": model.adapter(), "base": model.base_hash()}
