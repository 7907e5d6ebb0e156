"""Rollouts where matrices are cut: answers of one process, and no rank that holds the whole model."""

from __future__ import annotations

from contextlib import ExitStack

import pytest
from forked import run_ranks
from parity_work import CONFIG, parallel_of
from torch.distributed.tensor import DTensor

from llama3.config.rollouts import RolloutsSection
from llama3.errors import LlamaError
from llama3.inference.sampling import Sampling
from llama3.training.elsewhere import generator
from llama3.training.placed import PlacedModel

PROMPTS = [[1, 2, 3], [7], [5, 9, 11, 13], [2] * 30]
SAMPLING = Sampling(6, n=2, seed=3, stop_ids=frozenset({0}))
LAYOUTS = {
    "tp2": {"tp": 2},
    "tp2 pp2": {"tp": 2, "pp": 2},
    "tp2 pp2 interleaved": {"tp": 2, "pp": {"size": 2, "schedule": "interleaved"}},
    "tp2 fsdp2": {"tp": 2, "dp": {"name": "fsdp", "size": 2}},
    "tp2 cp2": {"tp": 2, "cp": 2},
}


def work(parallelism: dict | None) -> dict:
    model = PlacedModel.drawn(CONFIG, 0, parallel_of(parallelism))
    generator = model.generator("fp32")
    mine = PROMPTS[model.context.rank :]
    answers = generator.generate(mine, SAMPLING)
    told = ""
    try:
        generator.generate([[CONFIG.vocab_size]], SAMPLING)
    except LlamaError as error:
        told = error.problems[0].code
    again = generator.generate(mine, SAMPLING)
    held = 0
    if parallelism is not None:
        parameters = generator._shard.model.parameters()
        held = sum((x.to_local() if isinstance(x, DTensor) else x).numel() for x in parameters)
    ids, others = ([[one.ids for one in row] for row in found] for found in (answers, again))
    return {"ids": ids, "again": others, "logps": [[one.logps for one in row] for row in answers], "held": held,
            "told": told}  # fmt: skip


@pytest.fixture(scope="module")
def alone():
    return work(None)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_ranks_draw_what_one_process_draws(alone, tmp_path, layout):
    world = 2 if layout == "tp2" else 4
    for rank, found in enumerate(run_ranks(tmp_path / "ranks", world, work, LAYOUTS[layout])):
        assert found["ids"] == found["again"] == alone["ids"][rank:]
        for rows, expected in zip(found["logps"], alone["logps"][rank:], strict=True):
            for ours, theirs in zip(rows, expected, strict=True):
                assert ours == pytest.approx(theirs, abs=1e-4)
        assert 0 < found["held"] < 0.6 * CONFIG.num_params()
        assert found["told"] == alone["told"] != "", "all ranks stop together"


def apart(parallelism: dict | None, where: str) -> list:
    """Answers of this rank's workers, then of its workers while only the first rank asks."""
    model = PlacedModel.drawn(CONFIG, 0, parallel_of(parallelism))
    placing = RolloutsSection(where=where, workers=1, threads=1, piece=2)
    rank = model.context.rank
    with ExitStack() as closing:
        drawing = generator(model, "fp32", placing, closing)
        found = [drawing.generate(prompts, SAMPLING) for prompts in (PROMPTS[rank:], PROMPTS if rank == 0 else [])]
    return [[[(one.ids, one.logps) for one in row] for row in rows] for rows in found]


def test_every_rank_of_fsdp_has_workers_of_its_own(tmp_path):
    """Each is given the whole model, gathered weight by weight."""
    ranks = run_ranks(tmp_path / "ranks", 2, apart, {"dp": {"name": "fsdp", "size": 2}}, "processes")
    ((expected, whole),) = run_ranks(tmp_path / "alone", 1, apart, None, "here")
    assert ranks[0] == [expected, whole]
    assert [[ids for ids, _ in row] for row in ranks[1][0]] == [[ids for ids, _ in row] for row in expected[1:]]
    assert ranks[1][1] == []
