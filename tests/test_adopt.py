"""A released model made better on a user's tasks: the second story of the recipe, on a model of a few kilobytes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from peers import answers_as_transformers
from test_recipe import hashes, install_coin, write_text

import llama3
from llama3.checkpoints.load import load_model
from llama3.cli import main
from llama3.errors import ConfigError, GateFailed
from llama3.model.build import init_weights
from llama3.model.config import ModelConfig
from llama3.model.transformer import Transformer
from llama3.plugins.registry import discover
from llama3.tokenizer import Tokenizer
from llama3.training.placed import PlacedModel
from llama3.training.stage import save_checkpoint

STAGES = [
    "adopt", "curate", "reject-1", "sft-1", "preferences-1", "prefer-1", "average-1", "final", "evaluate-base",
    "evaluate-sft", "evaluate-final", "baselines", "contamination", "audit", "release",
]  # fmt: skip

LICENSE = "Community License 3"


@pytest.fixture(scope="module", autouse=True)
def coin(tmp_path_factory):
    """A third party's reward that an untrained model meets about half of the time."""
    site = install_coin(tmp_path_factory.mktemp("site"))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(site))
        discover.cache_clear()
        yield
    discover.cache_clear()


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A folder with text and a released model (Hugging Face's layout)."""
    folder = tmp_path_factory.mktemp("adopt")
    write_text(folder / "text")
    texts = [path.read_text() for path in sorted((folder / "text").iterdir())]
    tokenizer = Tokenizer.train(texts, 400, 16)
    config = ModelConfig(dim=32, n_layers=2, n_heads=2, n_kv_heads=1, ffn_dim=64, vocab_size=400, max_seq_len=256)
    save_checkpoint(folder / "model", PlacedModel(init_weights(Transformer(config), 1)), tokenizer, {})
    (folder / "model" / "LICENSE").write_text(f"{LICENSE}\n\nUse it kindly.\n")
    stated = json.loads((folder / "model" / "tokenizer_config.json").read_text())
    (folder / "model" / "tokenizer_config.json").write_text(json.dumps({**stated, "padding_side": "left"}))
    settings = {"eos_token_id": sorted(tokenizer.stop_ids), "do_sample": True, "temperature": 0.25, "top_k": 7}
    (folder / "model" / "generation_config.json").write_text(json.dumps(settings))
    (folder / "model" / "chat_template.jinja").write_text(tokenizer.chat_template)
    (folder / "model" / "additional_chat_templates").mkdir()
    (folder / "model" / "additional_chat_templates" / "tool_use.jinja").write_text("{{ tools }}")
    return folder


BESIDE_THE_WEIGHTS = (
    "tokenizer.json",
    "tokenizer_config.json",
    "generation_config.json",
    "chat_template.jinja",
    "additional_chat_templates/tool_use.jinja",
)


def write_config(home: Path, name: str, **changes) -> Path:
    train = {"microbatch_tokens": 2048, "precision": "fp32", "warmup": 1, "checkpoint_every": 2, "log_every": 1}
    config = {
        "run": {"name": name, "dir": str(home / "runs"), "threads": 1},
        "model": {"path": str(home / "model")},
        "data": {"sources": [{"name": "files", "path": str(home / "text")}], "filters": [], "held_out": 0.3},
        "post_training": {
            "rewards": ["coin"],
            "reject": {"prompts": 4, "samples": 2, "demonstrations": 24, "max_tokens": 8, "precision": "fp32"},
            "sft": {"epochs": 1, "batch": 8, "lr": 1e-3, **train},
            "prefer": {
                "prompts": 4,
                "samples": 2,
                "max_tokens": 8,
                "sampling_precision": "fp32",
                "batch": 2,
                "lr": 1e-4,
                **train,
            },
            **changes.pop("post_training", {}),
        },
        "quantization": [],
        "evaluation": {
            "limit": 30,
            "max_tokens": 4,
            "tasks": [{"name": "pass_rate", "suite": "coins"}, {"name": "bits_per_byte", "suite": "text"}],
        },
        "audit": {"margin": 0.99, "relative_margin": 0.99},
        "release": {"name": "adopted"},
        "logging": ["jsonl"],
        **changes,
    }
    path = home / f"{name}.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


@pytest.fixture(scope="module")
def adopted(home):
    return llama3.run(write_config(home, "adopted"))


def test_every_stage_leaves_its_artifact(adopted):
    assert sorted(adopted.artifacts) == sorted(STAGES)


def test_the_report_tells_the_audit(adopted):
    report = json.loads((adopted.path / "report.json").read_text())
    assert report["audit"]["passed"] is True
    assert report["audit"]["suites"].keys() == {"coins", "text"}
    for suite in report["audit"]["suites"].values():
        assert {"before", "after", "paired_low", "paired_high"} <= suite.keys()
        assert suite["before"].keys() == suite["after"].keys() == {"rate", "low", "high", "n"}
        assert suite["paired_low"] <= suite["paired_high"]
    assert report["artifacts"]["release"] == adopted.artifacts["release"].hash


def test_a_second_run_has_nothing_to_do(home, adopted):
    before = hashes(adopted.path)
    llama3.run(home / "adopted.yaml")
    assert hashes(adopted.path) == before


def test_transformers_answers_as_the_release_does(adopted):
    answers_as_transformers(adopted.artifacts["release"].path, ["How many?"], max_tokens=8)


def test_the_terms_of_the_adopted_model_go_on(home, adopted):
    release = adopted.artifacts["release"]
    assert release.file("LICENSE").read_text() == (home / "model" / "LICENSE").read_text()
    card = release.file("README.md").read_text()
    head = yaml.safe_load(card.split("---\n")[1])
    assert (head["license"], head["license_name"]) == ("other", LICENSE)
    assert "made from model with the `llama3` pipeline" in card
    assert "raw text" not in card
    assert not (release.path / "adopted").exists()


def test_what_stands_beside_the_adopted_weights_goes_all_the_way(home, adopted):
    for key in ("adopt", "sft-1", "prefer-1", "average-1", "final", "release"):
        for name in BESIDE_THE_WEIGHTS:
            assert adopted.artifacts[key].file(name).read_bytes() == (home / "model" / name).read_bytes(), (key, name)
    stops = json.loads((home / "model" / "generation_config.json").read_text())["eos_token_id"]
    assert json.loads(adopted.artifacts["release"].file("config.json").read_text())["eos_token_id"] == stops


def test_a_failed_audit_releases_nothing_and_exits_5(home, adopted, capsys):
    run = home / "runs" / "lossy"
    llama3.run(write_config(home, "lossy"))
    assert (run / "artifacts" / "release").exists()
    config = write_config(home, "lossy", audit={"margin": 0.2, "relative_margin": 0.99})
    with pytest.raises(SystemExit) as stopped:
        main(["run", str(config)])
    assert stopped.value.code == GateFailed.exit_code == 5
    assert "suite coins" in capsys.readouterr().err
    report = json.loads((run / "report.json").read_text())
    assert report["audit"]["passed"] is False
    assert report["audit"]["suites"]["text"]["passed"] is True
    assert not (run / "artifacts" / "release").exists()


OWN = {
    "messages": {"messages": [{"role": "user", "content": "Say {n}"}, {"role": "assistant", "content": "yes {n}"}]},
    "pairs": {"prompt": "Say {n}", "chosen": "yes {n}", "rejected": "no {n}"},
}


def test_what_no_audit_could_pass_is_refused_before_training(home):
    config = write_config(home, "few")
    with pytest.raises(GateFailed) as caught:
        llama3.run(config, ["audit.margins={coins: 0.05}", "audit.must_improve=[text]"])
    (problem,) = caught.value.problems
    assert (problem.code, problem.where) == ("L3-AUD-005", "suite coins")
    assert problem.why == "30 items cannot exclude a loss of 5.0 pt: at least 72 are needed"
    made = {link.name for link in (home / "runs" / "few" / "artifacts").iterdir() if link.is_symlink()}
    assert made == {"adopt", "curate", "evaluate-base"}


@pytest.mark.parametrize(("kind", "stage"), [("messages", "sft"), ("pairs", "prefer")])
def test_own_rows_are_what_is_learnt(home, kind, stage):
    rows = home / f"{kind}.jsonl"
    rows.write_text("".join(json.dumps(OWN[kind]).replace("{n}", str(n)) + "\n" for n in range(24)))
    config = write_config(home, kind)
    run = llama3.run(config, [f"post_training.data={rows}"])
    assert "reject-1" not in run.artifacts
    assert {"own_data", stage, "release"} <= run.artifacts.keys()
    assert run.artifacts[stage].metrics["examples"] > 10

    llama3.run(config, [f"post_training.data={rows}"])
    events = [json.loads(line) for line in (run.path / "events.jsonl").read_text().splitlines()]
    last = max(n for n, event in enumerate(events) if event["kind"] == "config")
    told = [(event["kind"], event["key"]) for event in events[last + 1 :]]
    assert told == [("stage_skipped", key) for key in run.artifacts], "each stage is told of once"


SHORT, LONG = "yes", "no, not at all"


def preferences(home, algorithm, held_out, learnt):
    """A file of 8 held-out prompts and 16 others, on each side with its (better, worse) answer."""
    rows = []
    for n, (better, worse) in enumerate([held_out] * 8 + [learnt] * 16):
        row = {"prompt": f"Say {n}", "split": "held_out" if n < 8 else "train"}
        if algorithm == "dpo":
            rows.append({**row, "chosen": better, "rejected": worse})
        else:
            rows += [{**row, "completion": answer, "label": answer == better} for answer in (better, worse)]
    path = home / f"{algorithm}-{len(held_out[0])}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    changes = {"margins": {"own_rows": 0.4}, "margin": 0.99, "relative_margin": 0.99}
    config = write_config(home, path.stem, audit=changes)
    return config, [
        f"post_training.data={path}",
        f"post_training.algorithm={algorithm}",
        "post_training.prefer.lr=0.01",
    ]


@pytest.mark.parametrize("algorithm", ["dpo", "kto"])
def test_own_preferences_are_learnt_and_measured_on_those_held_out(home, algorithm):
    config, overrides = preferences(home, algorithm, (LONG, SHORT), (LONG, SHORT))
    suite = llama3.run(config, overrides).report["audit"]["suites"]["own_rows"]
    assert suite["passed"] is True
    assert (suite["after"]["rate"], suite["after"]["n"]) == (1.0, 8)


def test_own_preferences_that_were_lost_are_not_released(home, capsys):
    config, overrides = preferences(home, "dpo", (SHORT, LONG), (LONG, SHORT))
    sets = [part for value in overrides for part in ("--set", value)]
    with pytest.raises(SystemExit) as stopped:
        main(["run", str(config), *sets])
    assert stopped.value.code == GateFailed.exit_code
    assert "suite own_rows" in capsys.readouterr().err
    suite = json.loads((home / "runs" / config.stem / "report.json").read_text())["audit"]["suites"]["own_rows"]
    assert (suite["before"]["rate"], suite["after"]["rate"]) == (1.0, 0.0)


def test_own_rows_leave_the_base_model_its_part_of_the_mean(home):
    rows = home / "anchored.jsonl"
    rows.write_text("".join(json.dumps({"prompt": f"Say {n}", "completion": f"yes {n}"}) + "\n" for n in range(24)))
    overrides = [f"post_training.data={rows}", "post_training.average=[0.25, 0.25, 0.5]"]
    run = llama3.run(write_config(home, "own-anchored"), overrides)
    base, sft, mean = (load_model(run.artifacts[key].path).state_dict() for key in ("adopt", "sft", "average"))
    for name, tensor in mean.items():
        torch.testing.assert_close(tensor, 0.5 * sft[name] + 0.5 * base[name], atol=1e-6, rtol=1e-5)
    assert not torch.equal(mean["embed.weight"], sft["embed.weight"])


def test_own_rows_with_a_held_out_task_are_refused_before_training(home, adopted):
    samples = adopted.artifacts["evaluate-final"].file("samples.jsonl").read_text().splitlines()
    prompts = [row["prompt"] for row in map(json.loads, samples) if row["suite"] == "coins"]
    rows = home / "leak.jsonl"
    rows.write_text("".join(json.dumps({"prompt": prompt, "completion": "yes"}) + "\n" for prompt in prompts))
    with pytest.raises(GateFailed, match="L3-EVL-030"):
        llama3.run(write_config(home, "leak"), [f"post_training.data={rows}"])
    made = {link.name for link in (home / "runs" / "leak" / "artifacts").iterdir() if link.is_symlink()}
    assert made == {"adopt", "curate", "own_data", "contamination"}


def test_an_online_algorithm_is_a_change_of_one_word(home):
    config = write_config(home, "online")
    run = llama3.run(config, ["post_training.algorithm=grpo"])
    assert run.artifacts["prefer-1"].metrics["steps"] > 0
    assert run.report["audit"]["passed"]


def test_the_base_model_can_take_part_in_the_mean(home, adopted):
    run = llama3.run(write_config(home, "anchored"), ["post_training.average=[0.25, 0.25, 0.5]"])
    keys = ("adopt", "sft-1", "prefer-1", "average-1")
    base, sft, prefer, mean = (load_model(run.artifacts[key].path).state_dict() for key in keys)
    for name, tensor in mean.items():
        expected = 0.25 * sft[name] + 0.25 * prefer[name] + 0.5 * base[name]
        torch.testing.assert_close(tensor, expected, atol=1e-6, rtol=1e-5)
    assert not torch.equal(mean["embed.weight"], base["embed.weight"])


def test_a_model_that_is_not_there_is_refused_before_work(home):
    config = write_config(home, "missing")
    with pytest.raises(ConfigError, match=r"model\.path"):
        llama3.run(config, [f"model.path={home / 'nothing'}"])
    assert not (home / "runs" / "missing").exists()
