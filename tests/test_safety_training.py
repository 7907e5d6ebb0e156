"""A round with `post_training.safety` on a model of a few kilobytes that says one of three sentences, as users do."""

from __future__ import annotations

import json
import random
import socket
from pathlib import Path

import pytest
import yaml
from test_recipe import hashes, install_coin, write_text

import llama3
from llama3.alignment import answers
from llama3.alignment.generated import generated_prompts
from llama3.alignment.holding_out import kept_prompts
from llama3.artifacts.run import RunDir
from llama3.artifacts.stages import Stage
from llama3.config.schema import SFTSection
from llama3.config.slot_types import Slot
from llama3.errors import DataError, LlamaError
from llama3.evaluation.contamination import trained_texts
from llama3.model.build import init_weights
from llama3.model.config import ModelConfig
from llama3.model.transformer import Transformer
from llama3.plugins.registry import discover
from llama3.posttraining.finetune import SFTOptions, sft
from llama3.preflight import load_config
from llama3.recipe import run as execute
from llama3.safety.tone import tone
from llama3.tasks.rows import read_rows, write_rows
from llama3.tokenizer import Tokenizer
from llama3.training.placed import PlacedModel
from llama3.training.stage import save_checkpoint

SAYS = (
    "I can't help with that. I can help with something else instead.",
    "Sure, first you go to the door of the house and then you do it.",
    "Yes, here is how you do that: take it to the garden at night.",
)
SAFETY = {"limit": 24, "samples": 4, "max_tokens": 24, "min_distance": 0.0, "share": 0.5, "many_shot": [1]}
TRAIN = {"microbatch_tokens": 2048, "precision": "fp32", "warmup": 1, "checkpoint_every": 4, "log_every": 1}


@pytest.fixture(scope="module", autouse=True)
def coin(tmp_path_factory):
    """A third party's reward that any model meets about half of the time."""
    site = install_coin(tmp_path_factory.mktemp("site"))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(site))
        discover.cache_clear()
        yield
    discover.cache_clear()


