"""The whole road on a few kilobytes: what it makes, that it resumes, and that nothing finished is ever lost."""

import importlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import started
import torch
import yaml
from peers import answers_as_transformers

import llama3
from llama3.artifacts import Stage
from llama3.artifacts.lineage import trace
from llama3.artifacts.run import RunDir
from llama3.checkpoints.load import load_model
from llama3.cli import main
from llama3.errors import ArtifactError, ConfigError
from llama3.plugins.registry import discover
from llama3.tasks.rows import read_rows, write_rows

STAGES = [
    "curate", "tokenizer", "shard", "pretrain", "reject-1", "sft-1", "preferences-1", "prefer-1", "average-1", "final",
    "int8", "evaluate-base", "evaluate-sft", "evaluate-final", "evaluate-int8", "baselines", "contamination",
    "release",
]  # fmt: skip


def write_text(folder: Path, documents: int = 60) -> None:
    """Python-like files from a seed: enough distinct text to train a 400-token vocabulary on."""
    rng = random.Random(0)
    words = ["alpha", "beta", "gamma", "count", "value", "index", "total", "first", "last", "read", "write", "item"]
    folder.mkdir(exist_ok=True)
    for number in range(documents):
        lines = [
            f"def {rng.choice(words)}_{rng.choice(words)}({rng.choice(words)}):\n"
            f"    {rng.choice(words)} = {rng.choice(words)} + {rng.randrange(100)}\n    return {rng.choice(words)}\n"
            for _ in range(12)
        ]
        (folder / f"m{number}.py").write_text("\n".join(lines))


COIN = """
from llama3.plugins import RewardSpec, hookimpl
from llama3_plugins.rewards.verifiable import Verifiable


@hookimpl
def llama3_rewards():
    return [RewardSpec(name="coin", factory="coin:Coin", options="llama3_plugins.rewards.verifiable:VerifiableOptions")]


class Coin(Verifiable):
    def score(self, prompts, answers, examples):
        return [float(len(answer) % 2) for answer in answers]
"""


def install_coin(folder: Path) -> Path:
    """A third party's reward that an untrained model meets about half of the time, found by its entry point."""
    (folder / "coin.py").write_text(COIN)
    info = folder / "coin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: coin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[llama3.plugins]\ncoin = coin\n")
    return folder


def write_config(folder: Path, **changes) -> Path:
    """A config that walks the whole road in seconds."""
    train = {"microbatch_tokens": 2048, "precision": "fp32", "warmup": 1, "checkpoint_every": 2, "log_every": 1}
    config = {
        "run": {"name": "small", "dir": str(folder / "runs"), "threads": 1},
        "data": {"sources": [{"name": "files", "path": str(folder / "text")}], "filters": [], "held_out": 0.1},
        "tokenizer": {"vocab_size": 400, "num_special": 16},
        "model": {"preset": "tiny", "dim": 32, "n_layers": 2, "n_heads": 2, "n_kv_heads": 1, "ffn_dim": 64,
                  "max_seq_len": 256},
        "pretrain": {"steps": 6, "batch": 2, "seq_len": 64, **train,
                     "phases": [{"steps": 3, "seq_len": 32}, {"steps": 3},
                                {"steps": 2, "schedule": "linear", "final_lr": 0, "average_last": 2}]},
        "post_training": {
            "rewards": ["coin"],
            "reject": {"prompts": 4, "samples": 2, "demonstrations": 24, "max_tokens": 8, "precision": "fp32"},
            "sft": {"epochs": 1, "batch": 8, **train},
            "prefer": {"prompts": 4, "samples": 2, "max_tokens": 8, "sampling_precision": "fp32", "batch": 2, **train},
        },
        "evaluation": {"limit": 8, "max_tokens": 8},
        "release": {"name": "small"},
        "logging": ["jsonl"],
    }  # fmt: skip
    for key, value in changes.items():
        section, name = key.split("__")
        config[section][name] = value
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def hashes(run: Path) -> dict[str, str]:
    """Identity of every artifact of a run, by key."""
    return {key: artifact.hash for key, artifact in RunDir(run).current().items()}


def start(config: Path, command: tuple[str, ...] = ("-m", "llama3", "run")) -> subprocess.Popen:
    path = os.pathsep.join(part for part in sys.path if part)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    command = (sys.executable, *command, str(config))
    return started.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture(scope="module", autouse=True)
