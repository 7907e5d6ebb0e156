"""A run works in a directory of its own: what it did not make it neither overwrites nor removes."""

from __future__ import annotations

import pytest

from llama3.artifacts import stage
from llama3.artifacts.progress import Display
from llama3.artifacts.run import RunDir
from llama3.errors import ArtifactError


@stage(output="report")
def note(*, out):
    (out.path / "note.txt").write_text("done")


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@pytest.mark.parametrize(
    "names",
    [
        ["config.yaml"],
        [".lock", "notes.txt"],
        ["artifacts/mine.txt", "config.yaml"],
        ["scratch/note-ideas/a", "x.tmp-draft"],
        ["x.tmp-0badf00d"],
    ],
)
def test_a_directory_that_no_run_made_is_refused_as_it_is(tmp_path, names):
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("mine")
    before = contents(tmp_path)
    with pytest.raises(ArtifactError, match="L3-RUN-005"):
        RunDir(tmp_path, Display.silent()).execute(note, {})
    assert contents(tmp_path) == before


def test_in_a_runs_directory_only_its_own_leftovers_are_swept(tmp_path):
    with RunDir(tmp_path / "run", Display.silent()) as run:
        run.execute(note, {})
    theirs = ["thesis.tmp-draft", "x.tmp-1234", "my.json.tmp-0badf00d", "scratch/note-ideas", "artifacts/mine.tmp-old"]
    ours = ["report.json.tmp-0badf00d", "artifacts/note-0123456789ab.tmp-0badf00d", "artifacts/note.tmp-0badf00d"]
    for name in (*theirs, *ours):
        (run.path / name).write_text("x")
    with RunDir(run.path, Display.silent()) as again:
        again.execute(note, {})
    assert all((run.path / name).exists() for name in theirs)
    assert not any((run.path / name).exists() for name in ours)


@pytest.mark.parametrize("made", [[], [".lock"], [".lock", "artifacts"]])
def test_a_directory_that_a_killed_run_began_is_gone_on_with(tmp_path, made):
    for name in made:
        (tmp_path / name).mkdir() if name == "artifacts" else (tmp_path / name).touch()
    with RunDir(tmp_path, Display.silent()) as run:
        run.execute(note, {})
