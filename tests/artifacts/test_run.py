"""The run directory: skip, rebuild, damage, logs, lineage."""

from __future__ import annotations

import io
import json
import re
import resource
import shutil
from pathlib import Path

import pytest
from pydantic import BaseModel
from rich.console import Console

from llama3.artifacts import Artifact, CorpusArtifact, PluginUse, Stage, TokenizerArtifact, stage
from llama3.artifacts.files import (
    append_json_line,
    atomic_directory,
    read_json_lines,
    sweep,
    write_bytes_atomic,
)
from llama3.artifacts.lineage import render, trace
from llama3.artifacts.progress import Display
from llama3.artifacts.run import RunDir
from llama3.errors import ArtifactError


class Options(BaseModel):
    text: str = "one two three"


@stage(output="corpus")
def curate(*, options: Options, out):
    (out.path / "text.txt").write_text(options.text)
    out.metrics["funnel"] = {"read": {"notes": {"documents": 9}}, "train": {"notes": {"documents": 1}}}
    calls.append("curate")


@stage(output="tokenizer")
def tokenizer(corpus: CorpusArtifact, *, out):
    words = corpus.file("text.txt").read_text().split()
    (out.path / "words.json").write_text(json.dumps(words))
    out.metrics["words"] = len(words)
    calls.append("tokenizer")


calls: list[str] = []


@pytest.fixture
def run_dir(tmp_path):
    calls.clear()
    with RunDir(tmp_path / "run", Display.silent()) as run:
        yield run


def both(run: RunDir, options: Options | None = None) -> Artifact:
    options = options or Options()
    return run.execute(tokenizer, {"corpus": run.execute(curate, {}, options)})


def kinds(run: RunDir) -> list[str]:
    return [row["kind"] for row in run.rows("events")]


def test_equal_requests_are_skipped_and_changed_ones_made_beside(run_dir):
    first = both(run_dir)
    assert both(run_dir).hash == first.hash
    assert calls == ["curate", "tokenizer"]
    other = both(run_dir, Options(text="four"))
    assert calls == ["curate", "tokenizer"] * 2
    assert other.metrics == {"words": 1}
    assert run_dir.current()["tokenizer"].hash == other.hash
    assert both(run_dir).hash == first.hash, "the first is still there"
    assert run_dir.current()["tokenizer"].hash == first.hash
    assert calls == ["curate", "tokenizer"] * 2


def test_a_run_that_was_copied_without_its_links_goes_on(run_dir, tmp_path):
    first = both(run_dir)
    run_dir.close()
    copied = RunDir(shutil.copytree(run_dir.path, tmp_path / "copied"), Display.silent())
    assert not (copied.artifacts / "tokenizer").is_symlink()
    with copied:
        assert both(copied).hash == first.hash
    assert (copied.artifacts / "tokenizer").is_symlink()
    assert (copied.damaged / "tokenizer-1" / "manifest.json").is_file(), "what lay there is kept"
    assert calls == ["curate", "tokenizer"]


def test_nothing_is_made_for_damage_that_is_not_there(run_dir):
    both(run_dir)
    assert {path.name for path in run_dir.path.iterdir() if path.is_dir()} == {"artifacts", "scratch"}


def test_a_plugin_of_another_version_makes_a_new_artifact(run_dir):
    use = PluginUse(family="filters", name="gopher", dist="llama3", version="1")
    first = run_dir.execute(curate, {}, Options(), plugins=[use])
    second = run_dir.execute(curate, {}, Options(), plugins=[use.model_copy(update={"version": "2"})])
    assert first.hash != second.hash
    assert second.manifest.plugins[0].version == "2"


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove", "manifest", "no manifest"])
def test_a_damaged_artifact_is_kept_aside_and_made_again(run_dir, damage):
    good = both(run_dir)
    corpus = run_dir.current()["curate"].location
    payload, manifest = corpus / "text.txt", corpus / "manifest.json"
    if damage == "flip":
        payload.write_text("one two threE")
    elif damage == "truncate":
        payload.write_text("one")
    elif damage == "remove":
        payload.unlink()
    elif damage == "manifest":
        manifest.write_text(manifest.read_text()[:-20])
    else:
        manifest.unlink()
    damaged = {path.name: path.read_bytes() for path in corpus.iterdir()}
    assert both(run_dir).hash == good.hash, "rebuilt to the same identity, so the stage after it is skipped"
    assert calls == ["curate", "tokenizer", "curate"]
    (aside,) = run_dir.damaged.iterdir()
    assert {path.name: path.read_bytes() for path in aside.iterdir()} == damaged
    assert "artifact_damaged" in kinds(run_dir)


def test_a_failing_stage_leaves_nothing_visible_but_its_scratch(run_dir):
    fails = [True]

    @stage(output="report")
    def fragile(*, out):
        progress = out.scratch / "progress"
        if fails.pop() if fails else False:
            progress.write_text("half")
            (out.path / "half").write_text("half")
            raise ZeroDivisionError("a bug in the stage")
        (out.path / "whole").write_text(progress.read_text() + " and half")

    with pytest.raises(ZeroDivisionError):
        run_dir.execute(fragile, {})
    assert [path.name for path in run_dir.artifacts.iterdir()] == []
    assert kinds(run_dir)[-1] == "stage_failed"
    made = run_dir.execute(fragile, {})
    assert made.file("whole").read_text() == "half and half"
    assert list(run_dir.scratch.iterdir()) == []


