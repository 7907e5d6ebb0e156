"""Gradients of many microbatches add up in float32, whatever the products are computed in (paper 3.3.2)."""

from pathlib import Path

import pytest
import torch
from forked import run_ranks
from parity_work import CONFIG, Forests, parallel_of
from torch.distributed.tensor import DTensor

from llama3.model.batch import Batch
from llama3.model.precision import autocast
from llama3.model.score import Microbatch, score_stage
from llama3.training.placed import PlacedModel

MICROBATCHES = 32


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    PlacedModel.drawn(CONFIG, 0, parallel_of(None)).save(folder)
    return folder


def sums(parallelism: dict | None, checkpoint: Path) -> dict[str, torch.Tensor]:
    """The gradients after many microbatches in bfloat16; the exact sum of what each of them gave; and that sum as it
    comes out in bfloat16."""
    model = PlacedModel.loaded(checkpoint, parallel_of(parallelism))
    batches = [Batch.concat(Forests("next_token").examples(step)) for step in range(MICROBATCHES)]
    microbatches = [Microbatch.of(batch, frozenset({"logps"}), model.module.multiple) for batch in batches]

    def loss(microbatch: Microbatch, x_TD: torch.Tensor | None) -> torch.Tensor:
        with autocast("bf16", model.context.device):
            scored = score_stage(model.module, microbatch, {"logps"}, 1.0, x_TD)
        return -scored.logps_M.sum()

    def gradient() -> torch.Tensor:
        found = [p.grad for p in model.module.parameters()]
        assert all(grad.dtype == torch.float32 for grad in found)
        return torch.cat([(g.to_local() if isinstance(g, DTensor) else g).flatten() for g in found])

    exact, coarse = torch.zeros(1, dtype=torch.float64), torch.zeros(1, dtype=torch.bfloat16)
    for microbatch in microbatches:
        model.module.zero_grad()
        model.runner.forward_backward([microbatch], loss)
        exact, coarse = exact + gradient().double(), coarse + gradient().bfloat16()
    model.module.zero_grad()
    model.runner.forward_backward(microbatches, loss)
    return {"accumulated": gradient(), "exact": exact, "coarse": coarse}


@pytest.mark.parametrize("parallelism", [None, {"dp": 2}, {"tp": 2}], ids=str)
def test_microbatches_add_up_in_float32(checkpoint, tmp_path, parallelism):
    if parallelism is None:
        found = [sums(None, checkpoint)]
    else:
        found = run_ranks(tmp_path / "ranks", 2, sums, parallelism, checkpoint)
    for rank in found:
        size = rank["exact"].norm()
        assert (rank["accumulated"] - rank["exact"]).norm() < 1e-6 * size
        assert (rank["coarse"] - rank["exact"]).norm() > 1e-3 * size, "a sum in bfloat16 would have been seen"
