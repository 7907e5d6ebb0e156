"""GRPO: equal to TRL in advantages, losses, gradients and metrics."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections import defaultdict
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from trl_oracle import means

from llama3.errors import ConfigError
from llama3.inference.completion import Completion, FinishReason
from llama3.inference.sampling import Sampling
from llama3.model.batch import Batch
from llama3.model.score import Scored
from llama3.posttraining.advantages import group_advantages
from llama3.testing.toys import ToyStats
from llama3.training.microbatch import UNITS, count_units, drop_unscorable
from llama3.training.rollouts import Rewards, Rollouts
from llama3_plugins.algorithms.grpo import GRPO
from llama3_plugins.algorithms.options import GRPOOptions
from llama3_plugins.data_kinds.prompts import PromptExample, Prompts

LENGTHS = ((3, 5, 1), (4, 2, 6))
REWARDS = ((1.0, 0.0, 0.25), (0.5, 2.0, -1.0))
MAX_TOKENS = 6


def batch_of(rewards=REWARDS) -> Batch:
    """Rewarded answers, as the loop draws them."""
    answer = lambda length: Completion(list(range(1, 1 + length)), [0.0] * length, FinishReason.STOP)
    completions = [[answer(length) for length in row] for row in LENGTHS]
    generator = SimpleNamespace(generate=lambda prompts, sampling: completions)
    rewarder = SimpleNamespace(score=lambda batch: Rewards({"reward": np.ravel(rewards).tolist()}, ()))
    prompts = Prompts().collate([PromptExample(np.array([7, 8]), i) for i in range(len(LENGTHS))])
    return drop_unscorable(Rollouts(generator, Sampling(MAX_TOKENS), rewarder).draw(prompts, 3, seed=0))


def random_rows(seed: int) -> dict[str, torch.Tensor]:
    """Log-probs (answers x MAX_TOKENS) under old policy, new policy and reference, far enough apart to be clipped."""
    rng = np.random.default_rng(seed)
    old = -rng.exponential(1.0, (6, MAX_TOKENS))
    rows = {"old": old, "new": old + rng.normal(0, 0.3, old.shape), "ref": old + rng.normal(0, 0.4, old.shape)}
    return {name: torch.tensor(values, dtype=torch.float32) for name, values in rows.items()}


def mask_of(lengths=LENGTHS) -> torch.Tensor:
    return (torch.arange(MAX_TOKENS) < torch.tensor(lengths).flatten()[:, None]).long()


def trl_loss(rows, advantages, options: GRPOOptions, with_old: bool, sampler_weight=None):
    """TRL's own `_compute_loss`, unbound, on given log-probs: loss, gradient, metrics."""
    from trl import GRPOTrainer

    new = rows["new"].clone().requires_grad_()
    mask = mask_of()
    same = lambda x, **_: x
    loss_type = options.reduction if options.surrogate == "clip" else options.surrogate
    trainer = SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *_, **__: (new, torch.zeros_like(new).detach(), None),
        aux_loss_enabled=False, top_entropy_quantile=1.0, off_policy_mask_threshold=None,
        use_vllm=sampler_weight is not None, vllm_importance_sampling_correction=True,
        get_gamma_weights=GRPOTrainer.get_gamma_weights,
        importance_sampling_level=options.importance, beta=options.beta, loss_type=loss_type,
        epsilon_low=options.clip_low, epsilon_high=options.clip_high + (loss_type == "cispo"),
        max_completion_length=MAX_TOKENS,
        current_gradient_accumulation_steps=1, _entropy_bonus_enabled=False,
        args=SimpleNamespace(
            use_bias_correction_kl=False, delta=options.dual_clip, steps_per_generation=1, sapo_temperature_pos=1.0,
            sapo_temperature_neg=1.05, vespo_k_pos=2.0, vespo_lambda_pos=3.0, vespo_k_neg=3.0, vespo_lambda_neg=2.0,
        ),
        accelerator=SimpleNamespace(num_processes=1, gather=same, reduce=same),
        model=SimpleNamespace(training=True), _metrics={"train": defaultdict(list)},
    )  # fmt: skip
    inputs = {
        "prompt_ids": mask[:, :2], "prompt_mask": mask[:, :2], "completion_ids": mask, "completion_mask": mask,
        "advantages": advantages, "ref_per_token_logps": rows["ref"], "num_items_in_batch": mask.sum(),
    }  # fmt: skip
    if with_old:
        inputs["old_per_token_logps"] = rows["old"]
    if sampler_weight is not None:
        inputs["importance_sampling_ratio"] = sampler_weight
    loss = GRPOTrainer._compute_loss(trainer, None, inputs)
    loss.backward()
    return loss.item(), new.grad[mask.bool()], {name: values[-1] for name, values in trainer._metrics["train"].items()}