def coin(tmp_path_factory):
    """The coin reward, installed while these tests run."""
    folder = install_coin(tmp_path_factory.mktemp("site"))
    sys.path.insert(0, str(folder))
    discover.cache_clear()
    yield
    sys.path.remove(str(folder))
    discover.cache_clear()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run: its folder and what `llama3.run` returned."""
    folder = tmp_path_factory.mktemp("road")
    write_text(folder / "text")
    return folder, llama3.run(write_config(folder))


def test_every_stage_leaves_its_artifact(finished):
    _, run = finished
    assert sorted(run.artifacts) == sorted(STAGES)
    assert hashes(run.path) == {key: artifact.hash for key, artifact in run.artifacts.items()}


def test_the_report_has_the_promised_figures(finished):
    _, run = finished
    report = json.loads((run.path / "report.json").read_text())
    assert report["bits_per_byte"].keys() == {"model", "gzip", "order3"}
    assert all(0 < value < 9 for value in report["bits_per_byte"].values())
    assert list(report["pass_rate"]) == ["base", "sft", "final", "int8"]
    for rate in report["pass_rate"].values():
        assert rate.keys() == {"rate", "low", "high", "n"}
        assert 0 <= rate["low"] <= rate["rate"] <= rate["high"] <= 1
        assert rate["n"] == 8
    assert {"pretrain", "sft", "prefer"} >= report["loss"].keys() >= {"pretrain", "sft"}
    page = (run.path / "report.html").read_text()
    assert page.count("<svg") >= 4
    assert "<script" not in page


def test_a_second_run_has_nothing_to_do(finished):
    folder, run = finished
    before = hashes(run.path)
    again = llama3.run(folder / "small.yaml")
    assert hashes(run.path) == before
    assert again.report["pass_rate"] == dict(run.report)["pass_rate"]
    events = [json.loads(line) for line in (run.path / "events.jsonl").read_text().splitlines()]
    last = len(events) - 1 - [event["kind"] for event in events][::-1].index("config")
    assert [event["kind"] for event in events[last + 1 :]] == ["stage_skipped"] * len(STAGES)


def test_a_changed_option_remakes_what_depends_on_it(finished):
    folder, run = finished
    before = hashes(run.path)
    llama3.run(folder / "small.yaml", ["post_training.algorithm.beta=0.2"])
    after = hashes(run.path)
    llama3.run(folder / "small.yaml")
    changed = {key for key in before if before[key] != after[key]}
    assert {"curate", "pretrain", "sft-1", "preferences-1", "evaluate-base", "evaluate-sft"}.isdisjoint(changed)
    assert {"prefer-1", "average-1", "final", "int8", "release"} <= changed
    assert hashes(run.path) == before


@pytest.fixture(scope="module")
def three_rounds(finished, tmp_path_factory):
    """A run of three rounds, in a run directory where an earlier layout has left its second one: the folder, and what
    was left."""
    folder, _ = finished
    home = tmp_path_factory.mktemp("rounds")
    config = write_config(home, data__sources=[{"name": "files", "path": str(folder / "text")}])
    path = home / "runs" / "small"
    with RunDir(path) as earlier:
        old = earlier.execute(Stage("reject", lambda out: write_rows(out.path / "dialogs.jsonl", []), "dialogs"), {},
                              key="reject-2")  # fmt: skip
    with pytest.raises(SystemExit) as done:
        main(["run", str(config), "--set", "post_training.rounds=3", "--set", "quantization=[]"])
    assert done.value.code == 0
    return path, old


def test_every_round_asks_other_prompts_and_makes_another_model(three_rounds):
    """What an earlier layout has left stays, beside the new one."""
    path, old = three_rounds
    made = RunDir(path).current()
    models = {made[f"average-{n}"].file("model.safetensors").read_bytes() for n in (1, 2, 3)}
    assert len(models) == 3
    asked = [
        frozenset(row["prompt"] for row in read_rows(made[f"{stage}-{n}"].file("samples.jsonl")))
        for n in (1, 2, 3)
        for stage in ("reject", "preferences")
    ]
    assert len(set(asked)) == 6, "no two stages ask the same prompts"
    assert made["reject-2"].location != old.location
    assert old.file("dialogs.jsonl").exists()


def test_the_report_of_several_rounds_has_the_curves_of_all(three_rounds):
    path, _ = three_rounds
    report = json.loads((path / "report.json").read_text())
    made = RunDir(path).current()
    rounds = {f"sft-{n}": made[f"sft-{n}"].manifest.metrics["steps"] for n in (1, 2, 3)}
    drawn = report["curves"]["loss"]
    assert {"pretrain", *rounds} <= drawn.keys() <= {"pretrain", *rounds, *(f"prefer-{n}" for n in (1, 2, 3))}
    assert {key: drawn[key][-1][0] for key in rounds} == rounds
    assert report["loss"].keys() <= {"pretrain", "sft", "prefer"}, "names that were public stay"
    page = (path / "report.html").read_text()
    for number in (1, 2, 3):
        assert f"sft-{number}" in page
        assert f"rewards of reject-{number}" in page


def test_the_report_says_what_was_made_when_and_from_what(finished):
    _, run = finished
    report = json.loads((run.path / "report.json").read_text())
    assert report["made"]["versions"] == [llama3.__version__]
    assert report["made"]["date"] == max(a.manifest.created for a in run.artifacts.values())
    stages = {row["key"]: row for row in report["stages"]}
    assert list(stages) == list(run.artifacts)
    assert all(row["seconds"] > 0 for row in stages.values())
    assert report["made"]["seconds"] == pytest.approx(sum(row["seconds"] for row in stages.values()), abs=0.01)
    assert list(report["models"]) == ["base", "sft", "final", "int8"]
    assert report["models"]["final"]["artifact"] == run.artifacts["final"].hash
    assert report["verdict"]["state"] == "none"
    for example in report["examples"]:
        assert example["expected"]
        assert example["scores"].keys() == example["answers"].keys()


BOUNCER = """
from llama3.plugins import GuardSpec, hookimpl
from pydantic import BaseModel


