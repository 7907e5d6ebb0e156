"""REINFORCE++: equal to verl in advantages, losses and gradients, with a group baseline and without; and by hand."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from test_grpo import LENGTHS, MAX_TOKENS, REWARDS, batch_of, mask_of, random_rows
from trl_oracle import total
from verl_oracle import ORACLE, verl

from llama3.model.score import Scored
from llama3.posttraining.advantages import kl_estimate
from llama3.testing.toys import ToyStats
from llama3.training.microbatch import count_units
from llama3_plugins.algorithms.options import PPOOptions, ReinforcePPOptions
from llama3_plugins.algorithms.ppo import PPO
from llama3_plugins.algorithms.reinforce_pp import ReinforcePP


@pytest.fixture(scope="module")
def oracle():
    if not ORACLE.is_dir():
        pytest.skip("verl 0.9.1 is not unpacked beside the environment: `make test` does it")
    return verl()


def services_of(rows):
    mask = mask_of().bool()
    return SimpleNamespace(
        policy=SimpleNamespace(logps=lambda b: rows["old"][mask]),
        reference=SimpleNamespace(logps=lambda b: rows["ref"][mask]),
        stats=ToyStats(),
    )


def learnt(options: ReinforcePPOptions, rows):
    """Advantages, loss and gradient of one update."""
    algorithm, mask = ReinforcePP(options), mask_of().bool()
    batch = algorithm.prepare(batch_of(), services_of(rows))
    logps_M = rows["new"][mask].requires_grad_()
    loss = total(algorithm.loss(Scored(logps_M=logps_M), batch), count_units(batch))
    loss.backward()
    return batch.per_target["advantages"], loss.item(), logps_M.grad


CASES = [
    {},
    {"gamma": 0.9, "kl_coef": 0.1, "kl_estimator": "k2"},
    {"kl_coef": 0.0, "minibatches": 2, "dual_clip": 1.21},
    {"baseline": "group", "kl_estimator": "k3", "minibatches": 2},
    {"baseline": "group", "kl_coef": 0.2, "kl_estimator": "k2", "epochs": 2, "dual_clip": 1.21},
]


@pytest.mark.parametrize("changes", CASES, ids=str)
def test_an_update_equals_verl(oracle, changes):
    options, rows, mask = ReinforcePPOptions(**changes), random_rows(0), mask_of()
    advantages_M, loss, grad_M = learnt(options, rows)
    rewards = torch.zeros(mask.shape)
    rewards[torch.arange(6), torch.tensor(LENGTHS).flatten() - 1] = torch.tensor(REWARDS).flatten()
    if options.baseline == "none":
        kl = oracle.kl_penalty_forward(rows["old"], rows["ref"], options.kl_estimator)
        rewards = rewards - options.kl_coef * kl * mask
        expected, _ = oracle.compute_reinforce_plus_plus_outcome_advantage(
            rewards, mask, SimpleNamespace(gamma=options.gamma)
        )
    else:
        index = torch.arange(2).repeat_interleave(3).tolist()
        expected, _ = oracle.compute_reinforce_plus_plus_baseline_outcome_advantage(rewards, mask, index)
    torch.testing.assert_close(advantages_M, expected[mask.bool()], atol=1e-5, rtol=0)

    config = {"clip_ratio": 0.2, "clip_ratio_low": None, "clip_ratio_high": None, "global_batch_info": {}}
    settings = SimpleNamespace(**config, get=lambda name, default: options.dual_clip or 1e9)
    new = rows["new"].clone().requires_grad_()
    # As verl's trainer does it: the policy that drew is the one that learns where there is one update.
    asked_before = options.epochs * options.minibatches > 1 or (options.baseline == "none" and options.kl_coef)
    old = rows["old"] if asked_before else new.detach()
    theirs, _ = oracle.compute_policy_loss_vanilla(old, new, expected, mask, "token-mean", settings)
    if options.baseline == "group":
        kl = oracle.kl_penalty_forward(new, rows["ref"], options.kl_estimator)
        theirs = theirs + options.kl_coef * oracle.agg_loss(kl, mask, "token-mean")
    theirs.backward()
    assert loss == pytest.approx(theirs.item(), abs=1e-5)
    torch.testing.assert_close(grad_M, new.grad[mask.bool()], atol=1e-5, rtol=0)


def test_the_discounted_sum_by_hand():
    """Two answers, no KL: what is still to come at every token, whitened over all five tokens."""
    rows = random_rows(1)
    advantages_M, *_ = learnt(ReinforcePPOptions(gamma=0.5, kl_coef=0.0), rows)
    returns = [
        reward * 0.5 ** (length - 1 - t)
        for reward, length in zip(np.ravel(REWARDS), np.ravel(LENGTHS), strict=True)
        for t in range(length)
    ]
    expected = (np.array(returns) - np.mean(returns)) / np.std(returns, ddof=1)
    torch.testing.assert_close(advantages_M, torch.tensor(expected, dtype=torch.float32), atol=1e-5, rtol=0)


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3", "abs"])
def test_kl_estimates_equal_verl(oracle, estimator):
    rows = random_rows(2)
    ours, theirs = kl_estimate(rows["new"], rows["ref"], estimator), oracle.kl_penalty_forward
    torch.testing.assert_close(ours, theirs(rows["new"], rows["ref"], estimator))
    far = kl_estimate(torch.tensor([-200.0]), torch.tensor([0.0]), estimator)
    assert torch.isfinite(far).all(), "a token that the policy would never say makes no infinity"


def test_ppo_takes_a_dual_clip_and_bounds_rewards():
    rows, mask = random_rows(3), mask_of().bool()
    services = services_of(rows)
    services.value = SimpleNamespace(values=lambda b: torch.zeros(int(mask.sum())))
    ppo = PPO(PPOOptions(dual_clip=1.21, reward_clip=0.3, kl_coef=0.0, lam=1.0))
    batch = ppo.prepare(batch_of(), services)
    assert batch.per_target["returns"].abs().max() == pytest.approx(0.3)
    scored = Scored(logps_M=rows["new"][mask], values_M=torch.zeros(int(mask.sum())))
    advantages_M, ratio_M = batch.per_target["advantages"], (rows["new"] - rows["old"])[mask].exp()
    expected_M = torch.maximum(-advantages_M * ratio_M, -advantages_M * ratio_M.clamp(0.8, 1.2))
    bad_M = advantages_M < 0
    assert (expected_M[bad_M] > -1.21 * advantages_M[bad_M]).any(), "nothing is held back"
    expected_M[bad_M] = torch.minimum(expected_M, -1.21 * advantages_M)[bad_M]
    assert ppo.loss(scored, batch)["policy"].sum.item() == pytest.approx(expected_M.sum().item(), abs=1e-5)


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"baseline": "group", "samples": 1}, "samples is at least 2"),
        ({"baseline": "group", "gamma": 0.9}, "gamma has no effect"),
        ({"baseline": "group"}, "kl_estimator is k2 or k3"),
        ({"dual_clip": 1.0}, "greater than 1"),
    ],
)
def test_options_that_contradict_each_other_are_refused(options, what):
    with pytest.raises(ValidationError, match=what):
        ReinforcePPOptions(**options)


def test_answers_are_as_long_as_the_rows():
    assert mask_of().sum(1).max() == MAX_TOKENS
