"""Rematerialisation by a byte budget: what is kept is what was estimated, and gradients do not change by a bit."""

import dataclasses
import re

import pytest
import torch
from forked import run_ranks
from parity_work import CONFIG, adapted, columns, parallel_of, trained
from torch.utils.flop_counter import FlopCounterMode

from llama3.config import load
from llama3.errors import DoesNotFit
from llama3.model.activations import Recompute, activation_bytes, block_bytes, head_bytes, recomputed
from llama3.model.attention import forest_attention
from llama3.model.batch import Batch
from llama3.model.build import init_weights
from llama3.model.config import ModelConfig
from llama3.model.remat import Rematerialisation
from llama3.model.score import score
from llama3.model.shards import local
from llama3.model.transformer import Transformer
from llama3.recipe import run
from llama3.training.placed import PlacedModel
from llama3.training.room import budget_problems
from llama3_plugins.parallelism.schedule import in_flight, order

WIDE = ModelConfig(64, 4, 4, 2, 160, 101, max_seq_len=512)
SHAPES = {
    "grouped": WIDE,
    "tied, all heads": dataclasses.replace(WIDE, n_kv_heads=4, tied=True),
    "wide heads": dataclasses.replace(WIDE, head_dim=32, ffn_dim=96),
}
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


def documents(config: ModelConfig, tokens: int) -> Batch:
    ids = torch.randint(0, config.vocab_size, (tokens,), generator=torch.Generator().manual_seed(tokens))
    return Batch.of_documents(ids, [0, 100])


def loss_of(model: Transformer, batch: Batch, precision: str) -> torch.Tensor:
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        return -score(model, batch).logps_M.sum()


def budget_for(config: ModelConfig, batch: Batch, what: Recompute, precision: str) -> int:
    """The least budget with which no block recomputes more than this."""
    pairs = forest_attention(batch).kept_pairs(config.n_heads)
    each = [block_bytes(config, batch.num_tokens, w, precision=precision, pairs=pairs) for w in Recompute]
    if what is Recompute.BLOCK:
        return 0
    return config.n_layers * each[what] + head_bytes(config, batch.num_tokens, precision=precision)


def kept_bytes(model: Transformer, batch: Batch, precision: str) -> int:
    """Of all storages that autograd keeps, weights and copies of them included."""
    kept: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = loss_of(model, batch, precision)
    del loss
    return sum(storage.nbytes() for storage in kept.values())


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("what", Recompute)
def test_what_is_kept_is_what_is_estimated(shape, precision, what):
    config = SHAPES[shape]
    model = init_weights(Transformer(config), 0)
    few, many = documents(config, 200), documents(config, 400)
    found, expected = [], []
    for batch in (few, many):
        model.remat = Rematerialisation(config, budget_for(config, batch, what, precision))
        pairs = forest_attention(batch).kept_pairs(config.n_heads)
        found.append(kept_bytes(model, batch, precision))
        # Rotary angles of blocks that are computed again are kept by the checkpoint, where autograd does not see them.
        angles = batch.num_tokens * config.head_dim * PRECISIONS[precision].itemsize if what is Recompute.BLOCK else 0
        expected.append(activation_bytes(config, batch.num_tokens, what, precision=precision, pairs=pairs) - angles)
    # The difference, because what does not grow with the tokens (weights and their copies) is no activation.
    assert found[1] - found[0] == pytest.approx(expected[1] - expected[0], rel=0.01)


def gradients(model: Transformer, batch: Batch, precision: str) -> tuple[torch.Tensor, int]:
    """All of them, and the operations of all products, forward and backward."""
    model.zero_grad()
    with FlopCounterMode(display=False) as counter:
        loss_of(model, batch, precision).backward()
    return torch.cat([p.grad.flatten() for p in model.parameters()]), counter.get_total_flops()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_gradients_keep_their_bits_and_norms_cost_no_product(precision):
    model, batch = init_weights(Transformer(WIDE), 0), documents(WIDE, 300)
    plain, flops = gradients(model, batch, precision)
    for what in Recompute:
        model.remat = Rematerialisation(WIDE, budget_for(WIDE, batch, what, precision))
        again, more = gradients(model, batch, precision)
        assert torch.equal(again, plain)
        assert more == flops if what is not Recompute.BLOCK else 1.2 * flops < more < 1.34 * flops


