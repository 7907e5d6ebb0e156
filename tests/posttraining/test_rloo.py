"""RLOO: equal to TRL in advantages, loss and gradient; short; and nothing is learnt from an answer that is alone."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch
from test_grpo import REWARDS, batch_of, mask_of, random_rows
from trl_oracle import total

from llama3.model.score import Scored
from llama3.testing.toys import ToyStats
from llama3.training.microbatch import count_units
from llama3_plugins.algorithms import rloo
from llama3_plugins.algorithms.options import RLOOOptions

NAN = float("nan")


def trl_advantages(rewards: torch.Tensor, rows, beta: float) -> torch.Tensor:
    """The statements of TRL's `_generate_and_score_completions` from the rewards to the advantages."""
    import trl.trainer.rloo_trainer as module

    source = inspect.getsource(module.RLOOTrainer._generate_and_score_completions)
    body = ast.parse(textwrap.dedent(source)).body[0].body
    written = [ast.unparse(node) for node in body]
    first = next(i for i, text in enumerate(written) if text.startswith("unscorable_mask"))
    last = next(i for i, text in enumerate(written) if text.startswith("advantages = torch.nan_to_num"))
    mine = SimpleNamespace(reward_weights=torch.ones(1), reward_clip_range=None, beta=beta, normalize_advantages=False)
    scope = {
        **vars(module), "self": mine, "device": "cpu", "num_generations": rewards.shape[1], "gather": lambda x: x,
        "rewards_per_func": rewards.reshape(-1, 1), "old_per_token_logps": rows["old"],
        "ref_per_token_logps": rows["ref"], "completion_mask": mask_of(),
    }  # fmt: skip
    exec(compile(ast.Module(body[first : last + 1], []), "<trl>", "exec"), scope)
    return scope["advantages"]


def trl_loss(rows, advantages: torch.Tensor, clip: float) -> tuple[float, torch.Tensor]:
    """TRL's own `_compute_loss`, unbound, on given log-probs: loss and gradient."""
    from trl import RLOOTrainer

    new, mask, same = rows["new"].clone().requires_grad_(), mask_of(), lambda x, **_: x
    trainer = SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *_, **__: (new, torch.zeros_like(new).detach(), None),
        aux_loss_enabled=False, epsilon_low=clip, epsilon_high=clip, model=SimpleNamespace(training=True),
        accelerator=SimpleNamespace(gather=same, reduce=same), _metrics={"train": defaultdict(list)},
    )  # fmt: skip
    inputs = {
        "prompt_ids": mask[:, :2], "prompt_mask": mask[:, :2], "completion_ids": mask, "completion_mask": mask,
        "advantages": advantages, "old_logps": (rows["old"] * mask).sum(1),
    }  # fmt: skip
    loss = RLOOTrainer._compute_loss(trainer, None, inputs)
    loss.backward()
    return loss.item(), new.grad


@pytest.mark.parametrize("beta", [0.0, 0.05, 0.5])
@pytest.mark.parametrize("rewards", [REWARDS, ((1.0, NAN, 0.0), (0.5, NAN, NAN))], ids=["known", "some unknown"])
def test_a_step_equals_trl(beta, rewards):
    algorithm, rows = rloo.RLOO(RLOOOptions(samples=3, beta=beta)), random_rows(1)
    known = ~torch.tensor(rewards).flatten().isnan()
    answers = mask_of().bool() & known[:, None]
    services = SimpleNamespace(
        policy=SimpleNamespace(logps=lambda b: rows["old"][answers]),
        reference=SimpleNamespace(logps=lambda b: rows["ref"][answers]),
        stats=ToyStats(),
    )
    batch = algorithm.prepare(batch_of(rewards), services)
    advantages = trl_advantages(torch.tensor(rewards), rows, beta)
    is_answer = batch.per_segment["is_answer"]
    torch.testing.assert_close(batch.per_segment["advantage"][is_answer], advantages[known], atol=1e-5, rtol=0)
    assert (batch.per_segment["advantage"][~is_answer] == 0).all()

    expected, grad = trl_loss(rows, advantages, algorithm.options.clip)
    share = len(known) / known.sum()  # TRL's mean is over the answers without a reward too
    logps_M = rows["new"][answers].requires_grad_()
    loss = total(algorithm.loss(Scored(logps_M=logps_M), batch), count_units(batch))
    loss.backward()
    assert loss.item() == pytest.approx(expected * share.item(), abs=1e-5)
    torch.testing.assert_close(logps_M.grad, grad[answers] * share, atol=1e-5, rtol=0)


def test_it_is_short():
    source = inspect.getsource(rloo.RLOO)
    (cls,) = ast.parse(source).body
    methods = [ast.unparse(node) for node in cls.body if isinstance(node, ast.FunctionDef)]
    lines = [line for text in methods for line in text.splitlines() if line.strip()]
    assert len(lines) <= 25
