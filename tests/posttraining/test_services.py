"""The reference cache, rollouts as trees, rewards of answers, and services by need."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny import tiny_model

from llama3.errors import CheckpointError, PluginError
from llama3.inference import Engine, Sampling
from llama3.posttraining.examples import prompt_ids
from llama3.posttraining.reference import CachedReference
from llama3.posttraining.sampling import task_messages
from llama3.posttraining.services import ModelScorer, RolloutSampler, TextRewarder, build_services
from llama3.tasks.families import tasks
from llama3.tasks.rewards import CombinedReward
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
        self.scorer, self.calls = ModelScorer(model), 0

    def logps(self, batch):
        self.calls += 1
        return self.scorer.logps(batch)


def test_cached_log_probs_equal_computed_ones_and_survive_on_disk(model, pairs, tmp_path):
    path, scorer = tmp_path / "reference.safetensors", Counting(model)
    cache = CachedReference(path, "model-a", lambda: scorer)
    batch = Pairs().collate(pairs)
    assert torch.equal(cache.logps(batch), ModelScorer(model).logps(batch))
    cache.save()
    assert scorer.calls == 1

    def never():
        raise AssertionError("everything is in the cache")

    again = CachedReference(path, "model-a", never)
    assert torch.equal(again.logps(batch), cache.logps(batch))
    other_order = batch.select([3, 0, 7])
    expected = ModelScorer(model).logps(other_order)
    torch.testing.assert_close(again.logps(other_order), expected, atol=1e-5, rtol=0)


def test_the_cache_tells_prompts_answers_and_targets_apart(model, tokenizer, pairs, tmp_path):
    scorer = Counting(model)
    cache = CachedReference(tmp_path / "reference", "model-a", lambda: scorer)
    ask = lambda text: [{"role": "user", "content": text}]
    cache.logps(Pairs().collate([pair_example(tokenizer, ask("one"), "x", "y")]))
    for pair in (
        pair_example(tokenizer, ask("two"), "x", "y"),
        pair_example(tokenizer, ask("one"), "x", "z"),
    ):
        calls, batch = scorer.calls, Pairs().collate([pair])
        assert torch.equal(cache.logps(batch), ModelScorer(model).logps(batch))
        assert scorer.calls == calls + 1
    fewer = Pairs().collate([pair_example(tokenizer, ask("one"), "x", "y")])
    calls = scorer.calls
    cache.logps(fewer)
    assert scorer.calls == calls, "known"


def test_the_cache_refuses_another_model_and_a_damaged_file(model, pairs, tmp_path):
    path = tmp_path / "reference.safetensors"
    cache = CachedReference(path, "model-a", lambda: ModelScorer(model))
    cache.logps(Pairs().collate(pairs[:2]))
    cache.save()
    with pytest.raises(CheckpointError, match="belong to model-a, not to model-b"):
        CachedReference(path, "model-b", lambda: ModelScorer(model))
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(CheckpointError, match="cannot be read"):
        CachedReference(path, "model-a", lambda: ModelScorer(model))


@pytest.fixture(scope="module")
def rolled_out(model, tokenizer):
    some = tasks("train", 6, seed=4)
    prompts = Prompts().collate([PromptExample(prompt_ids(tokenizer, task_messages(t)), i) for i, t in enumerate(some)])
    sampler = RolloutSampler(Engine(model), Sampling(8, stop_ids=tokenizer.stop_ids))
    torch.manual_seed(5)
    return some, prompts, sampler, sampler.rollouts(prompts, 3)


def test_rollouts_are_trees_whose_sample_log_probs_are_the_models(model, rolled_out):
    _, prompts, sampler, batch = rolled_out
    assert (batch.num_trees, batch.num_segments) == (6, 24)
    assert torch.equal(batch.per_tree["example"], prompts.per_tree["example"])
    torch.testing.assert_close(batch.per_target["sample_logps"], ModelScorer(model).logps(batch), atol=1e-4, rtol=0)
    answers = batch.segment_M.unique()
    assert set(batch.per_segment["finish_reason"][answers].tolist()) <= {0.0, 1.0}
    torch.manual_seed(5)
    assert torch.equal(sampler.rollouts(prompts, 3).tokens_T, batch.tokens_T), "the loop's seed decides"


def test_rewards_reach_the_right_segments(tokenizer, rolled_out):
    some, _, _, _ = rolled_out
    right_and_wrong = [pair_example(tokenizer, task_messages(t), t.reference, "no idea") for t in some]
    batch = Pairs().collate(right_and_wrong).with_(per_tree={"example": torch.tensor([0, 1, 2, 3, 4, 5])})
    examples = [task.to_json() for task in some]
    del examples[2]["check"]
    reward = CombinedReward({"verifiable": Verifiable(VerifiableOptions())})
    scored = TextRewarder(reward, tokenizer, examples).score(batch)
    for column in ("reward", "reward/verifiable"):
        right, wrong = (scored.per_segment[column][batch.child(k)].numpy() for k in (0, 1))
        np.testing.assert_array_equal(right, [1, 1, np.nan, 1, 1, 1])
        np.testing.assert_array_equal(wrong, [0, 0, np.nan, 0, 0, 0])
    assert scored.per_segment["reward"][batch.roots_R].isnan().all()


def test_services_are_built_by_need():
    made = []
    makers = {"reference": lambda: made.append("reference") or "R", "reward": lambda: made.append("reward")}
    rest = {"policy": None, "stats": None, "tokenizer": SimpleNamespace()}
    services = build_services("dpo", frozenset({"reference"}), makers, **rest)
    assert (services.reference, made) == ("R", ["reference"])
    with pytest.raises(PluginError, match="does not name: 'reward'"):
        _ = services.reward
    with pytest.raises(PluginError, match="cannot supply teacher"):
        build_services("distil", frozenset({"teacher", "reference"}), makers, **rest)
