"""Algorithms that choose among fresh answers: the best is learnt, best and worst are compared, the rest is counted."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from trl_oracle import OneRank, means, total

from llama3.config.schema import OptimizerSection
from llama3.inference.completion import Completion, FinishReason
from llama3.inference.sampling import Sampling
from llama3.model.batch import Batch
from llama3.model.score import Scored
from llama3.posttraining.examples import AnswerTokens
from llama3.testing.toys import ToyData, ToyServices, toy_examples, toy_model, toy_rollouts
from llama3.training.loop import train
from llama3.training.microbatch import count_units, drop_unscorable
from llama3.training.placed import PlacedModel
from llama3.training.rollouts import Rewards, Rollouts
from llama3.training.schedule import Schedule
from llama3_plugins.algorithms.choices import pick
from llama3_plugins.algorithms.dpo import DPO
from llama3_plugins.algorithms.online_dpo import OnlineDPO
from llama3_plugins.algorithms.options import DPOOptions, OnlineDPOOptions, RejectionSamplingOptions
from llama3_plugins.algorithms.rejection_sampling import RejectionSampling
from llama3_plugins.data_kinds.pairs import PairExample, Pairs
from llama3_plugins.data_kinds.prompts import PromptExample, Prompts

NAN = float("nan")
PROMPTS = [PromptExample(np.array([1, 2]), i) for i in range(4)]
LOGPS = {10: -1.0, 11: -2.0, 12: -0.5}
"""Log-probs of the answers' content token under the policy; the end token 0 has none."""


SERVICES = SimpleNamespace(reference=SimpleNamespace(logps=lambda b: logps_of(b)), stats=OneRank())
SERVICES.policy = SERVICES.reference


def drawn(*rewards: tuple[float, ...]) -> Batch:
    """Answers 10, 11 and 12 to every prompt, each with its end token but the last; rewards as given."""
    answer = lambda ids, reason: Completion(ids, [LOGPS[ids[0]]] * len(ids), reason)
    stop, length = FinishReason.STOP, FinishReason.LENGTH
    row = [answer([10, 0], stop), answer([11, 0], stop), answer([12, 12], length)]
    generator = SimpleNamespace(generate=lambda prompts, sampling: [row] * len(prompts))
    rewarder = SimpleNamespace(score=lambda batch: Rewards({"reward": np.ravel(rewards).tolist()}, ()))
    prompts = Prompts().collate(PROMPTS[: len(rewards)])
    return drop_unscorable(Rollouts(generator, Sampling(2), rewarder).draw(prompts, 3, seed=0))


def logps_of(batch: Batch) -> torch.Tensor:
    return torch.tensor([LOGPS.get(token, 0.0) for token in batch.target_ids_M.tolist()])


def first_tokens(batch: Batch, segments) -> list[int]:
    return batch.tokens_T[batch.starts_S1[segments].long()].tolist()


def prepared(algorithm, *rewards) -> Batch:
    return algorithm.prepare(drawn(*rewards), SERVICES)


def test_the_best_is_by_reward_then_by_log_prob_then_as_drawn():
    batch = drawn((0, 1, 0.5), (1, 1, 0), (NAN, 0, NAN))
    assert first_tokens(batch, pick(batch, batch.per_segment["reward"])) == [11, 10, 11]
    equal = batch.with_(per_target={"sample_logps": torch.zeros(batch.num_targets)})
    assert first_tokens(batch, pick(equal, torch.zeros(batch.num_segments))) == [10, 10, 11]


def test_rejection_sampling_learns_the_best_above_the_threshold():
    algorithm = RejectionSampling(RejectionSamplingOptions(samples=3))
    batch = prepared(algorithm, (0, 1, 1), (0, 0.5, 0), (NAN, NAN, NAN), (1, NAN, 0))
    assert first_tokens(batch, batch.child(0)) == [12, 10]
    assert batch.dropped == {"no_reward": 4, "below_threshold": 1}
    scored, counts = Scored(logps_M=logps_of(batch)), count_units(batch)
    assert total(algorithm.loss(scored, batch), counts).item() == pytest.approx((0.5 + 0.5 + 1.0 + 0.0) / 4)
    assert means(algorithm.metrics(scored, batch), counts)["best_reward"] == 1.0