def test_a_budget_is_met_with_the_least_work():
    block, blocks = (1000, 600, 100), 8
    for budget in range(0, 9000, 37):
        found = recomputed(block, blocks, budget)
        kept = sum(block[what] for what in found)
        standing = block[0] if Recompute.BLOCK in found else 0
        assert len(found) == blocks
        assert kept + standing <= max(budget, blocks * block[2] + block[0])
        assert found == sorted(found, reverse=True), "the first blocks recompute the most"
        if heavy := found.count(Recompute.BLOCK):
            lighter = [*found[: heavy - 1], Recompute.POINTWISE, *found[heavy:]]
            assert heavy == blocks or sum(block[what] for what in lighter) + standing > budget - block[1] + block[2]
        elif light := found.count(Recompute.POINTWISE):
            assert kept + block[0] - block[1] > budget or light == 0
    assert recomputed(block, blocks, 8000) == [Recompute.NOTHING] * blocks
    assert recomputed(block, blocks, 4800) == [Recompute.POINTWISE] * blocks
    assert recomputed(block, blocks, 0) == [Recompute.BLOCK] * blocks


@pytest.mark.parametrize(("ranks", "chunks", "consecutive"), [(2, 1, 2), (4, 1, 4), (2, 2, 3), (4, 3, 6)])
def test_a_pipeline_shares_the_budget_among_what_is_in_flight(ranks, chunks, consecutive):
    for rank in range(ranks):
        most = in_flight(rank, ranks, chunks, consecutive)
        alive = [0]
        for microbatches in range(1, 40):
            for action in order(rank, ranks, chunks, microbatches, consecutive):
                alive.append(alive[-1] + (1 if action.kind == "forward" else -1))
        assert max(alive) == most
        assert chunks > 1 or most == ranks - rank


def test_scoring_without_gradient_recomputes_nothing():
    model, batch = init_weights(Transformer(WIDE), 0), documents(WIDE, 300)
    model.remat = Rematerialisation(WIDE, 0)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        score(model, batch)
    first = counter.get_total_flops()
    model.remat = None
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        score(model, batch)
    assert first == counter.get_total_flops()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    PlacedModel.drawn(CONFIG, 0, parallel_of(None)).save(folder)
    return folder


