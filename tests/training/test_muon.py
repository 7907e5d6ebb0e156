"""Muon beside AdamW: each has its parameters, and layouts and interruptions change nothing of what is learnt."""

from functools import partial

import parity_work
import pytest
import torch
import training_toys
from forked import run_ranks
from parity_work import CONFIG, STEPS, parallel_of, resumed, trained
from training_toys import Counting, Recorder, options, schedule, toy_model, weights

from llama3.model.batch import Batch
from llama3.training.loop import train
from llama3.training.metrics import Loggers, Reporter
from llama3.training.placed import PlacedModel
from llama3_plugins.algorithms.next_token import NextToken

TOLERANCE = 1e-4
"""Of a loss: torch orthogonalises in bfloat16, whose sums differ with their order."""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    PlacedModel.drawn(CONFIG, 0, parallel_of(None)).save(folder)
    return folder


@pytest.fixture(autouse=True)
def _muon(monkeypatch):
    """For whatever `parity_work` trains; ranks are forks and inherit it."""
    monkeypatch.setattr(parity_work, "options", partial(training_toys.options, optimizer="muon"))


def learnt(model, steps, **changes):
    section, recorder = options(optimizer="muon", **changes), Recorder()
    train(
        PlacedModel(model), NextToken(), Counting(), options=section, schedule=schedule(section, steps), seed=3,
        collate=Batch.concat, reporter=Reporter("toy", Loggers([("recorder", recorder)])),
    )  # fmt: skip
    return recorder


def test_each_optimizer_has_its_parameters_and_torch_does_the_step():
    model, theirs = toy_model(), toy_model()
    recorder = learnt(model, 1, warmup=1, clip=0.5, lr=1e-2)
    from llama3.model.score import score

    batch = Batch.concat(Counting().examples(0))
    (-score(theirs, batch).logps_M.mean()).backward()
    norm = torch.nn.utils.clip_grad_norm_(theirs.parameters(), 0.5)
    assert recorder.column("grad_norm") == [pytest.approx(float(norm), rel=1e-5)]
    hidden = [p for name, p in theirs.named_parameters() if name.startswith("layers.") and p.ndim == 2]
    assert len(hidden) == 8  # four matrices in each of two blocks
    rest = {name: p for name, p in theirs.named_parameters() if not any(p is h for h in hidden)}
    assert set(rest) >= {"embed.weight", "norm.weight", "layers.0.ffn_norm.weight"}
    torch.optim.Muon(hidden, lr=1e-2, weight_decay=0.1, adjust_lr_fn="match_rms_adamw").step()
    matrices, vectors = [p for p in rest.values() if p.ndim == 2], [p for p in rest.values() if p.ndim == 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    torch.optim.AdamW(groups, lr=1e-2, betas=(0.9, 0.95), eps=1e-8).step()
    for name, weight in weights(model).items():
        # A last bit of a gradient can turn one of bfloat16 in the orthogonalised update: 2 ** -8 of it.
        torch.testing.assert_close(weight, theirs.get_parameter(name).detach(), rtol=0, atol=1e-4)


def test_it_learns_at_the_learning_rate_of_adamw():
    loss = learnt(toy_model(), 40, warmup=5, lr=2e-2).column("loss")
    assert loss[0] > 3.9
    assert sum(loss[-5:]) / 5 < 1.2


@pytest.mark.parametrize("layout", [{"dp": 2}, {"tp": 2}, {"pp": 2}, {"tp": 2, "dp": 2}])
def test_a_layout_learns_as_one_process_does(checkpoint, tmp_path, layout):
    one = trained(None, checkpoint, tmp_path / "one", "next_token")
    world = 1
    for size in layout.values():
        world *= size
    many, *_ = run_ranks(tmp_path / "ranks", world, trained, layout, checkpoint, tmp_path / "many", "next_token")
    assert len(one["loss"]) == STEPS
    assert many["loss"] == pytest.approx(one["loss"], abs=TOLERANCE)
    assert many["grad_norm"] == pytest.approx(one["grad_norm"], abs=20 * TOLERANCE)


@pytest.mark.parametrize("layout", [None, {"dp": 2}])
def test_it_resumes_to_the_bit(checkpoint, tmp_path, layout):
    if layout is None:
        found = resumed(None, checkpoint, tmp_path)
    else:
        found, *_ = run_ranks(tmp_path / "ranks", 2, resumed, layout, checkpoint, tmp_path)
    for figure, straight in found["straight"].items():
        assert found["again"][figure] == straight[3:]
    straight, again = (tmp_path / name / "dpo" / "model.safetensors" for name in ("straight", "again"))
    assert straight.read_bytes() == again.read_bytes()
