"""PPO: equal to TRL 1.12 in advantages, losses and gradients; the KL controller, what NaN rewards do, and a run.

Legend: M targets, N answers, L longest answer.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from trl_oracle import means

from llama3.inference.completion import Completion, FinishReason
from llama3.model.batch import Batch
from llama3.model.score import Scored
from llama3.posttraining.advantages import gae, kl_estimate, whiten
from llama3.testing.toys import ToyStats
from llama3.training.microbatch import UNITS, count_units
from llama3.training.rollouts import answers_of
from llama3_plugins.algorithms.options import PPOOptions
from llama3_plugins.algorithms.ppo import PPO

ORACLE = Path(sys.prefix) / "oracles" / "trl-1.12.0"
ROWS = ("logprobs", "ref_logprobs", "values", "new_logprobs", "vpred")


def batch_of(case) -> Batch:
    """Prompts of two tokens with one rewarded answer each; the last answer was cut off."""
    reasons = [FinishReason.STOP] * (len(case["lengths"]) - 1) + [FinishReason.LENGTH]
    answers = [
        [Completion(list(range(1, 1 + length)), [0.0] * length, reason)]
        for length, reason in zip(case["lengths"], reasons, strict=True)
    ]
    batch = answers_of([[7, 8]] * len(answers), answers)
    reward_S = torch.zeros(batch.num_segments)
    reward_S[batch.per_segment["is_answer"]] = torch.tensor(case["scores"])
    return batch.with_(per_segment={"reward": reward_S})


def case_of(seed, lengths, width, score_at, **changes):
    """Random rows. The ratios and the value moves are wide enough to be clipped on both sides."""
    rng = np.random.default_rng(seed)
    shape = (len(lengths), width)
    logprobs = -rng.exponential(1.0, shape)
    values = rng.normal(0, 0.5, shape)
    args = {
        "kl_coef": 0.05, "kl_estimator": "k1", "whiten_rewards": False, "gamma": 1.0, "lam": 0.95,
        "cliprange": 0.2, "cliprange_value": 0.2, "vf_coef": 0.1,
    }  # fmt: skip
    return {
        "logprobs": logprobs.tolist(),
        "ref_logprobs": (logprobs + rng.normal(0, 0.4, shape)).tolist(),
        "values": values.tolist(),
        "new_logprobs": (logprobs + rng.normal(0, 0.3, shape)).tolist(),
        "vpred": (values + rng.normal(0, 0.3, shape)).tolist(),
        "scores": rng.normal(0, 1, len(lengths)).tolist(),
        "lengths": list(lengths),
        "score_at": score_at,
        "args": args | changes,
    }


CASES = {
    "as TRL has it": case_of(0, [6, 6, 6], 6, "post_eos"),
    "answers of many lengths": case_of(1, [3, 7, 1, 5], 7, "end"),
    "k3": case_of(2, [4, 2, 6], 6, "end", kl_estimator="k3", kl_coef=0.3),
    "whitened rewards": case_of(3, [4, 2, 6], 6, "end", whiten_rewards=True),
    "after the end": case_of(5, [3, 7, 1, 7], 7, "post_eos"),
    "whitened after the end": case_of(6, [2, 4, 5], 5, "post_eos", whiten_rewards=True, gamma=0.95),
    "discounted": case_of(4, [5, 5], 5, "post_eos", gamma=0.9, lam=0.5, cliprange=0.1, cliprange_value=0.05, vf_coef=1),
}


@pytest.fixture(scope="module")
def trl():
    if not ORACLE.is_dir():
        pytest.skip("trl 1.12.0 is not unpacked beside the environment: `make test` does it")
    command = [sys.executable, str(Path(__file__).with_name("trl_ppo_oracle.py")), str(ORACLE)]
    cases = json.dumps(list(CASES.values()))
    done = subprocess.run(command, input=cases, capture_output=True, text=True, timeout=120, check=True)
    return dict(zip(CASES, json.loads(done.stdout), strict=True))


def steps_of(case) -> list[int]:
    """Of each answer, with the one after its end that TRL has where the row is longer."""
    after = case["score_at"] == "post_eos"
    return [min(length + after, len(case["logprobs"][0])) for length in case["lengths"]]


def packed(rows, lengths) -> torch.Tensor:
    return torch.tensor([x for row, length in zip(rows, lengths, strict=True) for x in row[:length]])


def services_of(case):
    """Services that answer with the case's numbers."""
    column = {name: packed(case[name], steps_of(case)) for name in ROWS}
    return SimpleNamespace(
        sampling=SimpleNamespace(max_tokens=len(case["logprobs"][0])),
        policy=SimpleNamespace(logps=lambda b: column["logprobs"]),
        reference=SimpleNamespace(logps=lambda b: column["ref_logprobs"]),
        value=SimpleNamespace(values=lambda b: column["values"]),
        stats=ToyStats(),
    )


