"""Algorithms that choose among fresh answers: the best is learnt, best and worst are compared, the rest is counted."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from trl_oracle import OneRank, total

from llama3.config.schema import OptimizerSection
from llama3.model.batch import Batch, Segment, Tree
from llama3.model.score import Scored
from llama3.posttraining.examples import AnswerTokens
from llama3.testing.toys import ToyData, ToyServices, toy_examples, toy_model
from llama3.training.loop import train
from llama3.training.microbatch import count_units, drop_unscorable
from llama3.training.schedule import Schedule
from llama3_plugins.algorithms.choices import pick
from llama3_plugins.algorithms.dpo import DPO
from llama3_plugins.algorithms.online_dpo import OnlineDPO
from llama3_plugins.algorithms.options import DPOOptions, OnlineDPOOptions, RejectionSamplingOptions
from llama3_plugins.algorithms.rejection_sampling import RejectionSampling
from llama3_plugins.data_kinds.pairs import PairExample
from llama3_plugins.data_kinds.prompts import PromptExample

NAN = float("nan")
PROMPTS = [PromptExample(np.array([1, 2]), i) for i in range(4)]
LOGPS = {10: -1.0, 11: -2.0, 12: -0.5}
"""Log-probs of the answers' content token under the policy; the end token 0 has none."""


class Drawn:
    """Answers 10, 11 and 12 to every prompt, each with its end token but the last; rewards as given."""

    def __init__(self, *rewards: tuple[float, ...]) -> None:
        self.rewards = rewards
        self.sampler = SimpleNamespace(rollouts=self.rollouts)
        self.reward = SimpleNamespace(score=self.score)
        self.reference = self.policy = SimpleNamespace(logps=logps_of)
        self.stats = OneRank()

    def rollouts(self, prompts: Batch, samples: int) -> Batch:
        assert samples == 3
        answer = lambda token, ids, reason: Segment(
            ids,
            0,
            True,
            per_target={"sample_logps": [LOGPS[token]] * len(ids)},
            per_segment={"finish_reason": reason},
        )
        root = lambda: Segment([1, 2], per_segment={"finish_reason": -1})
        answers = [answer(10, [10, 0], 0), answer(11, [11, 0], 0), answer(12, [12, 12], 1)]
        return Batch.of_trees([Tree([root(), *answers]) for _ in range(prompts.num_trees)])

    def score(self, batch: Batch) -> Batch:
        column = [x for row in self.rewards for x in (NAN, *row)]
        return batch.with_(per_segment={"reward": torch.tensor(column)})


def logps_of(batch: Batch) -> torch.Tensor:
    return torch.tensor([LOGPS.get(token, 0.0) for token in batch.target_ids_M.tolist()])


def first_tokens(batch: Batch, segments) -> list[int]:
    return batch.tokens_T[batch.starts_S1[segments].long()].tolist()


def prepared(algorithm, *rewards) -> Batch:
    return algorithm.prepare(algorithm.collate(PROMPTS[: len(rewards)]), Drawn(*rewards))


def test_the_best_is_by_reward_then_by_log_prob_then_as_drawn_and_never_nan():
    services = Drawn((0, 1, 0.5), (1, 1, 0), (NAN, 0, NAN), (NAN, NAN, NAN))
    drawn = services.score(services.rollouts(Batch.of_trees([Tree([Segment([1])])] * 4), 3))
    chosen = pick(drawn, drawn.per_segment["reward"])
    assert first_tokens(drawn, chosen) == [11, 10, 11, 12]
    equal = drawn.with_(per_target={"sample_logps": torch.zeros(drawn.num_targets)})
    assert first_tokens(drawn, pick(equal, torch.zeros(drawn.num_segments))) == [10] * 4


def test_rejection_sampling_learns_the_best_above_the_threshold():
    algorithm = RejectionSampling(RejectionSamplingOptions(samples=3))
    batch = prepared(algorithm, (0, 1, 1), (0, 0.5, 0), (NAN, NAN, NAN), (1, NAN, 0))
    assert (batch.num_trees, batch.num_segments) == (4, 8)
    kept, dropped = drop_unscorable(batch)
    assert first_tokens(kept, kept.child(0)) == [12, 10]
    assert dropped == 2
    scored = Scored(logps_M=logps_of(kept))
    assert total(algorithm.loss(scored, kept), count_units(kept)).item() == pytest.approx((0.5 + 0.5 + 1.0 + 0.0) / 4)
    assert algorithm.metrics(scored, kept)["best_reward"].item() == 1.0