def test_inputs_are_checked_before_work_starts(run_dir):
    corpus = run_dir.execute(curate, {}, Options())
    with pytest.raises(ArtifactError, match="L3-ART-009"):
        run_dir.execute(tokenizer, {})
    with pytest.raises(ArtifactError, match="L3-ART-009"):
        run_dir.execute(tokenizer, {"corpus": corpus, "dialogs": corpus})

    @stage(output="report")
    def wrong(corpus: TokenizerArtifact, *, out):
        calls.append("wrong")

    with pytest.raises(ArtifactError, match="this is a corpus, not a tokenizer"):
        run_dir.execute(wrong, {"corpus": corpus})
    with pytest.raises(ValueError, match="unknown artifact types"):
        Stage("typo", print, "corpsu")
    assert calls == ["curate"]


def test_one_writer_per_run_directory(run_dir):
    with pytest.raises(ArtifactError, match="L3-RUN-001"):
        RunDir(run_dir.path).open()
    run_dir.close()
    with RunDir(run_dir.path, Display.silent()) as again:
        both(again)


def test_an_unusable_run_directory_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match="L3-RUN-002"):
        RunDir(tmp_path / "file").open()


def test_logs_survive_torn_lines(run_dir):
    path = run_dir.path / "metrics.jsonl"
    append_json_line(path, {"step": 1, "loss": 2.5})
    with open(path, "ab") as file:
        file.write(b'{"step": 2, "lo')
    append_json_line(path, {"step": 3})
    assert [row["step"] for row in run_dir.rows("metrics")] == [1, 3]
    assert list(read_json_lines(Path("does not exist"))) == []


def test_what_was_asked_is_written_down(run_dir):
    use = PluginUse(family="filters", name="gopher", dist="llama3", version="1")
    run_dir.describe("run:\n  name: x\n", {"run.name": "file"}, [use])
    assert (run_dir.path / "config.yaml").read_text() == "run:\n  name: x\n"
    assert json.loads((run_dir.path / "plugins.json").read_text())[0]["name"] == "gopher"
    assert "python" in json.loads((run_dir.path / "env.json").read_text())


def test_atomic_directory_appears_whole_or_not_at_all(tmp_path):
    target = tmp_path / "out"

    def fail() -> None:
        with atomic_directory(target) as folder:
            (folder / "half").write_text("x")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert list(tmp_path.iterdir()) == []
    with atomic_directory(target) as folder:
        (folder / "whole").write_text("x")
    with pytest.raises(FileExistsError), atomic_directory(target):
        pass
    assert (target / "whole").read_text() == "x"
    (tmp_path / "out.tmp-0badf00d").mkdir()
    (tmp_path / "file.tmp-1").write_text("")
    assert sweep(tmp_path) == ["file.tmp-1", "out.tmp-0badf00d"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_lineage_leads_back_to_the_sources(run_dir):
    made = both(run_dir)
    for start in (run_dir.path, made.location, made.location / "words.json", run_dir.artifacts / "tokenizer"):
        (node,) = trace(start, verify=True)
        assert node.hash == made.hash
        (corpus,) = node.parents
        assert (corpus.role, corpus.state, corpus.manifest.type) == ("corpus", "ok", "corpus")
    console = Console(file=io.StringIO(), width=200)
    console.print(render(node))
    text = console.file.getvalue()
    assert "tokenizer by tokenizer" in text
    assert "source notes  documents 1" in text
    tree = json.loads(json.dumps(node.to_json()))
    assert tree["parents"][0]["hash"] == run_dir.current()["curate"].hash


def test_lineage_tells_of_damaged_and_missing_parents(run_dir, tmp_path):
    made = both(run_dir)
    corpus = run_dir.current()["curate"]
    corpus.path.joinpath("text.txt").write_text("one two threE")
    (node,) = trace(made.location, verify=True)
    assert node.parents[0].state == "damaged"
    corpus.location.rename(tmp_path / "moved")
    (node,) = trace(made.location)
    assert node.parents[0].state == "missing"
    (node,) = trace(made.location, search=[tmp_path])
    assert node.parents[0].state == "ok", "found by hash where it was moved to"
    with pytest.raises(ArtifactError, match="L3-ART-001"):
        trace(tmp_path / "nowhere")


def test_a_full_disk_is_told_with_the_name_of_the_file(tmp_path):
    log, file = tmp_path / "log.jsonl", tmp_path / "file"
    append_json_line(log, {"step": 1})
    write_bytes_atomic(file, b"old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30, limits[1]))
    try:
        with pytest.raises(OSError, match=re.escape(f"File too large: '{log}'")):
            append_json_line(log, {"step": 2, "text": "x" * 100})
        with pytest.raises(OSError, match=re.escape(f"File too large: '{file}'")):
            write_bytes_atomic(file, bytes(100))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    append_json_line(log, {"step": 3})
    assert list(read_json_lines(log)) == [{"step": 1}, {"step": 3}]
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["file", "log.jsonl"]
    assert file.read_bytes() == b"old"