@pytest.mark.parametrize("name", CASES)
def test_ppo_equals_trl(trl, name):
    case, expected = CASES[name], trl[name]
    args, lengths, said = case["args"], steps_of(case), case["lengths"]
    options = {"score_at": "after_end" if case["score_at"] == "post_eos" else "end"}
    options |= {"clip": args["cliprange"], "clip_value": args["cliprange_value"]}
    options |= {name: args[name] for name in ("kl_coef", "kl_estimator", "whiten_rewards", "gamma", "lam", "vf_coef")}
    ppo = PPO(PPOOptions(**options))
    batch = ppo.prepare(batch_of(case), services_of(case))
    for column in ("advantages", "returns"):
        theirs_M = packed(expected[column], lengths)
        torch.testing.assert_close(batch.per_target[column], theirs_M, atol=1e-5, rtol=0, msg=column)
    logps_M, values_M = (packed(case[row], lengths).requires_grad_() for row in ("new_logprobs", "vpred"))
    scored = Scored(logps_M=logps_M, values_M=values_M, entropy_M=torch.zeros(len(logps_M)))
    terms, counts = ppo.loss(scored, batch), count_units(batch)
    shares = {name: term.sum / counts[UNITS.index(term.per)] for name, term in terms.items()}
    loss = sum(shares[name] * term.weight for name, term in terms.items())
    loss.backward()
    assert loss.item() == pytest.approx(expected["loss"], abs=1e-5)
    assert {name: share.item() for name, share in shares.items()} == pytest.approx(
        {"policy": expected["policy"], "value": expected["value"]}, abs=1e-5
    )
    for ours, theirs in zip((logps_M.grad, values_M.grad), expected["grads"], strict=True):
        torch.testing.assert_close(ours, packed(theirs, lengths), atol=1e-5, rtol=0)
    assert len(logps_M) == sum(lengths), "a step more where an answer ends before its row"
    metrics = means(ppo.metrics(scored, batch), counts)
    assert metrics["policy/clipfrac_avg"] == pytest.approx(expected["clipfrac"], abs=1e-6)
    assert metrics["val/clipfrac_avg"] == pytest.approx(expected["value_clipfrac"], abs=1e-6)
    assert 0 < expected["clipfrac"] < 1, "the case clips nothing"
    kl = np.mean([sum(row[:length]) for row, length in zip(expected["kl"], said, strict=True)])
    assert metrics["objective/kl"] == pytest.approx(kl, abs=1e-5)


def test_advantages_of_a_worked_example():
    batch = batch_of({"lengths": [3, 3], "scores": [0.0, 0.0]})
    rewards_M, values_M = torch.tensor([0.0, 0, 1, 0, 0, 1]), torch.tensor([0.1, 0.2, 0.3] * 2)
    advantages_M = gae(rewards_M, values_M, batch, 1.0, 0.95)
    golden = torch.tensor([0.82675, 0.765, 0.7])
    torch.testing.assert_close(advantages_M, golden.repeat(2), atol=1e-5, rtol=0)
    white_M = whiten(advantages_M[:3], ToyStats())
    torch.testing.assert_close(white_M, torch.tensor([0.9913, 0.0171, -1.0084]), atol=1e-4, rtol=0)


def test_kl_estimators_agree_on_average():
    """Both estimate the KL of two distributions from samples of the first."""
    torch.manual_seed(0)
    policy, reference = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.3, 0.3, 0.4])
    drawn = torch.multinomial(policy, 200_000, replacement=True)
    true = float((policy * (policy / reference).log()).sum())
    for estimator in ("k1", "k3"):
        kl_M = kl_estimate(policy.log()[drawn], reference.log()[drawn], estimator)
        assert float(kl_M.mean()) == pytest.approx(true, abs=5e-3), estimator
    assert float(kl_M.min()) >= 0


def prepared(options: PPOOptions, case) -> tuple[PPO, Batch]:
    ppo = PPO(options)
    return ppo, ppo.prepare(batch_of(case), services_of(case))


def test_a_missing_end_is_punished_once():
    case = CASES["answers of many lengths"]
    _, free = prepared(PPOOptions(lam=1.0), case)
    _, punished = prepared(PPOOptions(lam=1.0, missing_eos_penalty=2.0), case)
    lost_M = free.per_target["returns"] - punished.per_target["returns"]
    cut_off_M = free.segment_M == free.num_segments - 1
    torch.testing.assert_close(lost_M, 2.0 * cut_off_M, atol=1e-5, rtol=0)


def test_the_kl_coefficient_follows_its_target_and_is_saved():
    case = CASES["answers of many lengths"]
    kl = prepared(PPOOptions(), case)[1].per_tree["objective/kl"][0].item()
    options = PPOOptions(kl_target=kl / 1.1, kl_horizon=100)
    ppo, batch = prepared(options, case)
    assert batch.per_tree["objective/kl_coef"].unique().tolist() == pytest.approx([0.05])
    assert ppo.state_dict()["kl_coef"] == pytest.approx(0.05 * (1 + 0.1 * 4 / 100), rel=1e-5)
    far, _ = prepared(PPOOptions(kl_target=kl / 100, kl_horizon=100), case)
    assert far.kl_coef == pytest.approx(0.05 * (1 + 0.2 * 4 / 100))
    other = PPO(options)
    other.load_state_dict(json.loads(json.dumps(ppo.state_dict())))
    assert other.kl_coef == ppo.kl_coef
