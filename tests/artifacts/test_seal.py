"""What was written is what is read: a changed figure, an added file, a link and a lost seal are found and named."""

from __future__ import annotations

import json
import os
import shutil

import pytest

from llama3.artifacts import Artifact, CorpusArtifact, stage
from llama3.artifacts.artifact import COMMIT, MANIFEST, artifact_around
from llama3.artifacts.lineage import trace
from llama3.artifacts.progress import Display
from llama3.artifacts.run import RunDir
from llama3.errors import ArtifactError

made: list[str] = []


@stage(output="corpus")
def curate(*, out):
    (out.path / "part").mkdir()
    (out.path / "part" / "text.txt").write_text("one two")
    out.metrics |= {"rate": 0.5, "documents": 12}
    made.append("curate")


@stage(output="report")
def evaluate(corpus: CorpusArtifact, *, out):
    (out.path / "words.json").write_text(json.dumps(corpus.file("part/text.txt").read_text().split()))
    out.metrics |= {"rate": 0.25}
    made.append("evaluate")


@pytest.fixture
def run(tmp_path):
    made.clear()
    with RunDir(tmp_path / "run", Display.silent()) as opened:
        yield opened


def both(run: RunDir) -> Artifact:
    return run.execute(evaluate, {"corpus": run.execute(curate, {})})


def edit(artifact: Artifact, old: str, new: str) -> None:
    manifest = artifact.location / MANIFEST
    assert old in manifest.read_text()
    manifest.write_text(manifest.read_text().replace(old, new))


@pytest.mark.parametrize(("old", "new"), [('"rate": 0.25', '"rate": 0.95'), ('"stage": "evaluate"', '"stage": "x"')])
def test_a_changed_figure_of_a_manifest_is_damage(run, old, new):
    report = both(run)
    edit(report, old, new)
    with pytest.raises(ArtifactError, match=r"manifest\.json.*not the one that was written.*L3-ART-013"):
        Artifact(report.location)
    (node,) = trace(run.path, verify=True)
    assert node.state == "damaged"
    assert "L3-ART-013" in node.problem
    assert both(run).hash == report.hash, "made again, from the same request"
    assert made == ["curate", "evaluate", "evaluate"]
    assert [root.state for root in trace(run.path, verify=True)] == ["ok"]


def test_a_changed_parent_is_named_in_the_lineage(run):
    report = both(run)
    edit(run.current()["curate"], '"documents": 12', '"documents": 13')
    (node,) = trace(report.location)
    (parent,) = node.parents
    assert (parent.role, parent.state) == ("corpus", "damaged")
    assert "L3-ART-013" in parent.problem


@pytest.mark.parametrize("content", [None, b"", b"0" * 64, b"\xff"])
def test_a_lost_or_other_seal_is_damage(run, content):
    report = both(run)
    seal = report.location / COMMIT
    seal.unlink()
    if content is not None:
        seal.write_bytes(content)
    with pytest.raises(ArtifactError, match="L3-ART-013"):
        Artifact(report.location)
    assert any("L3-ART-013" in node.problem for root in trace(run.path) for node in root.walk())
    assert both(run).hash == report.hash


@pytest.mark.parametrize("kind", ["file", "hidden", "inside", "link", "linked folder", "link for a file"])
def test_what_the_manifest_does_not_list_is_never_read(run, tmp_path, kind):
    corpus = both(run).location.parent / "curate"
    folder, elsewhere = corpus.resolve(), tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "text.txt").write_text("one two")
    match kind:
        case "file":
            (folder / "chat_template.jinja").write_text("{{ evil }}")
        case "hidden":
            (folder / ".hidden").write_text("x")
        case "inside":
            (folder / "part" / "more.txt").write_text("x")
        case "link":
            (folder / "link.txt").symlink_to("part/text.txt")
        case "linked folder":
            shutil.rmtree(folder / "part")
            (folder / "part").symlink_to(elsewhere)
        case "link for a file":
            (folder / "part" / "text.txt").unlink()
            (folder / "part" / "text.txt").symlink_to(elsewhere / "text.txt")
    for look in (Artifact, artifact_around):
        with pytest.raises(ArtifactError, match=r"L3-ART-014|L3-ART-003"):
            look(folder)
    (node,) = trace(run.path, verify=True)
    assert node.parents[0].state == "damaged"


def test_a_stray_file_is_moved_out_and_nothing_is_made_again(run):
    report = both(run)
    (report.location / ".DS_Store").write_text("mine")
    assert both(run).hash == report.hash
    assert made == ["curate", "evaluate"]
    (aside,) = run.damaged.iterdir()
    assert aside.read_text() == "mine"
    assert "stray_file" in [row["kind"] for row in run.rows("events")]
    report.verify()


def test_the_artifact_around_a_path(run, tmp_path):
    corpus = both(run).location.parent / "curate"
    for path in (corpus, corpus / "part", corpus / "part" / "text.txt"):
        assert artifact_around(path).type == "corpus"
    assert artifact_around(tmp_path) is None
    (tmp_path / MANIFEST).write_text('{"name": "of some other program"}')
    assert artifact_around(tmp_path) is None


@pytest.mark.parametrize("kind", ["device", "pipe"])
def test_a_manifest_that_never_ends_makes_no_artifact(tmp_path, kind):
    if kind == "pipe":
        os.mkfifo(tmp_path / MANIFEST)
    else:
        (tmp_path / MANIFEST).symlink_to("/dev/zero")
    assert artifact_around(tmp_path / "model.safetensors") is None
    with pytest.raises(ArtifactError, match="L3-ART-002"):
        Artifact(tmp_path)