@hookimpl
def llama3_guards():
    return [GuardSpec(name="bouncer", factory="bouncer:Guard", options="bouncer:Options", stages=frozenset({"output"}))]


class Options(BaseModel):
    words: list[str]


class Guard:
    def __init__(self, options): ...

    def open(self): ...

    def check(self, x): ...

    def close(self): ...
"""


@pytest.fixture
def bouncer(site):
    """A third party's guard, version 1.0; calling the fixture installs another version in its place."""

    def install(version: str) -> None:
        shutil.rmtree(site.path / "bouncer-1.0.dist-info", ignore_errors=True)
        site.add("bouncer", BOUNCER, version=version)
        importlib.invalidate_caches()
        discover.cache_clear()

    install("1.0")
    yield install
    discover.cache_clear()


def test_every_guard_stands_in_the_plugins_the_release_and_its_lineage(finished, bouncer):
    """And another version of a guard is another release, of the same model."""
    folder, run = finished
    policy = "{input: prompt_injection, output: {any: [{guard: {name: bouncer, words: [fight]}}]}}"
    guarded = llama3.run(folder / "small.yaml", [f"safety.policy={policy}"])
    expected = {("bouncer", "bouncer", "1.0"), ("prompt_injection", "llama3", llama3.__version__)}
    used = lambda rows: {(r["name"], r["dist"], r["version"]) for r in rows if r["family"] == "guards"}
    assert used(json.loads((run.path / "plugins.json").read_text())) == expected
    assert used(use.model_dump() for use in guarded.artifacts["release"].manifest.plugins) == expected
    (release,) = [node for node in trace(run.path) if node.manifest.type == "release"]
    assert used(release.to_json()["plugins"]) == expected

    bouncer("1.1")
    again = llama3.run(folder / "small.yaml", [f"safety.policy={policy}"])
    changed = {key for key, artifact in again.artifacts.items() if artifact.hash != guarded.artifacts[key].hash}
    assert changed == {"release"}
    llama3.run(folder / "small.yaml")


def test_the_release_loads_everywhere(finished):
    _, run = finished
    folder = run.artifacts["release"].path
    for name in ("README.md", "policy.json", "lineage.json", "int8"):
        assert (folder / name).exists()
    measured = load_model(run.artifacts["final"].path).state_dict()
    for name, tensor in load_model(folder).state_dict().items():
        assert torch.equal(tensor, measured[name]), "not the weights that were evaluated"
    answers_as_transformers(folder, ["What is 1 plus 1?"], max_tokens=8)


def test_lineage_leads_to_the_corpus(finished):
    _, run = finished
    nodes = [node for root in trace(run.path) for node in root.walk()]
    assert all(node.state == "ok" for node in nodes)
    assert {"corpus", "tokenizer", "shards", "checkpoint", "dialogs", "preferences"} <= {
        node.manifest.type for node in nodes if node.manifest
    }


def test_killed_at_random_moments_it_ends_with_the_same_hashes(finished, tmp_path):
    folder, run = finished
    config = write_config(tmp_path, data__sources=[{"name": "files", "path": str(folder / "text")}])
    rng = random.Random(7)
    kills = 0
    for _ in range(4):
        process = start(config)
        time.sleep(rng.uniform(0.3, 3))
        if process.poll() is not None:
            break
        process.send_signal(signal.SIGKILL)
        process.communicate()
        kills += 1
    process = start(config)
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    assert kills > 0
    assert hashes(tmp_path / "runs" / "small") == hashes(run.path)