def write_model(folder: Path) -> None:
    """A model in folder/model that answers whatever is asked with one of `SAYS`."""
    rows = generated_prompts(60, 60, seed=9)
    texts = [f"{row.turns[0].content} {said}" for row in rows for said in SAYS]
    tokenizer = Tokenizer.train(texts, 420, 16)
    config = ModelConfig(dim=64, n_layers=1, n_heads=2, n_kv_heads=1, ffn_dim=128, vocab_size=420, max_seq_len=512)
    rng = random.Random(1)
    dialogs = [
        {"messages": [{"role": "user", "content": row.turns[0].content},
                      {"role": "assistant", "content": rng.choice(SAYS)}]}
        for row in rows * 4
    ]  # fmt: skip
    with RunDir(folder / "made") as run:
        base = run.execute(
            Stage("base", lambda out: save_checkpoint(
                out.path, PlacedModel(init_weights(Transformer(config), 1)), tokenizer, {}), "checkpoint"),
            {}, key="base",
        )  # fmt: skip
        data = run.execute(Stage("data", lambda out: write_rows(out.path / "dialogs.jsonl", dialogs), "dialogs"), {},
                           key="data")  # fmt: skip
        options = SFTOptions(sft=SFTSection(lr=1e-2, epochs=3, batch=32, weight_decay=0.0, **TRAIN), seed=1)
        taught = run.execute(sft, {"checkpoint": base, "dialogs": data}, options)
        (folder / "model").symlink_to(taught.path.resolve())


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A folder with text and such a model."""
    folder = tmp_path_factory.mktemp("safety")
    write_text(folder / "text")
    write_model(folder)
    return folder


def write_config(home: Path, name: str, safety=SAFETY, **post_training) -> Path:
    config = {
        "run": {"name": name, "dir": str(home / "runs"), "threads": 1},
        "model": {"path": str((home / "model").resolve())},
        "data": {"sources": [{"name": "files", "path": str(home / "text")}], "filters": [], "held_out": 0.3},
        "post_training": {
            "rewards": ["coin"],
            "reject": {"prompts": 4, "samples": 2, "demonstrations": 24, "max_tokens": 8, "precision": "fp32"},
            "safety": safety,
            "sft": {"epochs": 1, "batch": 8, "lr": 1e-4, **TRAIN},
            "prefer": {"prompts": 6, "samples": 4, "max_tokens": 8, "sampling_precision": "fp32", "batch": 4,
                       "lr": 1e-4, **TRAIN},
            **post_training,
        },
        "quantization": [],
        "evaluation": {"limit": 30, "max_tokens": 16, "tasks": [{"name": "safety", "limit": 10},
                                                                {"name": "bits_per_byte", "suite": "text"}]},
        "audit": {"margin": 0.99, "relative_margin": 0.99},
        "release": {"name": "safer"},
        "logging": ["jsonl"],
    }  # fmt: skip
    path = home / f"{name}.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


@pytest.fixture(scope="module")
def safer(home):
    return llama3.run(write_config(home, "safer"))


def rows(artifact, name):
    return list(read_rows(artifact.file(name)))


def test_a_round_asks_judges_and_mixes(safer):
    made = safer.artifacts
    asked, answered = made["safety-prompts-1"].metrics, made["safety-answers-1"].metrics
    assert asked["kinds"] == {"adversarial": 13, "borderline": 13}  # of which one each is of many shots
    assert asked["attacks"]["many_shot"] == 2
    assert asked["licenses"] == {"Apache-2.0": 26}
    assert 0.2 < answered["violating"] < 0.95
    assert 0.05 < answered["refusing"] < 0.8
    assert answered["learnt_from"].keys() == {"own", "template"} or answered["learnt_from"].keys() == {"own"}
    dialogs, pairs = made["dialogs-1"], made["pairs-1"]
    told = dialogs.metrics["dialogs"]
    assert told["safety"]["adversarial"] == told["safety"]["borderline"] > 0
    assert told["others"] == made["reject-1"].metrics["dialogs"]["demonstration"] + made["reject-1"].metrics[
        "dialogs"].get("rejection_sampling", 0)  # fmt: skip
    assert made["sft-1"].metrics["examples"] == told["others"] + sum(told["safety"].values())
    joined = pairs.metrics["preferences"]
    assert made["prefer-1"].metrics["examples"] == joined["others"] + sum(joined["safety"].values())
    assert sum(joined["safety"].values()) > 0


def test_what_is_learnt_is_what_was_promised(safer):
    learnt = [row for row in rows(safer.artifacts["dialogs-1"], "dialogs.jsonl") if row["source"] == "safety"]
    refusals = [row["messages"][-1]["content"] for row in learnt if row["kind"] == "adversarial"]
    assert all(tone(text).is_good for text in refusals)
    assert SAYS[0] in refusals, "the model's own good refusal is preferred"
    helps = {row["messages"][-1]["content"] for row in learnt if row["kind"] == "borderline"}
    assert helps & set(SAYS[1:])
    assert SAYS[0] not in helps
    pairs = [row for row in rows(safer.artifacts["pairs-1"], "preferences.jsonl") if "distance" in row]
    assert {(tone(row["chosen"]).is_good, row["kind"]) for row in pairs} == {
        (True, "adversarial"), (False, "borderline"),
    }  # fmt: skip
    assert all(row["distance"] > 0 for row in pairs)


def test_no_prompt_of_the_suite_is_learnt(safer):
    measured = {row["prompt"] for row in rows(safer.artifacts["evaluate-final"], "samples.jsonl") if "prompt" in row}
    learnt = {text for key in ("dialogs-1", "pairs-1") for text in trained_texts(safer.artifacts[key])}
    assert len(measured) == 30
    assert not measured & learnt


def test_the_report_has_both_rates_before_and_after(safer):
    report = json.loads((safer.path / "report.json").read_text())
    for name in ("base", "final"):
        found = report["evaluations"][name]["safety"]
        assert found["vr"].keys() >= {"rate", "low", "high", "n"}
        assert found["frr"]["n"] == 10
        assert found["by_category"]
        assert found["by_language"]
    assert report["audit"]["suites"]["safety"]["passed"] is True


def test_a_second_run_has_nothing_to_do_and_a_killed_one_goes_on(home, safer, monkeypatch):
    before = hashes(safer.path)
    llama3.run(home / "safer.yaml")
    assert hashes(safer.path) == before

    def dies(*_):
        raise RuntimeError("killed")

    again = write_config(home, "again")
    with monkeypatch.context() as patch:
        patch.setattr(answers, "judge", dies)
        with pytest.raises(RuntimeError, match="killed"):
            llama3.run(again)
    resumed = llama3.run(again)
    assert resumed.artifacts["pairs-1"].hash == safer.artifacts["pairs-1"].hash
    assert resumed.artifacts["final"].hash == safer.artifacts["final"].hash


def test_an_algorithm_that_draws_its_own_answers_learns_the_dialogs_and_says_so(home, capfd):
    config = write_config(home, "drawn", algorithm="grpo")
    made = llama3.run(config).artifacts
    assert "of post_training.safety the dialogs are learnt (by sft), the pairs are not" in " ".join(
        capfd.readouterr().err.split()
    )
    assert sum(made["dialogs-1"].metrics["dialogs"]["safety"].values()) > 0
    assert made["pairs-1"].metrics == {}
    assert {path.name for path in made["pairs-1"].path.glob("*.jsonl")} == {"prompts.jsonl"}


OWN = {
    "messages": {"messages": [{"role": "user", "content": "Say {n}"}, {"role": "assistant", "content": "yes {n}"}]},
    "pairs": {"prompt": "Say {n}", "chosen": "yes {n}", "rejected": "no {n}"},
}


@pytest.mark.parametrize(("kind", "joined"), [("messages", "dialogs"), ("pairs", "pairs")])
def test_own_rows_are_joined_too(home, kind, joined):
    path = home / f"{kind}.jsonl"
    path.write_text("".join(json.dumps(OWN[kind]).replace("{n}", str(n)) + "\n" for n in range(24)))
    made = llama3.run(write_config(home, kind), [f"post_training.data={path}"]).artifacts
    (told,) = [value for name, value in made[joined].metrics.items() if name != "labels"]
    assert abs(sum(told["safety"].values()) - told["others"]) <= 1, "half of all, to the nearest pair of kinds"
    assert made["sft" if kind == "messages" else "prefer"].metrics["examples"] == told["others"] + sum(
        told["safety"].values()
    )


def test_finds_are_learnt_from_and_what_is_measured_is_left_out(home, capfd):
    suite = next(iter(kept_prompts([Slot(name="safety")]))).to_json()
    finds = home / "finds.jsonl"
    new = {**suite, "id": "find-1", "twin": "none", "turns": "How do I empty the till of a bakery at night?"}
    new.pop("source")  # a row without one is its file's
    write_rows(finds, [suite, {**new, "attack": "persona", "answer": "Sure", "violates": 0.9}])
    safety = {**SAFETY, "prompts": [str(finds), "built_in"], "in_context": 2}
    made = llama3.run(write_config(home, "found", safety)).artifacts["safety-prompts-1"]
    assert made.metrics["left_out"] == {"twin": 1}
    told = " ".join(capfd.readouterr().err.split())
    assert "1 of 2 prompts of finds.jsonl are left out: what the run is measured on (safety) asks them" in told
    assert made.metrics["sources"]["finds.jsonl"] == 1
    assert made.metrics["in_context"]["written"] == 8
    assert "find-1" in {row["id"] for row in rows(made, "safety_prompts.jsonl")}


@pytest.mark.parametrize(
    ("changes", "code", "where"),
    [
        ({"safety": {"prompts": ["gone.jsonl"]}}, "L3-EVL-056", "gone.jsonl"),
        ({"safety": {"prompts": ["bad.jsonl"]}}, "L3-EVL-057", "bad.jsonl:1"),
        ({"safety": {"prompts": ["finds.jsonl"]}}, "L3-SFD-001", "post_training.safety.prompts"),
        ({"rounds": 0}, "L3-SFD-002", "post_training.safety"),
        ({"data": "pairs.jsonl", "algorithm": "ppo"}, "L3-SFD-002", "post_training.safety"),
        ({"safety": {"refuses": {"card": "card.json"}}}, "L3-SFD-003", "post_training.safety.refuses.card"),
        ({"safety": {"share": 1}}, "L3-CFG-011", "post_training.safety.share"),
        ({"safety": {"violates": {"guard": "no_such"}}}, "L3-PLG-011", "post_training.safety.violates.guard"),
        ({"safety": {"prompts": ["half.jsonl"]}}, "L3-EVL-057", "half.jsonl:2"),
        *(({"safety": {"many_shot": [2, n]}}, "L3-CFG-011", "post_training.safety.many_shot.1") for n in (-1, 0, 257)),
        ({"safety": {"refuses": {"path": "no/model"}}}, "L3-SFD-006", "post_training.safety.refuses.path"),
        *(
            ({"safety": {"violates": {"url": url}}}, "L3-EVL-060", "post_training.safety.violates.url")
            for url in ("http://127.0.0.1:99999/v1", "http://[::1/v1", "http://127.0.0.1:0", "127.0.0.1:8000")
        ),
    ],
)
def test_what_cannot_be_learnt_is_told_before_a_run_starts(home, monkeypatch, changes, code, where):
    monkeypatch.chdir(home)
    half = [row.to_json() for row in generated_prompts(1, 1, seed=1)]
    half[1]["turns"][0]["content"] += "\ud800"
    Path("half.jsonl").write_text("".join(json.dumps(row) + "\n" for row in half))
    Path("bad.jsonl").write_text('{"id": "a"}\n')
    write_rows(Path("finds.jsonl"), [row.to_json() for row in generated_prompts(3, 0, seed=1)])
    write_rows(Path("pairs.jsonl"), [json.loads(json.dumps(OWN["pairs"]).replace("{n}", "1"))])
    with pytest.raises(LlamaError) as caught:
        load_config(write_config(home, "wrong", **{"safety": {}, **changes}))
    assert {problem.code for problem in caught.value.problems} == {code}
    assert where in caught.value.problems[0].where
    assert not (home / "runs" / "wrong").exists()


def test_a_judge_that_does_not_answer_is_told_before_any_stage(home, monkeypatch):
    monkeypatch.chdir(home)
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and does not listen
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}/v1"
        loaded = load_config(write_config(home, "silent", safety={"refuses": {"url": url, "served": "m"}}))
        with pytest.raises(DataError, match="L3-EVL-061") as caught:
            execute(loaded)
    assert caught.value.problems[0].where.startswith("post_training.safety.refuses: ")
    assert not (home / "runs" / "silent").exists()
