"""Lineage of many rounds: every artifact is looked at and told once, and the summary says all of it in a few rows."""

from __future__ import annotations

import json
import shutil

import pytest

from llama3.artifacts import Artifact, Checkpoint, CorpusArtifact, PluginUse, stage
from llama3.artifacts.lineage import summary, trace
from llama3.artifacts.run import RunDir
from llama3.cli import main

ROUNDS = 40
"""Paths to the first model double with each: far too many to walk."""


@stage(output="corpus")
def curate(*, out) -> None:
    (out.path / "text.txt").write_text("one two three")
    out.metrics["funnel"] = {"train": {"notes": {"documents": 3}}}


@stage(output="checkpoint")
def pretrain(corpus: CorpusArtifact, *, out) -> None:
    (out.path / "weights").write_text("base")


@stage(output="checkpoint")
def train(checkpoint: Checkpoint, *, out) -> None:
    (out.path / "weights").write_text("trained")


@stage(output="checkpoint")
def average(a: Checkpoint, b: Checkpoint, *, out) -> None:
    (out.path / "weights").write_text("mean")


@stage(output="release")
def release(checkpoint: Checkpoint, *, out) -> None:
    (out.path / "README.md").write_text("a card")


@stage(output="report")
def baselines(corpus: CorpusArtifact, *, out) -> None:
    (out.path / "results.json").write_text("{}")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    with RunDir(tmp_path_factory.mktemp("runs") / "many") as directory:
        corpus = directory.execute(
            curate, {}, plugins=[PluginUse(family="sources", name="files", dist="d", version="1")]
        )
        directory.execute(baselines, {"corpus": corpus})
        model = directory.execute(pretrain, {"corpus": corpus})
        for n in range(ROUNDS):
            other = directory.execute(train, {"checkpoint": model}, key=f"train-{n}")
            model = directory.execute(average, {"a": model, "b": other}, key=f"average-{n}")
        directory.execute(release, {"checkpoint": model})
    return directory


@pytest.fixture
def opened(monkeypatch):
    """Directories of the artifacts that were opened, in order."""
    places = []
    look = Artifact.__init__
    monkeypatch.setattr(Artifact, "__init__", lambda self, path: (places.append(path), look(self, path))[1])
    return places


def test_every_artifact_is_looked_at_once(run, opened):
    (made, report) = trace(run.path, verify=True)
    assert (made.manifest.type, report.manifest.type) == ("release", "report")
    nodes = list(made.walk())
    assert len({node.hash for node in nodes}) == len(nodes) == 2 * ROUNDS + 3
    assert len(opened) < 3 * (2 * ROUNDS + 4)


def test_the_tree_as_json_tells_every_artifact_once(run):
    tree = trace(run.path)[0].to_json()
    assert len(json.dumps(tree)) < 1000 * (3 * ROUNDS + 3)
    told, repeated, ahead = [], [], [tree]
    while ahead:
        node = ahead.pop()
        (repeated if node["repeated"] else told).append(node["hash"])
        assert not (node["repeated"] and node["parents"])
        assert node["type"]
        ahead.extend(node["parents"])
    assert len(told) == len(set(told)) == 2 * ROUNDS + 3
    assert set(repeated) < set(told)


def test_a_summary_comes_before_the_tree(run, capsys):
    with pytest.raises(SystemExit) as done:
        main(["lineage", str(run.path), "--verify"])
    assert done.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    told = dict(line.split("  ", 1) for line in lines[: lines.index("")])
    assert {name: facts.strip() for name, facts in told.items() if name not in ("made", "code")} == {
        "of": "release by release, report by baselines",
        "begins with": "notes: documents 3",
        "artifacts": f"{2 * ROUNDS + 4}: 1 release, {2 * ROUNDS + 1} checkpoint, 1 corpus, 1 report",
        "state": "all there, every byte verified",
        "plugins": "sources/files (d 1)",
    }
    assert told["made"]
    assert told["code"].strip().startswith("llama3 ")
    assert lines[lines.index("") + 1].startswith("release by release")


def test_the_summary_names_what_is_damaged_and_missing(tmp_path):
    with RunDir(tmp_path / "run") as directory:
        corpus = directory.execute(curate, {})
        model = directory.execute(pretrain, {"corpus": corpus})
        last = directory.execute(train, {"checkpoint": model})
    (model.location / "weights").write_text("changed size")
    corpus.location.rename(tmp_path / "elsewhere")
    rows = dict(summary(trace(last.location)))
    assert rows["state"] == f"1 damaged, 1 missing: {model.location.name}, {corpus.hash[:12]}"


def test_a_copy_without_links_is_told_what_to_do(run, tmp_path, capsys):
    copy = shutil.copytree(run.path, tmp_path / "copy")
    with pytest.raises(SystemExit) as ended:
        main(["lineage", str(copy)])
    told = capsys.readouterr().err
    assert (ended.value.code, "L3-ART-015" in told) == (1, True)
    example = told.partition("such as ")[2].split()[0]
    with pytest.raises(SystemExit) as ended:
        main(["lineage", example, "--verify"])
    assert not ended.value.code
    with RunDir(copy) as again:
        again.execute(curate, {}, plugins=[PluginUse(family="sources", name="files", dist="d", version="1")])
    assert [tree.manifest.stage for tree in trace(copy)] == ["curate"], "the same command links it again"
