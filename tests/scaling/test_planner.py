"""`llama3 plan`: layouts ranked, the paper's rows, and memory beside the C library's allocator."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from memory_work import MODEL, fullest_rank, world_of

from llama3.config.schema import ParallelismSection
from llama3.cost.gpus import known_gpus
from llama3.model.activations import KEPT_LOGITS
from llama3.model.attention import QUERY_BLOCK
from llama3.model.config import PRESETS
from llama3.model.score import CHUNK_LOGITS, CHUNK_ROWS
from llama3.parallelism import Cost, ParallelStrategy
from llama3.plugins.registry import discover
from llama3.scaling.drawing import placed, text, waiting
from llama3.scaling.layouts import Workload, all_dims, problems_of
from llama3.scaling.memory import rank_bytes
from llama3.scaling.planner import best_way, plan, refusals
from llama3.scaling.step_time import link_rate
from llama3.training.estimate import StepShape, combined
from llama3.training.parallel import Dims, build_strategies
from llama3_plugins.parallelism.options import PipelineOptions
from llama3_plugins.parallelism.pipeline import Pipeline
from llama3_plugins.parallelism.schedule import bubble
from llama3_plugins.parallelism.sharding import sharded

H100 = known_gpus()["h100"]
B405 = PRESETS["llama-3.1-405b"]


def workload(gpus: int = 16_384, seq_len: int = 8192, model=B405, batch_tokens: int = 1 << 24, **changes) -> Workload:
    asked = Workload("shape", model, "h100", H100, gpus, seq_len, batch_tokens // seq_len, 15.6e12, 3.99, discover())
    return replace(asked, **changes)


# -- memory ------------------------------------------------------------------------------------------------------------

TOLERANCE = 0.1
LAYOUTS = {
    "one": ({}, 4, 256, 512),
    "one microbatch": ({}, 4, 256, 1024),
    "short rows": ({}, 8, 128, 256),
    "tp": ({"tp": 2}, 4, 256, 512),
    "cp": ({"cp": 2}, 4, 256, 512),
    "fsdp": ({"dp": 2}, 8, 256, 512),
    "fsdp, once": ({"dp": {"name": "fsdp", "size": 2, "reshard": False}}, 8, 256, 512),
    "ddp": ({"dp": {"name": "ddp", "size": 2}}, 8, 256, 512),
    "pp": ({"pp": 2}, 8, 256, 512),
    "pp interleaved": ({"pp": {"size": 2, "schedule": "interleaved"}}, 8, 256, 512),
}


def planned(layout: dict, rows: int, seq_len: int, microbatch_tokens: int) -> float:
    """Bytes of the fullest rank, as the planner counts them for the CPU's engine in float32."""
    section, world = ParallelismSection.model_validate(layout), world_of(layout)
    dims = Dims(**section.sizes(world))
    own = rows // dims.dp * seq_len
    scores = MODEL.n_heads * (seq_len + QUERY_BLOCK) // 2
    tokens = min(own, microbatch_tokens)
    step = StepShape(own // tokens, tokens, seq_len, width=4, stream=4, scores=scores)
    strategies = build_strategies(section, world, discover()).values()
    together = combined(strategy.estimate(MODEL, dims, step) for strategy in strategies)
    chunk = max(CHUNK_LOGITS, CHUNK_ROWS * MODEL.vocab_size)
    return rank_bytes(MODEL, step, together, chunk_logits=chunk, kept_logits=KEPT_LOGITS).total


@pytest.mark.parametrize("name", ["one", "fsdp", pytest.param("tp", marks=pytest.mark.slow)])
def test_a_rank_needs_what_the_planner_says(name, tmp_path):
    compare(name, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in LAYOUTS if name not in ("one", "tp", "fsdp")])
def test_every_layout_needs_what_the_planner_says(name, tmp_path):
    compare(name, tmp_path)


def compare(name, tmp_path):
    layout, *shape = LAYOUTS[name]
    most = fullest_rank(tmp_path / "ranks", layout, *shape)
    error = planned(layout, *shape) / most - 1
    print(f"{name}: {most / 1e6:.1f} MB measured, error of the planner {error:+.1%}")
    assert abs(error) < TOLERANCE


# -- estimates ---------------------------------------------------------------------------------------------------------


@given(
    power=st.tuples(*[st.integers(0, 3)] * 4),
    microbatches=st.integers(1, 40),
    recompute=st.sampled_from(["none", "selective", "full"]),
)
@settings(max_examples=60, deadline=None)
def test_shares_of_a_layout_are_shares(power, microbatches, recompute):
    """Whatever the sizes: no rank has more than the model, and all of them together at least have it."""
    tp, cp, pp, dp = (2**exponent for exponent in power)
    dims = Dims(tp=tp, cp=cp, pp=pp, dp=dp)
    step = StepShape(microbatches, 1 << 14, 8192, recompute=recompute)
    work = workload(dims.world)
    costs = [work.strategy(axis, {}).estimate(B405, dims, step) for axis in ("tp", "cp", "pp", "dp")]
    together = combined(costs)
    world = dims.world
    for name, ranks in (("work", tp * cp * pp), ("weights", tp * pp), ("logits", tp * cp)):
        share = getattr(together, name)
        assert 1 / ranks <= share * (1 + 1e-9) <= 1.6 / ranks + 1e-9, name
    assert together.states == pytest.approx(1 / (dp * cp) if dp * cp > 1 else 1.0)
    assert (together.sent + together.behind > 0) == (world > 1)
    assert together.rows >= 1 / (tp * cp * pp) * (1 - 1e-9)


