"""An engine over several processes against the engine of one: the same ids, whatever is cut and whatever is asked."""

from __future__ import annotations

import pytest
import torch
from forked import run_ranks
from rank_work import PROMPTS, answers_of, in_bfloat16, watched, work

from llama3.checkpoints.load import load_model
from llama3.checkpoints.weights import save_model
from llama3.inference import Engine, Sampling
from llama3.model.build import init_weights
from llama3.model.config import ModelConfig
from llama3.model.transformer import Transformer

CONFIG = ModelConfig(dim=32, n_layers=4, n_heads=4, n_kv_heads=2, ffn_dim=64, vocab_size=61, max_seq_len=128)
OPTIONS = {"block_size": 4, "max_batch": 5, "prefill_tokens": 24}
LAYOUTS = {"tp2": {"tp": 2}, "pp2": {"pp": 2}, "tp2 pp2": {"tp": 2, "pp": 2}}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    model = init_weights(Transformer(CONFIG), 0)
    for parameter in model.parameters():  # larger weights, for scores that differ clearly
        parameter.data.mul_(2.5)
    folder = tmp_path_factory.mktemp("model")
    save_model(model, folder)
    return folder


@pytest.fixture(scope="module")
def alone(checkpoint):
    return answers_of(Engine(load_model(checkpoint), **OPTIONS))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_answers_as_one_process_does(checkpoint, alone, tmp_path, layout):
    parallelism = LAYOUTS[layout]
    world = 2 ** len(parallelism)
    found, *_ = run_ranks(tmp_path / "ranks", world, work, checkpoint, parallelism, OPTIONS)
    assert found.keys() == alone.keys()
    for name, rows in alone.items():
        for expected, answers in zip(rows, found[name], strict=True):
            assert [ids for ids, _ in answers] == [ids for ids, _ in expected], name
            for (_, ours), (_, theirs) in zip(answers, expected, strict=True):
                assert ours == pytest.approx(theirs, abs=1e-4)


@pytest.mark.parametrize("layout", ["tp2", "pp2"])
def test_stages_are_busy_together_and_what_breaks_off_spoils_nothing(checkpoint, tmp_path, layout):
    model, greedy = load_model(checkpoint), Sampling(8, temperature=0)
    found, _ = run_ranks(tmp_path / "ranks", 2, watched, checkpoint, LAYOUTS[layout])
    depth = LAYOUTS[layout].get("pp", 1)
    assert max(found["under_way"]) == depth
    first = found["under_way"][:9]  # the prompts' forward and those of eight tokens, two micro-batches each
    assert first.count(depth) >= 7
    alone = [[one.ids for one in row] for row in Engine(model).generate(PROMPTS, greedy)]
    assert found["before"] == found["after"] == alone
    assert found["left"] == alone[1::2]
    for kind in ("int8", "fp8"):
        rows = Engine(model, kv_dtype=kind, block_size=4).generate(PROMPTS, greedy)
        assert found[kind] == [[one.ids for one in row] for row in rows]


@pytest.mark.parametrize("layout", ["tp2", "pp2"])
def test_bfloat16_travels_too(checkpoint, tmp_path, layout):
    found, _ = run_ranks(tmp_path / "ranks", 2, in_bfloat16, checkpoint, LAYOUTS[layout])
    model = load_model(checkpoint, dtype=torch.bfloat16)
    (answers,) = Engine(model).generate(PROMPTS[:1], Sampling(4, temperature=0, n=2))
    for ours, one in zip(found["logps"], answers, strict=True):
        assert ours == pytest.approx(one.logps, abs=0.2)  # other sums of eight bits
