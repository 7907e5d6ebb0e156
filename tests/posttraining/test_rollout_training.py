"""Algorithms that sample, in the stage `prefer` on a tiny model: they learn, tell of it, resume, release a policy."""

from __future__ import annotations

import json
import math

import pytest
import torch
from tiny import put, put_checkpoint, tiny_model

from llama3.checkpoints.load import load_model
from llama3.config.rollouts import RolloutsSection
from llama3.config.schema import Config, PreferSection
from llama3.config.slot_types import Slot
from llama3.errors import DataError, PluginError
from llama3.inference import Engine, Sampling
from llama3.posttraining import finetune
from llama3.posttraining.finetune import prefer
from llama3.posttraining.preferences import PreferencesOptions, preferences
from llama3.posttraining.services import TextRewarder
from llama3.tasks.families import tasks
from llama3.tasks.rewards import CombinedReward
from llama3.tasks.rows import read_rows, write_rows
from llama3.training.optimizer import build_optimizer
from llama3.training.parallel import ParallelContext
from llama3.training.placed import PlacedModel
from llama3.training.rollouts import Rollouts
from llama3.training.watch import SAMPLES
from llama3_plugins.algorithms.grpo import GRPO
from llama3_plugins.algorithms.ppo import PPO
from llama3_plugins.data_kinds.prompts import PromptExample, Prompts

SLOTS = {
    "ppo": Slot(name="ppo", kl_coef=0.001, lam=1.0, vf_coef=1.0),
    "grpo": Slot(name="grpo", samples=4),
}
CLASSES = {"ppo": PPO, "grpo": GRPO}


class Vowels:
    """A reward for answers made of vowels; answers with a `?` cannot be scored."""

    def score(self, prompts, answers, examples):
        return [None if "?" in text else sum(c in "aeiou" for c in text) / max(len(text), 1) for text in answers]


class NotEmpty:
    """Nearly constant."""

    def score(self, prompts, answers, examples):
        return [None if "?" in text else float(bool(text)) for text in answers]


@pytest.fixture(autouse=True)
def toy_reward(monkeypatch):
    monkeypatch.setattr(
        finetune,
        "build_reward",
        lambda slots, trained, device: CombinedReward({"vowels": Vowels(), "not_empty": NotEmpty()}),
    )


def inputs_of(run, tokenizer, count=40):
    base = put_checkpoint(run, tiny_model(tokenizer), tokenizer)
    prompts = [task.to_json() for task in tasks("train", count, seed=1)]
    return {
        "checkpoint": base,
        "preferences": put(run, "preferences", "prompts", lambda folder: write_rows(folder / "prompts.jsonl", prompts)),
    }


def options_of(name, **changes):
    lr = {"ppo": 1e-2, "grpo": 3e-3}[name]
    section = {
        "lr": lr, "final_lr": 1.0, "batch": 8, "epochs": 3, "max_tokens": 6, "warmup": 0, "log_every": 1,
        "precision": "fp32", "sampling_precision": "fp32", "checkpoint_every": 4,
    }  # fmt: skip
    return finetune.PreferOptions(
        prefer=PreferSection(**section | changes),
        algorithm=SLOTS[name],
        rewards=(Slot(name="verifiable"),),
        logging=(Slot(name="jsonl"),),
        seed=1,
    )