def trl_advantages(rewards: torch.Tensor, scale: str) -> torch.Tensor:
    """The statements of TRL's `_generate_and_score_completions` that turn rewards into advantages."""
    import trl.trainer.grpo_trainer as module

    source = inspect.getsource(module.GRPOTrainer._generate_and_score_completions)
    names = ("unscorable_mask", "multi_objective_aggregation")
    body = ast.parse(textwrap.dedent(source)).body[0].body
    chosen = [node for node in body if any(name in ast.unparse(node)[:60] for name in names)]
    mine = SimpleNamespace(
        multi_objective_aggregation="sum_then_normalize", reward_weights=torch.ones(1), scale_rewards=scale
    )
    scope = {
        **vars(module), "self": mine, "device": "cpu", "num_generations": rewards.shape[1],
        "rewards_per_func": rewards.reshape(-1, 1),
    }  # fmt: skip
    exec(compile(ast.Module(chosen, []), "<trl>", "exec"), scope)
    return scope["advantages"].nan_to_num(0.0)


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
@pytest.mark.parametrize("rewards", [REWARDS, ((1.0, float("nan"), 0.0), (0.1, 0.1, 0.1))], ids=["known", "nan, equal"])
def test_advantages_equal_trl(scale, rewards):
    batch = batch_of(rewards)
    ours_S = group_advantages(batch, scale, ToyStats())
    scorable = ~torch.tensor(rewards).flatten().isnan()
    expected = trl_advantages(torch.tensor(rewards), scale)[scorable]
    torch.testing.assert_close(ours_S[batch.per_segment["is_answer"]], expected, atol=1e-5, rtol=0)
    if rewards != REWARDS:
        assert (ours_S[batch.tree_S == 1] == 0).all(), "equal rewards teach exactly nothing"
        assert batch.dropped == {"no_reward": 1}


CHANGES = [
    *({"reduction": reduction, "minibatches": 2} for reduction in ("grpo", "bnpo", "dapo", "dr_grpo")),
    {"importance": "sequence", "minibatches": 2},
    {"beta": 0.04, "reduction": "grpo", "minibatches": 2},
    {"clip_low": 0.1, "clip_high": 0.3, "epochs": 2},
    {"reduction": "grpo"},
    {"reduction": "luspo", "importance": "sequence", "minibatches": 2},
    {"surrogate": "cispo", "minibatches": 2},
    {"surrogate": "sapo", "reduction": "grpo", "minibatches": 2, "beta": 0.04},
    {"surrogate": "vespo", "minibatches": 2},
    {"surrogate": "vespo"},
    {"dual_clip": 1.21, "minibatches": 2},
]


