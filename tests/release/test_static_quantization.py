"""8 bits with static scales: the rounding of a matrix and of its inputs, written out."""

from __future__ import annotations

import pytest
import torch
from model_files import random_model
from torch import nn

from llama3.model.config import ModelConfig
from llama3_plugins.exporters.static_quantization import StaticLinear, quantize_feed_forward

LARGEST = {"int8": 127, "fp8": 448}


@pytest.fixture
def linear():
    generator = torch.Generator().manual_seed(0)
    linear = nn.Linear(48, 32, bias=False)
    with torch.no_grad():
        linear.weight.copy_(torch.randn(32, 48, generator=generator))
    return linear.requires_grad_(False)


@pytest.mark.parametrize("kind", LARGEST)
def test_it_is_the_product_of_the_rounded_matrices(linear, kind):
    static = StaticLinear(linear, kind, input_max=3.0)
    x = torch.randn(5, 48, generator=torch.Generator().manual_seed(1))
    weight = linear.weight
    rows = weight.abs().amax(1, keepdim=True) if kind == "int8" else weight.abs().max()
    scale, input_scale = (rows / LARGEST[kind]).half().float(), torch.tensor(3.0 / LARGEST[kind]).half().float()

    def back(values, scale):
        codes = (values / scale).clamp(-LARGEST[kind], LARGEST[kind])
        codes = codes.round() if kind == "int8" else codes.to(torch.float8_e4m3fn).float()
        return codes * scale

    torch.testing.assert_close(static(x), back(x, input_scale) @ back(weight, scale).T)
    assert not torch.equal(static(x), linear(x))


@pytest.mark.parametrize("kind", LARGEST)
def test_what_is_larger_than_any_input_seen_saturates_and_stays_finite(linear, kind):
    static = StaticLinear(linear, kind, input_max=2.0)
    at_most, beyond = static(torch.full((1, 48), 2.0)), static(torch.full((1, 48), 1e4))
    torch.testing.assert_close(beyond, at_most)


def test_inputs_are_bounded_as_in_the_recipe(linear):
    assert float(StaticLinear(linear, "fp8", 1e6).input_scale) == pytest.approx(1200 / 448, rel=1e-3)


def test_a_matrix_of_zeros_has_a_scale(linear):
    with torch.no_grad():
        linear.weight[3] = 0
    assert torch.equal(StaticLinear(linear, "int8", 0.0)(torch.zeros(1, 48)), torch.zeros(1, 32))


def test_only_the_feed_forward_of_the_inner_layers_is_quantized():
    model = random_model(ModelConfig(64, 4, 4, 2, 96, 160, max_seq_len=64)).requires_grad_(False)
    notes = quantize_feed_forward(model, "fp8", start=1)
    static = [name for name, module in model.named_modules() if isinstance(module, StaticLinear)]
    assert static == [f"layers.{index}.ffn.{name}" for index in (1, 2) for name in ("gate_up", "down")]
    assert "one static scale per tensor (no row-wise scales)" in notes[0]
    assert all(0 < float(model.get_submodule(name).input_scale) < 1 for name in static), "inputs were measured"
    assert not any(module._forward_pre_hooks for module in model.modules())
