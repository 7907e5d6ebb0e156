"""The decoder step with its cache as inputs and outputs computes what the transformer computes, padded batches too."""

from __future__ import annotations

import pytest
import torch
from model_files import logits_of, random_model

from llama3.model.config import ModelConfig, RopeScaling
from llama3.model.ops import rms_norm, rotate
from llama3.release.decoder_step import (
    DecoderStep,
    check_step,
    empty_cache,
    export_step,
    input_names,
    output_names,
    step_inputs,
)
from llama3.release.probe import make_probe, write_probe

CONFIG = ModelConfig(64, 2, 4, 2, 96, 160, max_seq_len=256, tied=True, rope_scaling=RopeScaling(8.0, 1.0, 4.0, 128))


@pytest.fixture(scope="module")
def model():
    return random_model(CONFIG).requires_grad_(False)


@pytest.fixture
def tokens():
    return torch.arange(24) * 7 % 160


def test_a_prompt_and_then_token_by_token_is_the_whole_text(model, tokens):
    step, cache, logits = DecoderStep(model), empty_cache(CONFIG, torch.float32), []
    for start, end in ((0, 11), *((at, at + 1) for at in range(11, 24))):
        out, *cache = step(*step_inputs(tokens[None, start:end], cache))
        logits.append(out[0])
    assert [tuple(part.shape) for part in cache] == [(1, 2, 24, 16)] * 4
    torch.testing.assert_close(torch.cat(logits), logits_of(model, tokens), atol=1e-5, rtol=1e-5)


def test_sequences_of_different_lengths_are_padded_on_the_left(model, tokens):
    step, short = DecoderStep(model), 9
    rows = torch.stack([tokens, torch.cat([tokens.new_zeros(24 - short), tokens[:short]])])
    mask = torch.ones(2, 24, dtype=torch.int64)
    mask[1, : 24 - short] = 0
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    cache = empty_cache(CONFIG, torch.float32, batch=2)
    first, *cache = step(rows[:, :23], mask[:, :23], positions[:, :23], *cache)
    last, *_ = step(rows[:, 23:], mask, positions[:, 23:], *cache)
    got = torch.cat([first, last], 1)
    torch.testing.assert_close(got[0], logits_of(model, tokens), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(got[1, -short:], logits_of(model, tokens[:short]), atol=1e-5, rtol=1e-5)
    assert got.isfinite().all(), "padding must not spoil what comes after it"


def test_the_exported_graph_leaves_the_model_as_it_was(model, tokens):
    """What is kept between calls (rotary frequencies) must not be what tracing put there."""
    program, step = export_step(model), DecoderStep(model)
    rows = torch.stack([tokens, tokens.flip(0)])
    _, *cache = step(*step_inputs(rows[:, :9], empty_cache(CONFIG, torch.float32, batch=2)))
    got = program.module()(*step_inputs(rows[:, 9:], cache))[0]
    for row, logits in zip(rows, got, strict=True):
        torch.testing.assert_close(logits, logits_of(model, row)[9:], atol=1e-5, rtol=1e-5)
    operators = {str(node.target) for node in program.graph.nodes}
    assert {"aten.rms_norm.default", "aten.scaled_dot_product_attention.default"} <= operators
    assert not any(name.endswith((".out", "empty_like.default")) for name in operators)


def test_names_are_those_of_optimum():
    assert input_names(CONFIG)[:4] == ["input_ids", "attention_mask", "position_ids", "past_key_values.0.key"]
    assert output_names(CONFIG) == [
        "logits", "present.0.key", "present.0.value", "present.1.key", "present.1.value"
    ]  # fmt: skip


def test_a_step_that_forgets_its_past_is_noticed(model, tmp_path):
    from llama3.artifacts.files import write_json_atomic

    write_json_atomic(tmp_path / "config.json", CONFIG.to_hf())
    write_probe(tmp_path, make_probe(model))
    step = DecoderStep(model)
    assert check_step(tmp_path, lambda inputs: step(*inputs), 1e-3, "eager").passed

    def forgetful(inputs):
        out = step(*inputs)
        return [out[0], *(torch.zeros_like(part) for part in out[1:])]

    assert not check_step(tmp_path, forgetful, 1e-3, "forgetful").passed


def test_the_operators_of_an_export_compute_the_same():
    class Both(torch.nn.Module):
        def forward(self, x, weight, cos, sin):
            return rms_norm(x, weight, 1e-5), rotate(x, cos, sin)

    given = torch.randn(3, 8), torch.randn(8), torch.randn(3, 4), torch.randn(3, 4)
    exported = torch.export.export(Both(), given).module()(*given)
    for got, expected in zip(exported, Both()(*given), strict=True):
        torch.testing.assert_close(got, expected)