def test_without_a_threshold_the_best_of_every_scorable_prompt_is_learnt():
    algorithm = RejectionSampling(RejectionSamplingOptions(samples=3, threshold=None))
    kept, dropped = drop_unscorable(prepared(algorithm, (-3, -1, -2), (NAN, NAN, NAN)))
    assert (first_tokens(kept, kept.child(0)), dropped) == ([11], 1)


def test_online_pairs_are_best_against_worst_and_ties_make_none():
    algorithm = OnlineDPO(OnlineDPOOptions(samples=3))
    batch = prepared(algorithm, (0, 1, 0), (1, 1, 1), (NAN, NAN, 1), (0.2, 0.1, NAN))
    kept, dropped = drop_unscorable(batch)
    assert [first_tokens(kept, kept.child(k)) for k in (0, 1)] == [[11, 10], [12, 11]]
    assert dropped == 4, "both answers of two prompts"
    scored = Scored(logps_M=logps_of(kept))
    assert algorithm.metrics(scored, kept)["no_pair"].item() == 0.5
    ended = [token == 0 for token in kept.target_ids_M.tolist()]
    assert kept.per_target["is_format"].tolist() == ended, "an answer that was cut off ends in content"


def test_when_nothing_can_be_learnt_everything_is_dropped():
    for algorithm in (OnlineDPO(OnlineDPOOptions(samples=3)), RejectionSampling(RejectionSamplingOptions(samples=3))):
        batch = prepared(algorithm, (0, 0, 0), (NAN, NAN, NAN))
        assert torch.isfinite(total(algorithm.loss(Scored(logps_M=logps_of(batch)), batch), [1, 1, 1])), "for no harm"
        kept, dropped = drop_unscorable(batch)
        assert kept.num_trees == 0
        assert dropped > 0


@pytest.mark.parametrize("loss", ["sigmoid", "aot", "aot_unpaired"])
@pytest.mark.parametrize("reduction", ["sequence_mean", "token_mean"])
def test_online_and_offline_share_their_loss(loss, reduction):
    """Given the same pairs, and whatever stands in the dropped ones."""
    options = {"loss": loss, "nll_reduction": reduction}
    online = OnlineDPO(OnlineDPOOptions(samples=3, **options))
    batch, _ = drop_unscorable(prepared(online, (0, 1, 0), (1, 1, 1), (0, NAN, 1)))
    answers = {10: [10, 0], 11: [11, 0], 12: [12, 12]}
    span = lambda token: AnswerTokens(np.array(answers[token]), np.array(answers[token]) == 0)
    dpo = DPO(DPOOptions(**options))
    pairs = [PairExample(np.array([1, 2]), span(11), span(12)), PairExample(np.array([1, 2]), span(12), span(10))]
    offline = dpo.prepare(dpo.collate(pairs), Drawn())
    losses = [
        total(algorithm.loss(Scored(logps_M=logps_of(x) * 1.5), x), count_units(x)).item()
        for algorithm, x in ((online, batch), (dpo, offline))
    ]
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)


@pytest.mark.parametrize("reward", [0.0, NAN], ids=["equal", "not scorable"])
@pytest.mark.parametrize("algorithm", [OnlineDPO(OnlineDPOOptions()), RejectionSampling(RejectionSamplingOptions())])
def test_a_step_without_anything_to_learn_is_skipped_and_counted(algorithm, reward):
    class Services(ToyServices):
        def __init__(self, model):
            super().__init__(model)
            self.reward = SimpleNamespace(
                score=lambda batch: batch.with_(per_segment={"reward": torch.full((batch.num_segments,), reward)})
            )

    model = toy_model()
    before = [parameter.clone() for parameter in model.parameters()]
    progress = train(
        model,
        algorithm,
        ToyData(toy_examples("prompts", 4)),
        options=OptimizerSection(precision="fp32", lr=1e-2),
        schedule=Schedule(1e-2, 1.0, 0, 2),
        seed=0,
        services=Services(model),
    )
    assert progress.skipped == 2
    assert progress.dropped >= 2 * 4
    assert all(map(torch.equal, before, model.parameters()))
