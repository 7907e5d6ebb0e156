"""The stages of a round on a tiny model: what they write, what they refuse, and that the model gets better."""

from __future__ import annotations

import json

import pytest
import torch
from tiny import put, put_checkpoint, tiny_model

from llama3.annotating.items import pairs_of_run
from llama3.checkpoints.load import load_model
from llama3.config.reject import RejectSection
from llama3.config.schema import Config, PreferSection, SFTSection
from llama3.config.slot_types import Slot
from llama3.errors import CheckpointError, ConfigError, DataError, PluginError
from llama3.plugins import AlgorithmSpec
from llama3.plugins.registry import Registry
from llama3.posttraining.average import AverageOptions, average, weighted_mean
from llama3.posttraining.finetune import PreferOptions, SFTOptions, prefer, sft
from llama3.posttraining.preferences import PreferencesOptions, make_pair, preferences
from llama3.posttraining.reject import RejectOptions, reject
from llama3.posttraining.sampling import Sample, Sampled
from llama3.tasks import generate
from llama3.tasks.families import tasks
from llama3.tasks.families.arithmetic import FAMILIES as ARITHMETIC
from llama3.tasks.families.lists import FAMILIES as LISTS
from llama3.tasks.rows import read_rows, write_rows
from llama3.training.algorithm import Algorithm, Plan, Term
from llama3_plugins.algorithms.sft import SFT
from llama3_plugins.rewards.verifiable import Verifiable

REWARDS = (Slot(name="verifiable"),)
FAST = {"precision": "fp32", "warmup": 2, "log_every": 1000, "checkpoint_every": 10}
EASY = [f for f in (*ARITHMETIC, *LISTS) if f.name in ("arithmetic.parity", "list.length")]


@pytest.fixture(autouse=True)
def easy_tasks(monkeypatch):
    """Two families that a tiny model learns in seconds."""
    monkeypatch.setattr("llama3.tasks.families.FAMILIES", tuple(EASY))


def sampling(**changes):
    return {
        "prompts": 16,
        "samples": 4,
        "temperature": 1.0,
        "top_p": 1.0,
        "max_tokens": 6,
        "rewards": REWARDS,
        "seed": 1,
    } | changes


def sft_options(**changes) -> SFTOptions:
    return SFTOptions(
        sft=SFTSection(**({"lr": 5e-3, "epochs": 4, "batch": 32, "weight_decay": 0.0} | FAST | changes)), seed=1
    )


def rows(artifact, name):
    return list(read_rows(artifact.file(name)))