LAYOUTS = {
    "fsdp2": {"dp": 2},
    "tp2": {"tp": 2},
    "cp2": {"cp": 2},
    "pp2 interleaved": {"pp": {"size": 2, "schedule": "interleaved", "consecutive": 3}},
    "pp2 zero bubble": {"pp": {"size": 2, "schedule": "zero_bubble"}},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_recomputes_to_the_same_gradients(checkpoint, monkeypatch, tmp_path, layout):
    plain = run_ranks(tmp_path / "plain", 2, columns, LAYOUTS[layout], checkpoint, tmp_path / "a")
    for what in (Recompute.POINTWISE, Recompute.BLOCK):
        # Ranks are forks and inherit it.
        monkeypatch.setattr("llama3.model.remat.recomputed", lambda block, blocks, budget, what=what: [what] * blocks)
        again = run_ranks(tmp_path / what.name, 2, columns, LAYOUTS[layout], checkpoint, tmp_path / "b")
        for one, other in zip(plain, again, strict=True):
            torch.testing.assert_close(other["gradients"], one["gradients"], atol=0, rtol=0)
            assert other["answers"] == one["answers"]


def test_adapters_and_preferences_learn_the_same(checkpoint, tmp_path):
    for work, more in ((adapted, ()), (trained, ("dpo",))):
        plain = work(None, checkpoint, tmp_path / "plain", *more)
        again = work({"activation_bytes": 0}, checkpoint, tmp_path / "again", *more)
        for figure in ("loss", "grad_norm"):
            assert again[figure] == plain[figure]


def test_what_is_free_is_shared_by_all_ranks(monkeypatch, tmp_path):
    model = PlacedModel.drawn(CONFIG, 0, parallel_of({}))
    weights = 16 * CONFIG.num_params()
    assert model.module.remat.budget > 0
    monkeypatch.setattr("llama3.model.remat.free_bytes", lambda device: weights + 1000)
    assert PlacedModel.drawn(CONFIG, 0, parallel_of({})).module.remat.budget == 500
    assert {found["budget"] for found in run_ranks(tmp_path / "ranks", 2, budget_where_ranks_differ)} == {100}


def budget_where_ranks_differ() -> dict[str, int]:
    """Rank 0 has 200 bytes beside its part of the model, rank 1 has more."""
    import llama3.model.remat as remat

    rank, whole = torch.distributed.get_rank(), remat.free_bytes
    placed: list[int] = []

    def free(device: torch.device) -> int:
        return 200 + 800 * rank + placed[0]

    model = PlacedModel.drawn(CONFIG, 0, parallel_of({"tp": 2}))
    placed.append(16 * sum(local(p).numel() for p in model.module.parameters()))
    remat.free_bytes = free
    budget = PlacedModel.drawn(CONFIG, 0, parallel_of({"tp": 2})).module.remat.budget
    remat.free_bytes = whole
    return {"budget": budget}


def test_a_budget_that_no_recomputation_meets_is_refused_before_work(tmp_path):
    section = {"run": {"dir": str(tmp_path)}, "parallelism": {"activation_bytes": 1_000_000}}
    with pytest.raises(DoesNotFit, match="L3-MEM-010") as caught:
        run(load(section, environ={}))
    assert len(caught.value.problems) == 3, "pretraining, finetuning and preferences"
    assert not list(tmp_path.iterdir())
    (fitting,) = re.findall(r"pretrain.microbatch_tokens to (\d+)", str(caught.value.problems[0]))
    section["pretrain"] = {"microbatch_tokens": int(fitting)}
    section["post_training"] = {"rounds": 0}
    config = load(section, environ={}).config
    model = ModelConfig.from_section(config.model, config.tokenizer.vocab_size)
    assert budget_problems(config, model, torch.device("cpu")) == []


def kept_where_matrices_are_cut() -> dict[str, list[int]]:
    """What a rank of two keeps of 200 tokens more, and what was estimated, for each of `Recompute`."""
    model, found, expected = PlacedModel.drawn(WIDE, 0, parallel_of({"tp": 2}, WIDE)).module, [], []
    batches = [documents(WIDE, tokens) for tokens in (200, 400)]
    for what in Recompute:
        model.remat.of_blocks = lambda blocks, *_, what=what: [what] * blocks
        few, many = (kept_bytes(model, batch, "bf16") for batch in batches)
        pairs = [forest_attention(batch).kept_pairs(WIDE.n_heads) for batch in batches]
        less, more = (
            activation_bytes(WIDE, batch.num_tokens, what, precision="bf16", pairs=count, tp=2)
            for batch, count in zip(batches, pairs, strict=True)
        )
        angles = 200 * WIDE.head_dim * 2 if what is Recompute.BLOCK else 0
        found.append(many - few)
        expected.append(more - less - angles)
    return {"found": found, "expected": expected}


def test_what_a_rank_of_cut_matrices_keeps_is_what_is_estimated(tmp_path):
    for rank in run_ranks(tmp_path / "ranks", 2, kept_where_matrices_are_cut):
        assert rank["found"] == pytest.approx(rank["expected"], rel=0.05)