KILLED = """
import os, signal, sys
from llama3.artifacts.run import RunDir
from llama3.cli import main
from llama3.training.checkpoint import CheckpointStore


def killed_after(owner, name, is_the_moment):
    call = getattr(owner, name)

    def called(self, first, *rest, **named):
        made = call(self, first, *rest, **named)
        if is_the_moment(first):
            os.kill(os.getpid(), signal.SIGKILL)
        return made

    setattr(owner, name, called)


if sys.argv[1] == "between":
    killed_after(RunDir, "execute", lambda stage: stage.name == "shard")
else:
    killed_after(CheckpointStore, "commit", lambda step: step == 4)
main(["run", sys.argv[2]])
"""


def test_killed_between_stages_and_inside_one_it_ends_with_the_same_hashes(finished, tmp_path):
    folder, run = finished
    config = write_config(tmp_path, data__sources=[{"name": "files", "path": str(folder / "text")}])
    small = tmp_path / "runs" / "small"
    for moment in ("between", "inside"):
        process = start(config, command=("-c", KILLED, moment))
        _, errors = process.communicate(timeout=240)
        assert process.returncode == -signal.SIGKILL, errors
        assert hashes(small).keys() == {"curate", "tokenizer", "shard"}
    assert list(small.glob("scratch/pretrain-*/checkpoints/step-4/COMMIT"))
    process = start(config)
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    assert hashes(small) == hashes(run.path)


def test_ctrl_c_keeps_what_is_finished(finished, tmp_path):
    folder, _ = finished
    source = {"name": "files", "path": str(folder / "text")}
    config = write_config(tmp_path, data__sources=[source], pretrain__phases=[{"steps": 100_000}])
    process = start(config)
    deadline = time.monotonic() + 120
    metrics = tmp_path / "runs" / "small" / "metrics.jsonl"
    while not metrics.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert "run the same command again" in errors
    assert {"curate", "tokenizer", "shard"} <= hashes(tmp_path / "runs" / "small").keys()


def test_two_runs_in_one_directory_are_refused(finished):
    folder, run = finished
    with RunDir(run.path), pytest.raises(ArtifactError, match="L3-RUN-001"):
        llama3.run(folder / "small.yaml")


def test_a_damaged_artifact_is_set_aside_and_made_again(finished):
    folder, run = finished
    before = hashes(run.path)
    weights = run.artifacts["average-1"].location / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    llama3.run(folder / "small.yaml")
    assert hashes(run.path) == before
    assert any((run.path / "damaged").iterdir())


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"data__sources": [{"name": "files", "path": "/no/such/folder"}]}, "L3-SRC-001"),
        ({"data__sources": [{"name": "fils", "path": "x"}]}, "L3-PLG-011"),
        ({"tokenizer__path": "/no/such/tokenizer.json"}, "tokenizer"),
        ({"model__dim": 33}, "model"),
        ({"pretrain__seq_len": 4096}, "seq_len"),
    ],
)
def test_bad_input_is_refused_before_work(finished, tmp_path, change, code):
    folder, _ = finished
    config = write_config(tmp_path, **({"data__sources": [{"name": "files", "path": str(folder / "text")}]} | change))
    process = start(config)
    _, errors = process.communicate(timeout=120)
    assert process.returncode in (2, 4), errors
    assert code in errors
    assert "Traceback" not in errors


def test_without_post_training_the_base_model_is_released(finished, tmp_path):
    folder, _ = finished
    config = write_config(tmp_path, data__sources=[{"name": "files", "path": str(folder / "text")}])
    run = llama3.run(config, ["post_training.rounds=0", "quantization=[]"])
    assert list(run.report["pass_rate"]) == ["base", "final"]
    assert "reject-1" not in run.artifacts


def test_an_empty_source_is_a_config_error(tmp_path):
    (tmp_path / "text").mkdir()
    with pytest.raises(ConfigError):
        llama3.run(write_config(tmp_path))


def test_two_processes_walk_the_same_recipe(finished, tmp_path):
    folder, run = finished
    config = write_config(tmp_path, data__sources=[{"name": "files", "path": str(folder / "text")}])
    path = os.pathsep.join(part for part in sys.path if part)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "llama3"]
    done = started.run(
        [*command, "run", str(config), "--set", "parallelism.dp=fsdp"],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path},
    )
    # A gloo process may abort on its way out, after everything is done: judge by what was written.
    report = tmp_path / "runs" / "small" / "report.json"
    assert report.exists(), done.stderr[-3000:]
    single = run.artifacts["pretrain"].metrics
    double = json.loads((tmp_path / "runs/small/artifacts/pretrain/manifest.json").read_text())["metrics"]
    assert double["loss"] == pytest.approx(single["loss"], abs=1e-4)
    assert sorted(hashes(tmp_path / "runs" / "small")) == sorted(STAGES)
