"""The seam of parallelism, shown with throwaway strategies: in any layout the numbers are those of one process."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from forked import run_ranks
from torch.distributed.tensor import DTensor
from training_toys import Counting, options, schedule

from llama3.checkpoints.load import load_model
from llama3.config.schema import LoRASection, ParallelismSection
from llama3.errors import ConfigError
from llama3.inference.sampling import Sampling
from llama3.model.batch import Batch
from llama3.model.config import ModelConfig
from llama3.plugins.registry import discover
from llama3.training.checkpoint import CheckpointStore
from llama3.training.loop import train
from llama3.training.parallel import Dims, Parallel, ParallelContext, start
from llama3.training.placed import PlacedModel
from llama3_plugins.algorithms.next_token import NextToken

CPU = torch.device("cpu")
CONFIG = ModelConfig(dim=32, n_layers=2, n_heads=4, n_kv_heads=2, ffn_dim=48, vocab_size=61, max_seq_len=64)
PROMPTS = [[1, 2, 3], [7], [5, 9, 11, 13]]
TENSOR, PIPELINE = {"name": "toy_tensor", "size": 2}, {"name": "toy_pipeline", "size": 2}
LAYOUTS = {
    "tp2": {"tp": TENSOR},
    "pp2": {"pp": PIPELINE},
    "fsdp2": {"dp": "fsdp"},
    "tp2 pp2": {"tp": TENSOR, "pp": PIPELINE},
    "pp2 fsdp2": {"pp": PIPELINE, "dp": {"name": "fsdp", "size": 2}},
}


@pytest.fixture(scope="module", autouse=True)
def toys(tmp_path_factory):
    """The toy strategies, installed while these tests run."""
    info = tmp_path_factory.mktemp("site") / "toys-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toys\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[llama3.plugins]\ntoys = toy_strategies\n")
    sys.path.insert(0, str(info.parent))
    discover.cache_clear()
    yield
    sys.path.remove(str(info.parent))
    discover.cache_clear()


def parallel_of(parallelism: dict | None) -> Parallel:
    """None: this process."""
    if parallelism is None:
        return Parallel(ParallelContext(CPU))
    return start(ParallelismSection.model_validate(parallelism), CONFIG, CPU, discover())


def work(parallelism: dict | None, folder: Path) -> dict:
    """Three steps with a checkpoint after the second; then everything that is asked of a placed model."""
    model = PlacedModel.drawn(CONFIG, 0, parallel_of(parallelism))
    section = options(checkpoint_every=2, microbatch_tokens=48)
    progress = train(
        model,
        NextToken(),
        Counting(rows=7, length=24),
        collate=Batch.concat,
        options=section,
        schedule=schedule(section, 3),
        seed=5,
        store=CheckpointStore(folder / "checkpoints"),
    )
    gradients = {name: parameter.grad for name, parameter in model.module.named_parameters()}
    # A rank with one row makes one forward where another makes two.
    scored = model.scorer(microbatch_tokens=24).logps(Batch.concat(Counting().examples(0)[: 1 + model.context.dp_rank]))
    # Ranks with fewer prompts, the fourth with none.
    sampling = Sampling(max_tokens=5, n=2, seed=3, stop_ids=frozenset({0}))
    answers = model.generator("fp32").generate(PROMPTS[model.context.rank :], sampling)
    model.save(folder)
    return {
        "loss": progress.metrics["loss"],
        "grad_norm": progress.metrics["grad_norm"],
        "gradients": {name: tensor.clone() for name, tensor in model.gathered(gradients)},
        "logps": scored[:22].clone(),
        "answers": [[answer.ids for answer in row] for row in answers],
    }


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    return folder, work(None, folder)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_computes_what_one_process_does(alone, tmp_path, layout):
    folder, one = alone
    world = 4 if " " in layout else 2
    for rank, many in enumerate(run_ranks(tmp_path / "ranks", world, work, LAYOUTS[layout], tmp_path)):
        assert many["loss"] == pytest.approx(one["loss"], abs=1e-5)
        assert many["grad_norm"] == pytest.approx(one["grad_norm"], abs=1e-5)
        torch.testing.assert_close(many["gradients"], one["gradients"], atol=1e-5, rtol=0)
        torch.testing.assert_close(many["logps"], one["logps"], atol=1e-3, rtol=0)
        assert many["answers"] == one["answers"][rank:]
    ours, theirs = load_model(tmp_path).state_dict(), load_model(folder).state_dict()
    torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=0)


@pytest.mark.parametrize("layout", ["tp2", "pp2"])
def test_a_run_goes_on_in_another_layout(alone, tmp_path, layout):
    folder, one = alone
    store = folder / "checkpoints" / "step-2"
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "step-2").symlink_to(store)
    for many in run_ranks(tmp_path / "ranks", 2, work, LAYOUTS[layout], tmp_path):
        assert many["loss"] == pytest.approx(one["loss"], abs=1e-5)
        torch.testing.assert_close(many["gradients"], one["gradients"], atol=1e-5, rtol=0)


def adapt(parallelism: dict | None, checkpoint: Path, folder: Path) -> dict:
    """Adapters trained on a checkpoint, and what is left of them."""
    model = PlacedModel.loaded(checkpoint, parallel_of(parallelism), lora=LoRASection(rank=4), seed=2)
    held = sum(x.to_local().numel() if isinstance(x, DTensor) else x.numel() for x in model.module.parameters())
    section = options(microbatch_tokens=48)
    train(
        model,
        NextToken(),
        Counting(rows=5, length=24),
        collate=Batch.concat,
        options=section,
        schedule=schedule(section, 3),
        seed=5,
    )
    batch = Batch.concat(Counting().examples(9))
    logps = {"adapted": model.scorer().logps(batch), "base": model.scorer(adapters=False).logps(batch)}
    answers = model.generator("fp32").generate(PROMPTS, Sampling(max_tokens=5, seed=3, stop_ids=frozenset({0})))
    adapter, base = model.adapter(), model.base_hash()
    model.merge()
    model.save(folder)
    ids = [[answer.ids for answer in row] for row in answers]
    return {"held": held, "logps": logps, "answers": ids, "adapter": adapter, "base": base}


def test_adapters_are_trained_scored_and_merged_by_all_ranks(alone, tmp_path):
    checkpoint, _ = alone
    one = adapt(None, checkpoint, tmp_path / "one")
    for many in run_ranks(tmp_path / "ranks", 2, adapt, LAYOUTS["fsdp2"], checkpoint, tmp_path / "many"):
        assert many["held"] < 0.6 * one["held"]
        torch.testing.assert_close(many["logps"], one["logps"], atol=1e-4, rtol=0)
        torch.testing.assert_close(many["adapter"], one["adapter"], atol=1e-4, rtol=0)
        assert (many["answers"], many["base"]) == (one["answers"], one["base"])
    ours, theirs = (load_model(tmp_path / name).state_dict() for name in ("many", "one"))
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


def test_a_strategy_refuses_what_it_cannot_cut():
    section = ParallelismSection.model_validate({"tp": {"name": "toy_tensor", "size": 3}})
    with pytest.raises(ConfigError, match="3 ranks cannot share 2 heads"):
        start(section, CONFIG, CPU, discover())


@pytest.mark.parametrize(
    ("group", "members"),
    [
        ("batch", [[0, 4], [1, 5], [2, 6], [3, 7]]),
        ("loss", [[0, 1, 4, 5], [2, 3, 6, 7]]),
        ("model", [[0, 1, 2, 3], [4, 5, 6, 7]]),
        ("world", [[0, 1, 2, 3, 4, 5, 6, 7]]),
    ],
)
def test_groups_by_name(group, members):
    assert Dims(cp=2, pp=2, dp=2).members(group) == members