def test_without_a_threshold_the_best_of_every_scorable_prompt_is_learnt():
    algorithm = RejectionSampling(RejectionSamplingOptions(samples=3, threshold=None))
    batch = prepared(algorithm, (-3, -1, -2), (NAN, NAN, NAN))
    assert (first_tokens(batch, batch.child(0)), batch.dropped) == ([11], {"no_reward": 3})


def test_online_pairs_are_best_against_worst_and_ties_make_none():
    batch = prepared(OnlineDPO(OnlineDPOOptions(samples=3)), (0, 1, 0), (1, 1, 1), (NAN, NAN, 1), (0.2, 0.1, NAN))
    assert [first_tokens(batch, batch.child(k)) for k in (0, 1)] == [[11, 10], [12, 11]]
    assert batch.dropped == {"no_reward": 3, "no_pair": 4}, "no pair: both answers of two prompts"
    ended = [token == 0 for token in batch.target_ids_M.tolist()]
    assert batch.per_target["is_format"].tolist() == ended, "an answer that was cut off ends in content"


def test_when_nothing_can_be_learnt_everything_is_dropped():
    for algorithm in (OnlineDPO(OnlineDPOOptions(samples=3)), RejectionSampling(RejectionSamplingOptions(samples=3))):
        batch = prepared(algorithm, (0, 0, 0), (NAN, NAN, NAN))
        assert batch.num_trees == 0
        assert sum(batch.dropped.values()) >= 4


@pytest.mark.parametrize("loss", ["sigmoid", "aot", "aot_unpaired"])
@pytest.mark.parametrize("reduction", ["sequence_mean", "token_mean"])
def test_online_and_offline_share_their_loss(loss, reduction):
    """Given the same pairs, and whatever stands in the dropped ones."""
    options = {"loss": loss, "nll_reduction": reduction}
    online = OnlineDPO(OnlineDPOOptions(samples=3, **options))
    batch = prepared(online, (0, 1, 0), (1, 1, 1), (0, NAN, 1))
    answers = {10: [10, 0], 11: [11, 0], 12: [12, 12]}
    span = lambda token: AnswerTokens(np.array(answers[token]), np.array(answers[token]) == 0)
    dpo = DPO(DPOOptions(**options))
    pairs = [PairExample(np.array([1, 2]), span(11), span(12)), PairExample(np.array([1, 2]), span(12), span(10))]
    offline = dpo.prepare(Pairs().collate(pairs), SERVICES)
    losses = [
        total(algorithm.loss(Scored(logps_M=logps_of(x) * 1.5), x), count_units(x)).item()
        for algorithm, x in ((online, batch), (dpo, offline))
    ]
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)


@pytest.mark.parametrize("second", [0.0, NAN], ids=["equal", "not scorable"])
@pytest.mark.parametrize("algorithm", [OnlineDPO(OnlineDPOOptions()), RejectionSampling(RejectionSamplingOptions())])
def test_a_step_without_anything_to_learn_is_skipped_and_counted(algorithm, second):
    """The first step scores something: a run whose first step cannot be scored at all is refused instead."""
    by_step = iter([0.0, second])
    rewarder = SimpleNamespace(
        score=lambda b: Rewards({"reward": [next(by_step)] * int(b.per_segment["is_answer"].sum())}, ())
    )
    model = toy_model()
    before = [parameter.clone() for parameter in model.parameters()]
    progress = train(
        PlacedModel(model),
        algorithm,
        ToyData(toy_examples("prompts", 4)),
        options=OptimizerSection(precision="fp32", lr=1e-2),
        schedule=Schedule.cosine(1e-2, 1.0, 0, 2),
        seed=0,
        collate=Prompts().collate,
        services=ToyServices(model),
        rollouts=toy_rollouts(model, rewarder),
    )
    assert progress.skipped == 2
    assert sum(progress.dropped.values()) >= 2 * 4
    assert all(map(torch.equal, before, model.parameters()))
