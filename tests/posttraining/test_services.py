"""The reference cache, rollouts as trees, rewards of answers, and services by need."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny import tiny_model

from llama3.errors import CheckpointError, PluginError
from llama3.inference import Engine, FinishReason, Sampling
from llama3.posttraining.cached_scorer import CachedScorer
from llama3.posttraining.examples import prompt_ids
from llama3.posttraining.sampling import task_messages
from llama3.posttraining.services import TextRewarder, build_services
from llama3.tasks.families import tasks
from llama3.tasks.rewards import CombinedReward
from llama3.training.parallel import ParallelContext
from llama3.training.placed import PlacedModel
from llama3.training.rollouts import Rollouts
from llama3_plugins.data_kinds.pairs import Pairs, pair_example
from llama3_plugins.data_kinds.prompts import PromptExample, Prompts
from llama3_plugins.rewards.verifiable import Verifiable, VerifiableOptions


@pytest.fixture(scope="module")
def model(tokenizer):
    return tiny_model(tokenizer)


@pytest.fixture(scope="module")
def pairs(tokenizer):
    return [pair_example(tokenizer, task_messages(t), t.reference, t.reference + "!") for t in tasks("train", 12, 3)]


class Counting:
    """A scorer that counts how often it is asked."""

    def __init__(self, model):
        self.scorer, self.calls = PlacedModel(model).scorer(), 0

    def logps(self, batch):
        self.calls += 1
        return self.scorer.logps(batch)

    def top(self, batch, k):
        self.calls += 1
        return self.scorer.top(batch, k)


def cache_of(folder, make, model="model-a"):
    return CachedScorer(folder, model, make, ParallelContext(torch.device("cpu")))


def test_cached_log_probs_equal_computed_ones_and_survive_on_disk(model, pairs, tmp_path):
    scorer = Counting(model)
    cache = cache_of(tmp_path, lambda: scorer)
    batch = Pairs().collate(pairs)
    assert torch.equal(cache.logps(batch), PlacedModel(model).scorer().logps(batch))
    assert scorer.calls == 1

    def never():
        raise AssertionError("everything is in the cache")

    again = cache_of(tmp_path, never)
    assert torch.equal(again.logps(batch), cache.logps(batch))
    other_order = batch.select([3, 0, 7])
    expected = PlacedModel(model).scorer().logps(other_order)
    torch.testing.assert_close(again.logps(other_order), expected, atol=1e-5, rtol=0)
    assert again.logps(batch.select([])).shape == (0,)


def test_the_likeliest_tokens_are_cached_by_how_many_were_asked_for(model, pairs, tmp_path):
    scorer, batch = Counting(model), Pairs().collate(pairs[:3])
    cache = cache_of(tmp_path, lambda: scorer)
    for k in (4, 2, 4):
        for ours, expected in zip(cache.top(batch, k), PlacedModel(model).scorer().top(batch, k), strict=True):
            assert torch.equal(ours, expected)
    assert scorer.calls == 2
    cache.logps(batch)
    assert scorer.calls == 3, "log-probs are another question"
    assert [x.shape for x in cache.top(batch.select([]), 4)] == [(0, 4), (0, 4)]
    assert torch.equal(cache_of(tmp_path, None).top(batch, 2)[0], cache.top(batch, 2)[0])


def test_the_cache_tells_prompts_answers_and_targets_apart(model, tokenizer, pairs, tmp_path):
    scorer = Counting(model)
    cache = cache_of(tmp_path, lambda: scorer)
    ask = lambda text: [{"role": "user", "content": text}]
    cache.logps(Pairs().collate([pair_example(tokenizer, ask("one"), "x", "y")]))
    for pair in (
        pair_example(tokenizer, ask("two"), "x", "y"),
        pair_example(tokenizer, ask("one"), "x", "z"),
    ):
        calls, batch = scorer.calls, Pairs().collate([pair])
        assert torch.equal(cache.logps(batch), PlacedModel(model).scorer().logps(batch))
        assert scorer.calls == calls + 1
    fewer = Pairs().collate([pair_example(tokenizer, ask("one"), "x", "y")])
    calls = scorer.calls
    cache.logps(fewer)
    assert scorer.calls == calls, "known"


def test_the_cache_refuses_another_model_and_a_damaged_file(model, pairs, tmp_path):
    cache_of(tmp_path, lambda: PlacedModel(model).scorer()).logps(Pairs().collate(pairs[:2]))
    with pytest.raises(CheckpointError, match="belong to model-a, not to model-b"):
        cache_of(tmp_path, None, "model-b")
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(CheckpointError, match="cannot be read"):
        cache_of(tmp_path, None)


@pytest.fixture(scope="module")
def rolled_out(model, tokenizer):
    some = tasks("train", 6, seed=4)
    prompts = Prompts().collate([PromptExample(prompt_ids(tokenizer, task_messages(t)), i) for i, t in enumerate(some)])
    rollouts = Rollouts(Engine(model), Sampling(8, stop_ids=tokenizer.stop_ids), None)
    return some, prompts, rollouts, rollouts.draw(prompts, 3, seed=5)


def test_rollouts_are_trees_whose_sample_log_probs_are_the_models(model, rolled_out):
    _, prompts, rollouts, batch = rolled_out
    assert (batch.num_trees, batch.num_segments) == (6, 24)
    assert torch.equal(batch.per_tree["example"], prompts.per_tree["example"])
    expected = PlacedModel(model).scorer().logps(batch)
    torch.testing.assert_close(batch.per_target["sample_logps"], expected, atol=1e-4, rtol=0)
    is_answer = batch.per_segment["is_answer"]
    assert is_answer.tolist() == [False, True, True, True] * 6
    reasons = batch.per_segment["finish_reason"]
    assert reasons.dtype == torch.int64
    assert set(reasons[is_answer].tolist()) <= set(FinishReason)
    assert reasons[~is_answer].tolist() == [-1] * 6
    assert torch.equal(rollouts.draw(prompts, 3, seed=5).tokens_T, batch.tokens_T), "the loop's seed decides"
    nothing = rollouts.draw(prompts.select([]), 3, seed=5)
    assert nothing.num_trees == 0
    assert nothing.per_segment.keys() == batch.per_segment.keys()


def test_rewards_reach_the_right_segments(tokenizer, rolled_out):
    some, _, _, _ = rolled_out
    right_and_wrong = [pair_example(tokenizer, task_messages(t), t.reference, "no idea") for t in some]
    batch = Pairs().collate(right_and_wrong).with_(per_tree={"example": torch.tensor([0, 1, 2, 3, 4, 5])})
    examples = [task.to_json() for task in some]
    del examples[2]["check"]
    reward = CombinedReward({"verifiable": Verifiable(VerifiableOptions())})
    rewards = TextRewarder(reward, tokenizer, examples).score(batch)
    assert rewards.columns.keys() == {"reward", "reward/verifiable"}
    for column in rewards.columns.values():
        right, wrong = np.array(column).reshape(-1, 2).T
        np.testing.assert_array_equal(right, [1, 1, np.nan, 1, 1, 1])
        np.testing.assert_array_equal(wrong, [0, 0, np.nan, 0, 0, 0])
    assert [text for _, text in rewards.texts][:2] == [some[0].reference, "no idea"]


def test_services_are_built_by_need():
    made = []
    makers = {"reference": lambda: made.append("reference") or "R", "reward": lambda: made.append("reward")}
    rest = {"policy": None, "stats": None, "tokenizer": SimpleNamespace()}
    services = build_services("dpo", frozenset({"reference"}), makers, **rest)
    assert (services.reference, made) == ("R", ["reference"])
    with pytest.raises(PluginError, match="does not name: 'value'"):
        _ = services.value
    with pytest.raises(PluginError, match=r"services.sampler, which does not exist.*since api 2.*L3-SVC-003"):
        _ = services.sampler  # as plugins of the first api do
    with pytest.raises(PluginError, match="cannot supply teacher"):
        build_services("distil", frozenset({"teacher", "reference"}), makers, **rest)
