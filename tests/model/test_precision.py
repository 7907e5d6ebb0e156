"""The precision that a machine computes fastest in: measured, recorded, and fixed by a config."""

from __future__ import annotations

import pytest
import torch

from llama3.config.precision import settled
from llama3.config.schema import Config
from llama3.model import precision
from llama3.model.precision import Probe, chosen, probe

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def forget():
    precision._probe.cache_clear()
    yield
    precision._probe.cache_clear()


@pytest.mark.parametrize(("bf16", "choice"), [(300.0, "bf16"), (105.0, "fp32"), (4.0, "fp32")])
def test_the_clearly_faster_precision_is_chosen(monkeypatch, bf16, choice):
    speeds = {torch.float32: 100.0, torch.bfloat16: bf16}
    monkeypatch.setattr(precision, "_gflops", lambda shape, dtype: speeds[dtype])
    assert chosen("auto", "training", CPU) == choice
    assert str(probe("training", CPU)) == f"{choice} (fp32 100, bf16 {bf16:.0f} GFLOP/s a thread)"
    assert chosen("bf16", "training", CPU) == "bf16"
    assert chosen("fp32", "training", CPU) == "fp32"


def test_a_real_probe_measures_both_and_leaves_the_threads_as_they_were():
    before = torch.get_num_threads()
    found = {work: probe(work, CPU) for work in ("training", "sampling")}
    assert torch.get_num_threads() == before
    for made in found.values():
        assert isinstance(made, Probe)
        assert set(made.gflops) == {"fp32", "bf16"}
        assert min(made.gflops.values()) > 0
        faster = "bf16" if made.gflops["bf16"] > precision.MARGIN * made.gflops["fp32"] else "fp32"
        assert made.precision == faster
    assert probe("training", CPU) is found["training"], "measured once per process"


def test_a_config_says_auto_until_the_machine_has_answered():
    asked = Config.model_validate({"post_training": {"sft": {"precision": "bf16"}, "reward": {}}})
    made = settled(asked, {"training": "fp32", "sampling": "bf16"}.__getitem__)
    post = made.post_training
    assert (made.pretrain.precision, post.sft.precision, post.prefer.precision) == ("fp32", "bf16", "fp32")
    assert (post.reward.precision, post.reject.precision, post.prefer.sampling_precision) == ("fp32", "bf16", "bf16")
    assert asked.pretrain.precision == "auto"
    assert '"auto"' not in made.model_dump_json(include={"pretrain", "post_training"})
