"""The reward model's loss: TRL's on pairs, averaged per prompt on rankings; and the reward that a trained one gives."""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from trl_oracle import span, total

from llama3.model.score import Scored
from llama3.posttraining.datasets import PairExample
from llama3.training.microbatch import count_units
from llama3_plugins.algorithms.options import RewardModelOptions
from llama3_plugins.algorithms.reward_model import RewardModel

PROMPT = np.array([7])


def examples(count: int, edited: int = 0) -> list[PairExample]:
    """`count` prompts, the first `edited` of which have a third, edited answer."""
    rng = np.random.default_rng(0)
    answer = lambda: span(int(rng.integers(1, 5)))
    return [PairExample(PROMPT, answer(), answer(), answer() if i < edited else None) for i in range(count)]


def our_loss(score_S, pairs, **options):
    algorithm = RewardModel(RewardModelOptions(**options))
    batch = algorithm.collate(pairs)
    scored = Scored(score_S=score_S)
    return total(algorithm.loss(scored, batch), count_units(batch)), algorithm.metrics(scored, batch)


@pytest.mark.parametrize("centering", [0.0, 0.01])
@pytest.mark.parametrize("margin", [0.0, 0.5])
def test_pairs_equal_trl_in_value_gradient_and_metrics(margin, centering):
    from trl import RewardTrainer

    score_R3 = torch.randn(
        6, 3, generator=torch.Generator().manual_seed(0)
    ).requires_grad_()  # prompt, chosen, rejected
    loss, metrics = our_loss(score_R3.flatten(), examples(6), margin=margin, centering=centering)
    (grad,) = torch.autograd.grad(loss, score_R3)

    same = lambda x: x
    trainer = SimpleNamespace(
        model=SimpleNamespace(training=True),
        args=SimpleNamespace(center_rewards_coefficient=centering or None),
        accelerator=SimpleNamespace(gather_for_metrics=same, gather=same),
        _metrics={"train": defaultdict(list)}, _total_train_tokens=0, _tp_size=1,
    )  # fmt: skip
    logits = torch.cat([score_R3[:, 1], score_R3[:, 2]])[:, None]
    inputs = {"attention_mask": torch.ones(12, 3)} | ({"margin": torch.full((6,), margin)} if margin else {})
    expected = RewardTrainer.compute_loss(trainer, lambda **_: SimpleNamespace(logits=logits), inputs)
    assert loss.item() == pytest.approx(expected.item(), abs=1e-6)
    torch.testing.assert_close(grad, torch.autograd.grad(expected, score_R3)[0], atol=1e-6, rtol=0)
    for name, value in metrics.items():
        assert value.item() == pytest.approx(trainer._metrics["train"][name][-1], abs=1e-6), name


def test_a_ranking_counts_as_one_prompt():
    score_S = torch.tensor([0.0, 2.0, 1.0, -1.0, 0.0, 0.3, 0.7])  # a triple, then a pair; 0 stands for prompts
    loss, metrics = our_loss(score_S, examples(2, edited=1))
    triple = -F.logsigmoid(torch.tensor([2.0 - 1.0, 2.0 + 1.0, 1.0 + 1.0])).mean()
    pair = -F.logsigmoid(torch.tensor(0.3 - 0.7))
    assert loss.item() == pytest.approx(((triple + pair) / 2).item(), abs=1e-6)
    assert metrics["accuracy"].item() == pytest.approx(3 / 4)
    assert metrics["max_reward"].item() == 2.0


def test_only_end_tokens_are_targets():
    batch = RewardModel(RewardModelOptions()).collate(examples(3, edited=3))
    assert torch.equal(batch.targets_M, batch.starts_S1[1:].long()[batch.parents_S >= 0] - 1)