def test_a_whole_round_raises_the_pass_rate(run, tokenizer):
    base = put_checkpoint(run, tiny_model(tokenizer), tokenizer)
    dialogs = run.execute(reject, {"checkpoint": base}, RejectOptions(**sampling(), demonstrations=400), key="reject-1")
    tuned = run.execute(sft, {"checkpoint": base, "dialogs": dialogs}, sft_options())
    pairs = run.execute(
        preferences, {"checkpoint": tuned}, PreferencesOptions(**sampling(prompts=48)), key="preferences-1"
    )
    options = PreferOptions(
        prefer=PreferSection(lr=1e-4, batch=8, **FAST), algorithm=Slot(name="dpo"), rewards=REWARDS, seed=1
    )
    preferred = run.execute(prefer, {"checkpoint": tuned, "preferences": pairs}, options)
    final = run.execute(average, {"a": tuned, "b": preferred}, AverageOptions())

    rate = lambda metrics: metrics["passed"] / metrics["samples"]
    assert rate(dialogs.metrics) < 0.05
    assert rate(pairs.metrics) > 0.3
    counts = pairs.metrics
    assert counts["pairs"] + sum(counts["skipped"].values()) == counts["prompts"]
    assert dialogs.metrics["dialogs"]["demonstration"] == 400

    compared = pairs_of_run(run, 0)
    sampled = {row["prompt"] for made in (dialogs, pairs) for row in rows(made, "samples.jsonl")}
    assert len(compared) > 32, "people may compare the answers to most prompts"
    assert {item.messages[-1]["content"] for item in compared} <= sampled
    assert {answer.model for item in compared for answer in item.answers} <= {"base", "sft"}
    assert len(rows(dialogs, "samples.jsonl")) == 16 * 4
    assert preferred.metrics["steps"] == -(-counts["pairs"] // 8)
    parts = [list(load_model(folder.path).parameters()) for folder in (final, tuned, preferred)]
    for ours, a, b in zip(*parts, strict=True):
        assert torch.equal(ours, weighted_mean([a, b], [0.5, 0.5]))
    assert final.metrics["distance"] > 0
    assert json.loads((final.path / "llama3.json").read_text())["stage"] == "average"


def test_equal_requests_give_equal_artifacts(run, tokenizer, tmp_path):
    """Sampling, choosing and training are functions of their inputs and options."""
    from llama3.artifacts.run import RunDir

    options = RejectOptions(**sampling(prompts=6, samples=2), demonstrations=40)
    hashes = []
    for name in ("one", "two"):
        with RunDir(tmp_path / name) as folder:
            base = put_checkpoint(folder, tiny_model(tokenizer), tokenizer)
            dialogs = folder.execute(reject, {"checkpoint": base}, options)
            tuned = folder.execute(sft, {"checkpoint": base, "dialogs": dialogs}, sft_options(epochs=1))
            hashes.append((dialogs.hash, tuned.hash))
    assert hashes[0] == hashes[1]


def test_worked_examples_that_do_not_fit_are_told(run, tokenizer, tmp_path, capfd):
    base = put_checkpoint(run, tiny_model(tokenizer), tokenizer)
    rows = [{"prompt": f"Say it {n} times.", "answer": "yes " * (300 if n % 2 else 1)} for n in range(60)]
    (tmp_path / "tasks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    rewards = [Slot(name="jsonl_tasks", path=str(tmp_path / "tasks.jsonl"))]
    found = run.execute(
        reject, {"checkpoint": base}, RejectOptions(**sampling(prompts=2, rewards=rewards), demonstrations=30)
    )
    unfit = found.metrics["unfit"]
    assert 0 < unfit < 30
    assert f"{unfit} of {unfit + sum(found.metrics['dialogs'].values())} dialogs do not fit" in capfd.readouterr().err


def test_a_killed_stage_goes_on_from_its_checkpoint(run, tokenizer, monkeypatch):
    base = put_checkpoint(run, tiny_model(tokenizer), tokenizer)
    dialogs = run.execute(reject, {"checkpoint": base}, RejectOptions(**sampling(prompts=2), demonstrations=100))
    inputs = {"checkpoint": base, "dialogs": dialogs}
    whole = run.execute(sft, inputs, sft_options(batch=16, epochs=4), key="whole")
    calls = []
    loss = SFT.loss

    def dies(self, scored, batch):
        calls.append(1)
        if len(calls) == 15:
            raise RuntimeError("killed")
        return loss(self, scored, batch)

    monkeypatch.setattr(SFT, "loss", dies)
    resumed_key = "resumed"
    with pytest.raises(PluginError, match="killed"):
        run.execute(sft, inputs, sft_options(batch=16, epochs=4), key=resumed_key)
    resumed = run.execute(sft, inputs, sft_options(batch=16, epochs=4), key=resumed_key)
    assert resumed.hash == whole.hash
    assert len(calls) == 15 + (25 - 10), "steps 1 to 10 were in the checkpoint"


class Reinforce(Algorithm):
    """A policy gradient on rollouts, whose baseline is the mean of each prompt's answers."""

    plan = Plan(samples=4)

    def loss(self, scored, batch):
        reward_S, answers_R = batch.per_segment["reward"], batch.sum_by_tree(batch.per_segment["is_answer"].float())
        advantage_S = reward_S - (batch.sum_by_tree(reward_S) / answers_R)[batch.tree_S]
        return {"policy": Term(-(batch.sum_by_segment(scored.logps_M) * advantage_S).sum(), per="segment")}


def test_an_algorithm_that_samples_trains_in_the_same_stage(run, tokenizer, monkeypatch):
    """What makes `algorithm: dpo` -> a sampling algorithm a change of config."""
    spec = AlgorithmSpec(
        name="reinforce", factory="-", data="prompts", needs=frozenset({"rollouts", "reward"}), summary="test"
    )
    build, spec_of = Registry.build, Registry.spec

    def build_or_reinforce(self, family, name, options=None):
        return Reinforce() if name == "reinforce" else build(self, family, name, options)

    def spec_or_reinforce(self, family, name):
        return spec if name == "reinforce" else spec_of(self, family, name)

    monkeypatch.setattr(Registry, "spec", spec_or_reinforce)
    monkeypatch.setattr(Registry, "build", build_or_reinforce)
    base = put_checkpoint(run, tiny_model(tokenizer), tokenizer)
    prompts = [task.to_json() for task in tasks("train", 12, seed=1)]
    source = put(run, "preferences", "prompts", lambda folder: write_rows(folder / "prompts.jsonl", prompts))
    options = PreferOptions(
        prefer=PreferSection(lr=1e-3, batch=4, max_tokens=6, **FAST),
        algorithm=Slot(name="reinforce"),
        rewards=REWARDS,
        seed=1,
    )
    trained = run.execute(prefer, {"checkpoint": base, "preferences": source}, options)
    assert trained.metrics["steps"] == 3
    assert trained.metrics["dropped"] == 0


def test_without_passes_and_demonstrations_there_is_nothing_to_learn(run, tokenizer):
    base = put_checkpoint(run, tiny_model(tokenizer), tokenizer)
    with pytest.raises(DataError, match="none of 8 answers passed"):
        run.execute(reject, {"checkpoint": base}, RejectOptions(**sampling(prompts=4, samples=2), demonstrations=0))
    with pytest.raises(DataError, match=r"none of 4 prompts has a passing and a failing answer.*every answer is 0\."):
        run.execute(preferences, {"checkpoint": base}, PreferencesOptions(**sampling(prompts=4, samples=2)))


def test_a_reward_that_scores_nothing_is_refused_by_name(run, tokenizer, monkeypatch):
    monkeypatch.setattr(Verifiable, "score", lambda self, prompts, answers, examples: [None] * len(answers))
    base = put_checkpoint(run, tiny_model(tokenizer), tokenizer)
    message = r"rewards verifiable: none of 8 answers can be scored"
    with pytest.raises(DataError, match=message):
        run.execute(reject, {"checkpoint": base}, RejectOptions(**sampling(prompts=4, samples=2), demonstrations=2))
    with pytest.raises(DataError, match=message):
        run.execute(preferences, {"checkpoint": base}, PreferencesOptions(**sampling(prompts=4, samples=2)))


def test_demonstrations_come_from_every_reward_with_tasks(run, tokenizer):
    pytest.importorskip("reasoning_gym")
    gym = Slot.model_validate({"name": "reasoning_gym", "families": ["gcd", "chain_sum"]})
    base = put_checkpoint(run, tiny_model(tokenizer), tokenizer)
    options = RejectOptions(**sampling(prompts=2, samples=2, rewards=(gym, *REWARDS)), demonstrations=8)
    found = run.execute(reject, {"checkpoint": base}, options)
    worked = [row for row in rows(found, "dialogs.jsonl") if row["source"] == "demonstration"]
    assert [row["id"].startswith("reasoning_gym.") for row in worked] == [True, False] * 4
    for row in worked[::2]:
        prompt, answer = (message["content"] for message in row["messages"])
        assert prompt.endswith("Give only the final answer.")
        assert answer.lstrip("-").isdecimal()
    assert found.metrics["not_scorable"] == 0


def test_fewer_tasks_than_asked_for_are_shared_and_told_of(run, tokenizer, tmp_path):
    tasks_file = tmp_path / "tasks.jsonl"
    lines = [json.dumps({"prompt": f"Add {n} and 1.", "answer": str(n + 1)}) + "\n" for n in range(20)]
    tasks_file.write_text("".join(lines))
    rewards = (Slot.model_validate({"name": "jsonl_tasks", "path": str(tasks_file)}),)
    base = put_checkpoint(run, tiny_model(tokenizer), tokenizer)
    options = RejectOptions(**sampling(prompts=100, samples=2, rewards=rewards), demonstrations=300)
    found = run.execute(reject, {"checkpoint": base}, options)
    (told,) = [event for event in run.rows("events") if event["kind"] == "fewer_tasks"]
    exist = told["found"]
    assert told["asked"] == 400
    assert 10 < exist <= 20
    assert found.metrics["dialogs"]["demonstration"] == exist * 3 // 4
    assert found.metrics["prompts"] == exist - exist * 3 // 4


def test_bad_dialogs_are_refused_all_at_once(run, tokenizer):
    base = put_checkpoint(run, tiny_model(tokenizer), tokenizer)
    good = {"id": "a", "messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]}
    bad = [good, {"id": "b"}, {"id": "c", "messages": good["messages"][:1]}]
    cases = {"bad": (bad, r"row 2 \(b\).*(\n|.)*row 3 \(c\)"), "empty": ([], "no examples")}
    for key, (content, what) in cases.items():
        dialogs = put(
            run, "dialogs", key, lambda folder, content=content: write_rows(folder / "dialogs.jsonl", content)
        )
        with pytest.raises(DataError, match=what):
            run.execute(sft, {"checkpoint": base, "dialogs": dialogs}, sft_options())


def test_too_long_dialogs_are_refused(run, tokenizer):
    base = put_checkpoint(run, tiny_model(tokenizer), tokenizer)
    row = {"id": "a", "messages": [{"role": "user", "content": "7 " * 300}, {"role": "assistant", "content": "ho"}]}
    dialogs = put(run, "dialogs", "long", lambda folder: write_rows(folder / "dialogs.jsonl", [row]))
    with pytest.raises(DataError, match="over 256 tokens"):
        run.execute(sft, {"checkpoint": base, "dialogs": dialogs}, sft_options())


def test_an_algorithm_for_other_data_is_refused(run, tokenizer):
    base = put_checkpoint(run, tiny_model(tokenizer), tokenizer)
    dialogs = put(run, "dialogs", "d", lambda folder: write_rows(folder / "dialogs.jsonl", []))
    with pytest.raises(ConfigError, match="'dpo' trains on pairs"):
        run.execute(sft, {"checkpoint": base, "dialogs": dialogs}, sft_options(algorithm=Slot(name="dpo")))


# -- choices --------------------------------------------------------------------------------------------


def sampled(*answers: tuple[str, float, float]) -> Sampled:
    return Sampled(tasks("train", 1, seed=0)[0], tuple(Sample(*answer, "stop", answer[1] >= 1) for answer in answers))


NAN = float("nan")


def test_the_best_answer_is_by_reward_then_log_prob_then_order():
    row = sampled(("a", 0, -0.1), ("b", 1, -0.9), ("c", 1, -0.5), ("d", 1, -0.5), ("e", NAN, 0.0))
    assert [sample.text for sample in row.ranked()] == ["c", "d", "b", "a"]


def test_pairs_need_a_passing_and_a_failing_answer():
    pair = make_pair(sampled(("a", 0, -2.0), ("b", 1, -0.9), ("c", 0, -0.5), ("e", NAN, 0.0)))
    assert (pair["chosen"], pair["rejected"]) == ("b", "c")
    for answers in ([("a", 1, -1.0), ("b", 1, -2.0)], [("a", 0, -1.0), ("e", NAN, 0.0)], [("e", NAN, 0.0)]):
        assert make_pair(sampled(*answers)) is None


def test_options_follow_the_config_and_rounds_draw_other_tasks():
    config = Config()
    first, second = RejectOptions.of(config, 1), RejectOptions.of(config, 2)
    assert first.prompts == config.post_training.reject.prompts
    assert (
        len({first.seed, second.seed, PreferencesOptions.of(config, 1).seed, PreferencesOptions.of(config, 2).seed})
        == 4
    )
    assert isinstance(first, RejectOptions)
    assert RejectOptions.model_validate_json(first.model_dump_json()) == first
    assert RejectSection().samples == first.samples


# -- averaging ------------------------------------------------------------------------------------------


def test_averages_accumulate_in_fp32_and_cast_once():
    a = torch.full((4,), 1.0, dtype=torch.bfloat16)
    b = torch.full((4,), 1.0078125, dtype=torch.bfloat16)
    many = [a] * 3 + [b] * 5
    expected = (3 * a.float() + 5 * b.float()) / 8
    assert torch.equal(weighted_mean(many, [1.0] * 8), expected.bfloat16())
    assert torch.allclose(weighted_mean([a.float(), b.float()], [3.0, 1.0]), (3 * a.float() + b.float()) / 4)


def test_models_that_do_not_fit_are_not_averaged(run, tokenizer):
    a, b = (put_checkpoint(run, tiny_model(tokenizer, dim=dim), tokenizer, key=f"of-{dim}") for dim in (64, 32))
    with pytest.raises(CheckpointError, match="architecture"):
        run.execute(average, {"a": a, "b": b}, AverageOptions())
    for weights in ((1.0,), (0.0, 0.0), (2.0, -1.0)):
        with pytest.raises(ConfigError, match="are no weights"):
            run.execute(average, {"a": a, "b": a}, AverageOptions(weights=weights))


def test_easy_families_are_what_the_round_trains_on():
    assert {task.family for task in tasks("train", 10, seed=1)} == {family.name for family in EASY}
    assert generate(EASY, "held_out", 4, seed=1)


@pytest.mark.parametrize(("reward", "prompts_only"), [({}, False), (None, True)])
def test_a_reward_model_gets_pairs_even_where_the_algorithm_samples(reward, prompts_only):
    config = Config.model_validate({"post_training": {"algorithm": "ppo", "reward": reward}})
    assert PreferencesOptions.of(config, 1).prompts_only is prompts_only
