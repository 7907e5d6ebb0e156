"""A suite that fails spoils itself only, and the same command measures it again, and nothing else."""

from __future__ import annotations

import json
import multiprocessing
import random
import shutil
import signal
from collections import Counter
from pathlib import Path

import pytest
import yaml

import llama3
from llama3.artifacts.lineage import trace
from llama3.artifacts.run import RunDir
from llama3.cli import main
from llama3.plugins.registry import discover

PLUGIN = '''
import os
import signal
from pathlib import Path

from pydantic import BaseModel

from llama3.evaluators import Result
from llama3.plugins import EvaluatorSpec, hookimpl


class Options(BaseModel):
    state: str


class OutOfMemoryError(RuntimeError):
    pass


class Moody:
    """Fails as the file `mood` says, and notes that it was asked."""

    def __init__(self, options):
        self.state = Path(options.state)

    def run(self, subject, limit, seed):
        with open(self.state / "asked", "a") as file:
            file.write(self.state.name + "\\n")
        mood = (self.state / "mood").read_text()
        if mood == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if mood == "memory":
            raise OutOfMemoryError("no memory")
        if mood == "not a number":
            return Result(metrics={"share": float("nan")})
        if mood:
            raise ConnectionError(f"{mood} <at {id(self):#x}>")
        return Result(metrics={"share": 0.25}, samples=[{"id": str(n), "score": n % 4 == 0} for n in range(8)])


@hookimpl
def llama3_evaluators():
    return [EvaluatorSpec(name="moody", factory="acme_moody:Moody", options="acme_moody:Options")]
'''
TRAIN = {"steps": 2, "batch": 2, "seq_len": 32, "precision": "fp32", "warmup": 0, "log_every": 1}
SUITES = ("bright", "dark", "late")
MODELS = ("base", "final")