def test_answers_of_other_processes_make_the_same_model(run, tokenizer):
    inputs, made, before = inputs_of(run, tokenizer, 16), {}, torch.get_num_threads()
    torch.set_num_threads(1)  # as many as the worker has: rounding follows from it
    try:
        for where in ("here", "processes"):
            placing = RolloutsSection(where=where, workers=1, threads=1, piece=3)
            options = options_of("grpo", epochs=1).model_copy(update={"rollouts": placing})
            made[where] = run.execute(prefer, inputs, options, key=where)
    finally:
        torch.set_num_threads(before)
    weights = [load_model(artifact.path).state_dict() for artifact in made.values()]
    assert all(torch.equal(*pair) for pair in zip(weights[0].values(), weights[1].values(), strict=True))
    drawn = [read_rows(run.path / "samples.jsonl")]
    answers = [row["answer"] for rows in drawn for row in rows]
    assert answers[: len(answers) // 2] == answers[len(answers) // 2 :]


def lines(run, name, stage="prefer"):
    return [row for row in read_rows(run.path / name) if row["stage"] == stage]


@pytest.mark.parametrize("name", SLOTS)
def test_training_raises_the_reward_and_tells_of_it(run, tokenizer, name):
    trained = run.execute(prefer, inputs_of(run, tokenizer), options_of(name, epochs=4))
    metrics = lines(run, "metrics.jsonl")
    assert [row["step"] for row in metrics] == list(range(1, 21))
    vowels = [row["rewards/vowels/mean"] for row in metrics]
    assert sum(vowels[-3:]) / 3 > sum(vowels[:3]) / 3 + 0.2
    for row in metrics:
        assert (
            1 <= row["completions/min_length"] <= row["completions/mean_length"] <= row["completions/max_length"] <= 6
        )
        assert 0 <= row["completions/clipped_ratio"] <= 1
        assert {"loss", "reward", "reward_std", "frac_reward_zero_std", "tokens_per_second"} <= row.keys()
    if name == "ppo":
        assert metrics[0]["objective/kl"] == pytest.approx(0, abs=1e-4), "policy and reference start as one"
        assert metrics[-1]["objective/kl"] > 0.1
        assert metrics[0]["val/clipfrac_avg"] < 1
    samples = lines(run, "samples.jsonl")
    assert len(samples) == 20 * SAMPLES
    for row in samples:
        rewards = {"reward", "reward/vowels", "reward/not_empty"}
        names = {"stage", "key", "artifact", "step", "prompt", "answer", "length", "finish_reason"}
        assert set(row) == names | rewards
        assert row["reward/vowels"] == pytest.approx(Vowels().score([""], [row["answer"]], [{}])[0])
        assert row["finish_reason"] == "length" or row["length"] <= 6
    # The policy alone is released: no value head, and every tensor is one that transformers knows.
    assert load_model(trained.path).value_head is None
    from transformers import LlamaForCausalLM

    _, loading = LlamaForCausalLM.from_pretrained(trained.path, output_loading_info=True)
    assert not any(loading[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))


def test_rewards_that_score_no_answer_of_the_first_step_are_refused(run, tokenizer, monkeypatch):
    for reward in (Vowels, NotEmpty):
        monkeypatch.setattr(reward, "score", lambda self, prompts, answers, examples: [None] * len(answers))
    with pytest.raises(DataError, match=r"none of the 32 answers of the first step can be scored.*L3-TRN-004"):
        run.execute(prefer, inputs_of(run, tokenizer, 8), options_of("grpo"))


@pytest.mark.parametrize(
    ("name", "changes"), [("ppo", {}), ("grpo", {}), ("ppo", {"lora": {"rank": 2}, "precision": "bf16"})], ids=str
)
def test_a_killed_run_repeats_the_uninterrupted_one(run, tokenizer, name, changes, monkeypatch):
    """The value head, its moments and the KL coefficient are in the checkpoints; samples follow from the step."""
    inputs, options = inputs_of(run, tokenizer, 24), options_of(name, epochs=2, **changes)
    whole = run.execute(prefer, inputs, options, key="whole")
    prepare, calls = CLASSES[name].prepare, []

    def dies(self, batch, services):
        calls.append(1)
        if len(calls) == 6:
            raise RuntimeError("killed")
        return prepare(self, batch, services)

    monkeypatch.setattr(CLASSES[name], "prepare", dies)
    with pytest.raises(PluginError, match="killed"):
        run.execute(prefer, inputs, options, key="resumed")
    resumed = run.execute(prefer, inputs, options, key="resumed")
    assert len(calls) == 6 + 2, "steps 1 to 4 of 6 were in the checkpoint"
    assert resumed.hash == whole.hash
    assert load_model(whole.path).value_head is None


def test_an_algorithm_that_samples_is_given_prompts_and_no_pairs(run, tokenizer):
    """No answer of this model passes: there are no pairs, and none are needed."""
    options = PreferencesOptions.of(Config.model_validate({"post_training": {"algorithm": {"name": "ppo"}}}), 1)
    base = put_checkpoint(run, tiny_model(tokenizer), tokenizer)
    made = run.execute(preferences, {"checkpoint": base}, options)
    assert [path.name for path in made.path.iterdir() if path.suffix == ".jsonl"] == ["prompts.jsonl"]
    assert made.metrics == {"prompts": options.prompts}
    assert len(list(read_rows(made.file("prompts.jsonl")))) == options.prompts


@pytest.mark.parametrize("temperature", [0.7, 1.5])
def test_all_log_probs_of_a_step_are_at_the_temperature_of_sampling(run, tokenizer, temperature, monkeypatch):
    seen = {}

    def loss(self, scored, batch):
        if not seen:
            seen["ratio"] = (scored.logps_M - batch.per_target["old_logps"]).detach().abs().max().item()
            seen["old"] = batch.per_target["old_logps"]
            seen["batch"] = batch
        return ppo_loss(self, scored, batch)

    ppo_loss = PPO.loss
    monkeypatch.setattr(PPO, "loss", loss)
    inputs = inputs_of(run, tokenizer, 8)
    run.execute(prefer, inputs, options_of("ppo", temperature=temperature, epochs=1))
    assert seen["ratio"] < 1e-5
    scorer = PlacedModel(load_model(inputs["checkpoint"].path)).scorer(temperature=temperature)
    torch.testing.assert_close(seen["old"], scorer.logps(seen["batch"]), atol=1e-5, rtol=0)
    assert lines(run, "metrics.jsonl")[0]["objective/kl"] == pytest.approx(0, abs=1e-4)


def test_an_update_shows_in_what_others_cache_by(tokenizer):
    """The engine keeps prompts until a parameter's version changes; the fused optimizer does not count its writes."""
    model = tiny_model(tokenizer)
    optimizer = build_optimizer(model, PreferSection())
    model.norm.weight.grad = torch.ones_like(model.norm.weight)
    before = [parameter._version for parameter in model.parameters()]
    optimizer.step()
    assert all(p._version > old for p, old in zip(model.parameters(), before, strict=True))


def test_figures_of_rollouts(tokenizer):
    """Against a plain computation; answers without a reward count in lengths, not in rewards."""
    some = tasks("train", 6, seed=3)
    table = [task.to_json() for task in some]
    rewarder = TextRewarder(CombinedReward({"vowels": Vowels()}), tokenizer, table)
    sampling = Sampling(5, stop_ids=tokenizer.stop_ids)
    rollouts = Rollouts(Engine(tiny_model(tokenizer)), sampling, rewarder)
    prompts = Prompts().collate([PromptExample(tokenizer.encode(task.prompt), i) for i, task in enumerate(some)])
    batch = rollouts.draw(prompts, 3, seed=5)
    metrics = rollouts.watch.metrics(ParallelContext(torch.device("cpu")))
    answers = batch.segment_M.unique()
    rewards = [r for r in batch.per_segment["reward"][answers].tolist() if not math.isnan(r)]
    lengths = batch.lengths_S[answers].tolist()
    assert metrics["reward"] == pytest.approx(sum(rewards) / len(rewards))
    assert metrics["reward_std"] == pytest.approx(torch.tensor(rewards).std().item(), rel=1e-5)
    assert metrics["completions/mean_length"] == pytest.approx(sum(lengths) / len(lengths))
    assert (metrics["completions/min_length"], metrics["completions/max_length"]) == (min(lengths), max(lengths))
    cut_off = (batch.per_segment["finish_reason"][answers] == 1).float().mean().item()
    assert metrics["completions/clipped_ratio"] == pytest.approx(cut_off)
    groups = [[r for r in row.tolist() if not math.isnan(r)] for row in batch.per_segment["reward"][answers].view(6, 3)]
    several = [len(set(row)) == 1 for row in groups if len(row) > 1]
    assert metrics["frac_reward_zero_std"] == pytest.approx(sum(several) / len(several))
    assert "rewards/vowels/mean" not in metrics, "one reward is the reward"
    json.dumps(rollouts.watch.samples())