@pytest.mark.parametrize("changes", CHANGES, ids=str)
def test_losses_equal_trl(changes):
    options, rows, batch = GRPOOptions(**changes), random_rows(0), batch_of()
    grpo, mask = GRPO(options), mask_of().bool()
    services = SimpleNamespace(
        sampling=Sampling(MAX_TOKENS),
        policy=SimpleNamespace(logps=lambda b: rows["old"][mask]),
        reference=SimpleNamespace(logps=lambda b: rows["ref"][mask]),
        stats=ToyStats(),
    )
    prepared = grpo.prepare(batch, services)
    logps_M = rows["new"][mask].requires_grad_()
    scored = Scored(logps_M=logps_M, entropy_M=torch.zeros(len(logps_M)))
    counts = count_units(prepared)
    loss = sum(t.sum * t.weight / counts[UNITS.index(t.per)] for t in grpo.loss(scored, prepared).values())
    loss.backward()
    with_old = options.epochs * options.minibatches > 1
    advantages = trl_advantages(torch.tensor(REWARDS), "group")
    expected, grad, metrics = trl_loss(rows, advantages, options, with_old)
    assert loss.item() == pytest.approx(expected, abs=1e-5)
    torch.testing.assert_close(logps_M.grad, grad, atol=1e-5, rtol=0)
    if options.importance == "token":  # TRL counts clipped answers, not tokens, where a ratio is an answer's
        for name, value in means(grpo.metrics(scored, prepared), counts).items():
            if options.surrogate != "clip" and name.startswith("clip_ratio"):
                continue  # TRL has no such figure there
            assert value == pytest.approx(metrics[name], abs=1e-6), name
        assert not with_old or options.surrogate != "clip" or 0 < metrics["clip_ratio/region_mean"] < 1


@pytest.mark.parametrize("how", ["token_truncate", "token_mask", "sequence_truncate", "sequence_mask"])
def test_a_sampler_of_other_precision_is_corrected_as_in_trl(how):
    """TRL's loss with the weights that its documentation tells, made by hand."""
    options, rows, batch = GRPOOptions(sampler_correction=how, sampler_cap=1.1), random_rows(0), batch_of()
    grpo, mask = GRPO(options), mask_of().bool()
    sampled = rows["old"] + torch.tensor(np.random.default_rng(5).normal(0, 0.2, mask.shape), dtype=torch.float32)
    services = SimpleNamespace(
        sampling=Sampling(MAX_TOKENS), policy=SimpleNamespace(logps=lambda b: rows["old"][mask]), stats=ToyStats()
    )
    batch = batch.with_(per_target={"sample_logps": sampled[mask]})
    prepared = grpo.prepare(batch, services)
    logps_M = rows["new"][mask].requires_grad_()
    scored = Scored(logps_M=logps_M, entropy_M=torch.zeros(len(logps_M)))
    counts = count_units(prepared)
    loss = sum(t.sum * t.weight / counts[UNITS.index(t.per)] for t in grpo.loss(scored, prepared).values())
    loss.backward()

    gap = (rows["old"] - sampled) * mask
    ratio = (gap.sum(1, keepdim=True) if how.startswith("sequence") else gap).exp()
    weight = ratio.clamp(max=1.1) if how.endswith("truncate") else ratio.masked_fill(ratio > 1.1, 0.0)
    assert (weight != ratio).any(), "nothing is capped"
    advantages = trl_advantages(torch.tensor(REWARDS), "group")
    expected, grad, _ = trl_loss(rows, advantages, options, with_old=True, sampler_weight=weight)
    assert loss.item() == pytest.approx(expected, abs=1e-5)
    torch.testing.assert_close(logps_M.grad, grad, atol=1e-5, rtol=0)
    told = means(grpo.metrics(scored, prepared), counts)
    assert told["sampling/sampling_logp_difference/mean"] == pytest.approx(gap[mask].abs().mean().item(), abs=1e-6)


def test_a_sampler_at_another_temperature_cannot_be_corrected():
    services = SimpleNamespace(
        sampling=Sampling(MAX_TOKENS, 0.7), policy=SimpleNamespace(logps=lambda b: torch.zeros(21)), stats=ToyStats()
    )
    with pytest.raises(ConfigError, match="L3-ALG-001"):
        GRPO(GRPOOptions(sampler_correction="token_mask")).prepare(batch_of(), services)


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"reduction": "luspo"}, "importance is sequence"),
        ({"surrogate": "vespo", "importance": "sequence"}, "its own weight"),
        ({"surrogate": "sapo", "dual_clip": 3.0}, "no effect on sapo"),
        ({"sampler_cap": 2.0}, "no effect without"),
    ],
)
def test_options_that_contradict_each_other_are_refused(options, what):
    with pytest.raises(ValidationError, match=what):
        GRPOOptions(**options)