def config(folder: Path, text: Path, tasks: list[object]) -> Path:
    path = folder / "moody.yaml"
    path.write_text(yaml.safe_dump({
        "run": {"name": "moody", "dir": str(folder / "runs"), "threads": 1},
        "data": {"sources": [{"name": "files", "path": str(text)}], "filters": [], "held_out": 0.2},
        "tokenizer": {"vocab_size": 300, "num_special": 16},
        "model": {"preset": "tiny", "dim": 32, "n_layers": 1, "n_heads": 2, "n_kv_heads": 1, "ffn_dim": 32,
                  "max_seq_len": 64},
        "pretrain": TRAIN,
        "post_training": {"rounds": 0},
        "quantization": [],
        "evaluation": {"tasks": tasks},
    }))  # fmt: skip
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """Text, and a run of it: its first stages are those of all tests."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "text").mkdir()
    rng = random.Random(0)
    for n in range(12):
        (folder / "text" / f"{n}.txt").write_text(" ".join(f"word{rng.randrange(300)} is here" for _ in range(200)))
    llama3.run(config(folder, folder / "text", ["bits_per_byte"]))
    return folder


class Place:
    """A run whose suites have moods."""

    def __init__(self, folder: Path, trained: Path) -> None:
        self.folder, self.run = folder, folder / "runs" / "moody"
        shutil.copytree(trained / "runs", folder / "runs", symlinks=True)
        for suite in SUITES:
            (folder / suite).mkdir()
            self.mood(suite, "")
        tasks = [{"name": "moody", "suite": suite, "state": str(folder / suite)} for suite in SUITES]
        self.config = config(folder, trained / "text", ["bits_per_byte", *tasks])

    def mood(self, suite: str, words: str) -> None:
        (self.folder / suite / "mood").write_text(words)

    def asked(self) -> dict[str, int]:
        """How often each suite was measured, of all models together, since it was asked last."""
        counts: Counter[str] = Counter()
        for suite in SUITES:
            path = self.folder / suite / "asked"
            counts[suite] += len(path.read_text().split()) if path.exists() else 0
            path.unlink(missing_ok=True)
        return +counts

    def report(self) -> dict:
        return json.loads((self.run / "report.json").read_text())

    def events(self, kind: str) -> list[dict]:
        return [event for event in RunDir(self.run).rows("events") if event["kind"] == kind]


@pytest.fixture
def place(site, trained, tmp_path) -> Place:
    site.add("acme-moody", PLUGIN, module="acme_moody")
    discover.cache_clear()
    yield Place(tmp_path, trained)
    discover.cache_clear()


def call(*words: object) -> int:
    with pytest.raises(SystemExit) as caught:
        main(list(map(str, words)))
    return int(caught.value.code or 0)


def fork(config: Path) -> int | None:
    """The exit code of a process that runs a config."""
    child = multiprocessing.get_context("fork").Process(target=llama3.run, args=(config,))
    child.start()
    child.join()
    return child.exitcode


def artifacts(run: Path) -> dict[str, str]:
    """What lies under the artifacts, and what each link names."""
    return {path.name: str(path.readlink()) if path.is_symlink() else "" for path in (run / "artifacts").iterdir()}


def test_the_same_command_measures_what_failed_and_nothing_else(place, capsys):
    place.mood("dark", "the server is away")
    assert call("run", place.config) == 0
    told = capsys.readouterr().err
    assert "suite dark failed: ConnectionError: the server is away" in told
    assert "the same command measures it again" in told
    assert place.asked() == {"bright": 2, "dark": 2, "late": 2}
    failed = RunDir(place.run).current()
    report = place.report()
    assert report["evaluations"]["final"]["bright"]["share"] == report["evaluations"]["final"]["late"]["share"] == 0.25
    (line,) = [line for line in report["verdict"]["lines"] if "dark" in line]
    assert line.startswith("Suite dark of base, final could not be measured: ConnectionError: the server is away")
    assert "The same command measures it again." in line
    assert line.replace("<", "&lt;").replace(">", "&gt;") in (place.run / "report.html").read_text()

    place.mood("dark", "")
    assert call("run", place.config) == 0
    assert "again: dark" in capsys.readouterr().err
    assert place.asked() == {"dark": 2}
    made = RunDir(place.run).current()
    for model in MODELS:
        old, new = failed[f"evaluate-{model}"], made[f"evaluate-{model}"]
        assert [suite for suite, row in old.metrics.items() if "error" in row] == ["dark"]
        assert new.metrics == {**old.metrics, "dark": old.metrics["late"]}
        assert json.loads(new.file("results.json").read_text()) == new.metrics
        rows = [json.loads(line)["suite"] for line in new.file("samples.jsonl").open()]
        assert list(dict.fromkeys(rows)) == ["bits_per_byte", *SUITES], "in the order of the config"
        kept = [line for line in new.file("samples.jsonl").open() if json.loads(line)["suite"] != "dark"]
        assert kept == list(old.file("samples.jsonl").open())
    parents = {parent.role: parent.hash for parent in made["release"].manifest.parents}
    assert parents["evaluation"] == made["evaluate-final"].hash, "what follows from it is made anew"
    assert made["pretrain"].hash == failed["pretrain"].hash
    report = place.report()
    assert not [line for line in report["verdict"]["lines"] if "could not be measured" in line]
    assert report["evaluations"] == {model: made[f"evaluate-{model}"].metrics for model in MODELS}
    done = [event for event in place.events("stage_done") if event["key"] == "evaluate-final"]
    seconds = [event["seconds"] for event in done[1:]]  # the first is of the run that all tests share
    took = {stage["key"]: stage["seconds"] for stage in report["stages"]}
    assert took["evaluate-final"] == pytest.approx(sum(seconds)), "both attempts"
    (older,) = trace(failed["release"].location)
    assert {node.state for node in older.walk()} == {"ok"}, "nothing finished is removed"

    before = artifacts(place.run)
    assert call("run", place.config) == 0
    assert place.asked() == {}
    assert "nothing to do" in capsys.readouterr().err
    assert artifacts(place.run) == before
    assert place.report() == report


def test_what_fails_again_stays_as_it_is(place, capsys):
    place.mood("dark", "the server is away")
    llama3.run(place.config)
    before, report = artifacts(place.run), place.report()
    for _ in range(2):
        place.asked(), capsys.readouterr()
        assert call("run", place.config) == 0
        assert place.asked() == {"dark": 2}
        assert "suite dark failed: ConnectionError: the server is away" in capsys.readouterr().err
        assert artifacts(place.run) == before
        assert place.report() == report
        assert not list((place.run / "scratch").iterdir())
    place.mood("dark", "who are you?")
    llama3.run(place.config)
    (line,) = [line for line in place.report()["verdict"]["lines"] if "dark" in line]
    assert "who are you?" in line, "what is told is what failed last"


def test_one_suite_is_mended_and_the_other_is_not(place):
    place.mood("dark", "the server is away")
    place.mood("late", "not a number")
    llama3.run(place.config)
    place.mood("late", "")
    place.asked()
    llama3.run(place.config)
    assert place.asked() == {"dark": 2, "late": 2}
    place.mood("dark", "")
    llama3.run(place.config)
    assert place.asked() == {"dark": 2}
    names = [name.rpartition("-")[2] for name in artifacts(place.run) if name.startswith("evaluate-final-")]
    assert sorted(name for name in names if len(name) < 12) == ["2", "3"]
    assert not [row for row in place.report()["evaluations"]["final"].values() if "error" in row]


def test_what_was_measured_before_memory_ended_is_kept(place):
    place.mood("late", "memory")
    with pytest.raises(RuntimeError, match="no memory"):
        llama3.run(place.config)
    assert place.asked() == {"bright": 1, "dark": 1, "late": 1}
    place.mood("late", "")
    llama3.run(place.config)
    assert place.asked() == {"bright": 1, "dark": 1, "late": 2}, "but of the final model all"


def test_a_second_attempt_that_is_killed_goes_on(place):
    for suite in SUITES:
        place.mood(suite, "the server is away")
    llama3.run(place.config)
    place.mood("bright", "")
    place.mood("dark", "")
    place.mood("late", "kill")
    place.asked()
    assert fork(place.config) == -signal.SIGKILL
    assert place.asked() == {"bright": 1, "dark": 1, "late": 1}
    current = RunDir(place.run).current()["evaluate-base"]
    assert "error" in current.metrics["dark"], "nothing unfinished is to be seen"
    (kept,) = (place.run / "scratch").glob("*/suite-1.json")
    kept.write_text("{")  # of `bright`
    place.mood("late", "")
    llama3.run(place.config)
    assert place.asked() == {"bright": 2, "dark": 1, "late": 2}, "the final model was not measured yet"
    assert not [row for row in place.report()["evaluations"]["base"].values() if "error" in row]


def test_a_damaged_evaluation_is_measured_anew(place):
    place.mood("dark", "the server is away")
    llama3.run(place.config)
    place.mood("dark", "")
    llama3.run(place.config)
    made = RunDir(place.run).current()["evaluate-final"]
    assert made.location.name.endswith("-2")
    (made.location / "samples.jsonl").write_text("")
    place.asked()
    llama3.run(place.config)
    assert place.asked() == {"dark": 1}, "the one before it is still sound, and lacks this one"
    assert RunDir(place.run).current()["evaluate-final"].hash == made.hash


def test_a_model_outside_of_a_run(place, capsys):
    """`llama3 evaluate` too, whatever suites were asked for in between."""
    llama3.run(place.config)
    place.asked()
    words = ["evaluate", place.run, "-c", place.config, "--out", place.folder / "out"]
    place.mood("dark", "the server is away")
    assert call(*words) == 1
    assert "the same command again" in capsys.readouterr().err
    assert place.asked() == dict.fromkeys(SUITES, 1)
    place.mood("dark", "")
    assert call(*words, "--suite", "dark") == 0
    assert place.asked() == {"dark": 1}
    assert call(*words) == 0
    assert place.asked() == {"dark": 1}
    assert call(*words) == 0
    assert place.asked() == {}
    told = json.loads((place.folder / "out" / "evaluation.json").read_text())
    assert told["suites"]["dark"]["share"] == told["suites"]["bright"]["share"] == 0.25


def test_the_sizes_of_a_herd(place):
    told = yaml.safe_load(place.config.read_text())
    told |= {"sizes": {"large": {}, "small": {"model": {"dim": 16}}}, "run": {**told["run"], "name": "herd"}}
    told["evaluation"]["tasks"] = told["evaluation"]["tasks"][:3]
    place.config.write_text(yaml.safe_dump(told))
    place.mood("dark", "the server is away")
    run = llama3.run(place.config)
    (line,) = run.report["herd"]["failed"]
    assert line.startswith("Suite dark of large-base, large-final, small-base, small-final could not be measured: ")
    assert "could not be measured" in (run.path / "report.html").read_text()
    assert place.asked() == {"bright": 4, "dark": 4}
    place.mood("dark", "")
    assert llama3.run(place.config).report["herd"]["failed"] == []
    assert place.asked() == {"dark": 4}
    assert "could not be measured" not in (run.path / "report.html").read_text()
