"""Compiled blocks: who gets them, and that they compute the same in every layout."""

import shutil

import pytest
import torch
from forked import run_ranks
from parity_work import CONFIG, parallel_of, trained

from llama3.inference import Engine, Sampling
from llama3.model.compilation import is_compiled
from llama3.training.placed import PlacedModel

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def test_blocks_are_compiled_on_a_gpu_or_on_demand():
    assert is_compiled("auto", CUDA)
    assert not is_compiled("auto", CPU)
    assert is_compiled(True, CPU)
    assert not is_compiled(False, CUDA)
    assert PlacedModel.drawn(CONFIG, 0, parallel_of({})).module.compiled is None


def test_what_is_compiled_stands_beside_the_layers_and_sampling_leaves_it_alone(monkeypatch):
    plain = PlacedModel.drawn(CONFIG, 0, parallel_of({})).module
    called: list[str] = []
    monkeypatch.setattr(torch, "compile", lambda block: lambda *_: called.append("compiled"))
    model = PlacedModel.drawn(CONFIG, 0, parallel_of({"compile": True})).module
    assert list(model.compiled) == list(model.layers)
    assert [name for name, _ in model.named_parameters()] == [name for name, _ in plain.named_parameters()]
    sampling = Sampling(max_tokens=4, temperature=0)
    answers = [Engine(m.eval()).generate([[1, 2, 3]], sampling)[0][0].ids for m in (model, plain)]
    assert answers[0] == answers[1]
    assert not called


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    PlacedModel.drawn(CONFIG, 0, parallel_of(None)).save(folder)
    return folder


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("c++") is None, reason="inductor needs a C++ compiler")
@pytest.mark.parametrize("layout", [{}, {"activation_bytes": 0}, {"dp": 2}, {"tp": 2}], ids=str)
def test_compiled_blocks_learn_the_same(checkpoint, tmp_path, layout):
    one = trained(None, checkpoint, tmp_path / "one", "next_token")
    section, world = {**layout, "compile": True}, layout.get("dp", 1) * layout.get("tp", 1)
    many, *_ = run_ranks(tmp_path / "ranks", world, trained, section, checkpoint, tmp_path / "many", "next_token")
    for figure in ("loss", "grad_norm"):
        assert many[figure] == pytest.approx(one[figure], abs=1e-5)
