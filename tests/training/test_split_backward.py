"""A backward pass in two halves gives the gradients of one, and leaves those of matrices for later."""

from __future__ import annotations

import pytest
import torch
from training_toys import CONFIG, Counting, toy_model

from llama3.config.schema import LoRASection
from llama3.model.lora import add_lora
from llama3.model.score import Microbatch, score_stage
from llama3_plugins.parallelism.split_backward import backward_to_input


def gradients(model, autocast: bool, split: bool) -> tuple[dict[str, torch.Tensor], set[str]]:
    """Those of the input and of all weights, and the weights that had none after the first half."""
    microbatch = Microbatch.of(Counting().examples(0)[0])
    x_TD = torch.randn(
        microbatch.forest.num_tokens, CONFIG.dim, generator=torch.Generator().manual_seed(0)
    ).requires_grad_()
    model.zero_grad(set_to_none=True)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        scored = score_stage(model, microbatch, frozenset({"logps"}), 1.0, x_TD)
    loss, later = scored.logps_M.sum(), set()
    if split:
        weights = backward_to_input(loss, None, x_TD)
        found = x_TD.grad.clone()
        later = {name for name, weight in model.named_parameters() if weight.requires_grad and weight.grad is None}
        weights()
        assert x_TD.grad.equal(found), "the second half is for weights only"
    else:
        loss.backward()
    named = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    return {**named, "x": x_TD.grad}, later


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("lora", [False, True])
def test_both_halves_together_are_the_whole(autocast, lora):
    model = toy_model()
    if lora:
        add_lora(model, LoRASection(rank=4), seed=0)
    whole, _ = gradients(model, autocast, split=False)
    halves, later = gradients(model, autocast, split=True)
    torch.testing.assert_close(halves, whole, rtol=0, atol=0)
    matrices = {name for name in whole if "norm" not in name} - {"x", "embed.weight"}  # which is the output matrix too
    assert later == matrices
    assert len(matrices) == (28 if lora else 8)