def test_a_pipeline_waits_as_its_schedule_says():
    """The bubble is the formula's, checked by the drawing's own clock."""
    whole, halves = {}, {"schedule": "zero_bubble"}
    for ranks, options, microbatches in (
        (4, whole, 8),
        (4, halves, 8),
        (4, halves, 4),
        (4, {"schedule": "interleaved", "stages": 2}, 8),
        (4, {"schedule": "interleaved", "stages": 2}, 3),
        (8, {"schedule": "interleaved", "stages": 4}, 8),
    ):
        strategy = Pipeline(PipelineOptions(**options))
        dims, step, stages = Dims(pp=ranks), StepShape(microbatches, 8192, 8192), strategy.options.chunks
        rows = placed(strategy.turns(dims, step))
        assert waiting(rows) == pytest.approx(bubble(ranks, stages, microbatches, split=options is halves))
        assert strategy.estimate(B405, dims, step).bubble == pytest.approx(waiting(rows))
        lines = text(rows)
        assert len(lines) == ranks
        ends = "+" if options is halves else "-"
        assert sum(line.count(ends) for line in lines) == ranks * stages * microbatches


def test_sharding_once_gathers_less_and_keeps_more():
    dims, step = Dims(dp=8), StepShape(4, 8192, 8192)
    given_back, kept = (sharded(B405, dims, step, reshard=reshard) for reshard in (True, False))
    assert kept.behind < given_back.behind
    assert kept.gathered > given_back.gathered
    copies = sharded(B405, dims, step, reshard=True, replicas=2)
    assert copies.states == 2 * given_back.states


def test_ranks_of_a_node_send_over_its_links():
    dims = Dims(tp=8, cp=2, pp=4, dp=4)
    assert link_rate(H100, dims, "tp") == H100.link / 2
    assert link_rate(H100, dims, "cp") == link_rate(H100, dims, "pp") == H100.network
    spread = Dims(dp=64)  # eight ranks of each node, with an adapter each
    assert link_rate(H100, spread, "dp") == min(H100.link / 2, 8 * H100.network)


# -- ranking -----------------------------------------------------------------------------------------------------------


def test_layouts_are_all_factorisations():
    found = [(dims.tp, dims.cp, dims.pp, dims.dp) for dims in all_dims(12)]
    assert len(found) == len(set(found)) == 40  # 2^2 x 3 over four axes: C(5, 3) x C(4, 3)
    assert all(tp * cp * pp * dp == 12 for tp, cp, pp, dp in found)


def test_legal_layouts_are_ranked_and_the_others_told():
    work = workload(16, 2048, PRESETS["llama-3.1-8b"], 1 << 20)
    ranked, refused = plan(work), dict(refusals(work))
    assert len(ranked) + len(refused) == len(list(all_dims(16)))
    assert [one.seconds for one in ranked] == sorted(one.seconds for one in ranked)
    assert all(one.fits and not problems_of(work, one.dims) for one in ranked)
    assert {problem.code for problem in refused[Dims(tp=16)]} == {"L3-PAR-010"}
    assert {problem.code for problems in refused.values() for problem in problems} >= {"L3-PAR-010", "L3-PLN-011"}


PAPER = [
    pytest.param(8_192, 8_192, (8, 1, 16, 64), 0.43, marks=pytest.mark.slow),  # docs/planning.md has them all
    pytest.param(16_384, 8_192, (8, 1, 16, 128), 0.41, marks=pytest.mark.slow),
    pytest.param(16_384, 131_072, (8, 16, 16, 8), 0.38),
]


@pytest.mark.parametrize(("gpus", "seq_len", "sizes", "mfu"), PAPER)
def test_the_papers_layouts_are_near_the_best(gpus, seq_len, sizes, mfu):
    """Table 4: the layout is legal and fits, a tenth behind the first at most; MFU within two points."""
    work = workload(gpus, seq_len)
    ranked = plan(work)
    place = [(one.dims.tp, one.dims.cp, one.dims.pp, one.dims.dp) for one in ranked].index(sizes)
    assert ranked[place].seconds / ranked[0].seconds < 1.1
    assert place < len(ranked) * 0.15
    assert abs(ranked[place].mfu - mfu) < 0.02
    assert ranked[place].mfu_causal < ranked[place].mfu
    assert ranked[place].way.options["pp"] == {"schedule": "interleaved", "stages": 8}


class Silent(ParallelStrategy):
    """A third party's, without an opinion."""


class Dear(ParallelStrategy):
    """A third party's that sends so much that nobody would take it."""

    def estimate(self, model, dims, step):
        return Cost(states=1 / dims.dp, sent=1e15)


def test_a_third_partys_strategy_takes_part():
    work = workload(8, 2048, PRESETS["llama-3.2-1b"], 1 << 18)
    dims = Dims(dp=8)
    own = best_way(work, dims)
    times = []
    for strategy in (Silent(), Dear()):
        other = replace(work, strategies={"dp": "theirs"})
        other._built["theirs", ()] = strategy
        times.append(best_way(other, dims).seconds)
    assert max(times[0], own.seconds) < times[1]
