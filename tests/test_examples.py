"""Every script of examples/ runs, in a process of its own, and what it asserts holds; no example is left out."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest
import started

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
SAYS = {
    "tokenizer_alone.py": r"saved and loaded: the same tokenizer",
    "dedup_alone.py": r"in capitals: goes, 100% of it is in page",
    "shards_alone.py": r"0000-mine.ds: the same 9 documents",
    "extract_alone.py": r"page: \d+ of \d+ characters are its main text",
    "analysis_alone.py": r"tale: stays\n.*\ntale nine times: goes by duplicate_line_fraction\n"
    r".*\nmenu: goes by words, stop_words\n.*\ntable: goes by digit_fraction\n",
    "synthetic_alone.py": r"turner: 8 of 8 answers can be used",
    "classifier_alone.py": r"100% of \d+ held-out texts are taken for what they are",
    "loader_alone.py": r"resumed and shared: the same rows",
    "custom_loop.py": r"step 150: loss [01]\.",
}
"""A script and what it prints when all is well."""


def run(script: str, *arguments: str) -> str:
    path = os.pathsep.join([str(ROOT), *filter(None, sys.path)])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(EXAMPLES / script), *arguments]
    done = started.run(command, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def shards(tmp_path) -> Path:
    """Token shards of a small corpus, as a run leaves them."""
    sys.path.insert(0, str(ROOT / "tests" / "data"))
    try:
        from token_plans import make_plan
    finally:
        sys.path.pop(0)
    make_plan(tmp_path / "shards")
    return tmp_path / "shards"


def test_every_script_is_run_here():
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(SAYS)


@pytest.mark.parametrize("script", [name for name in SAYS if name != "loader_alone.py"])
def test_a_script_runs(script):
    if script == "classifier_alone.py":
        pytest.importorskip("fasttext")
    assert re.search(SAYS[script], run(script))


def test_the_loader_reads_shards(shards):
    assert re.search(SAYS["loader_alone.py"], run("loader_alone.py", str(shards)))


def test_dedup_takes_files(tmp_path):
    text = " ".join(f"word{n}" for n in range(50))
    for name, content in (("a", text), ("b", text + " more"), ("c", "other")):
        (tmp_path / name).write_text(content)
    printed = run("dedup_alone.py", *(str(tmp_path / name) for name in "abc"))
    assert "2 of 3 stay" in printed
    assert re.search(r"b: goes, 9\d% of it is in .*a", printed)


def test_scripts_use_what_is_public():
    public = re.findall(r"^- \[`([\w.]+)`\]", (ROOT / "docs" / "api.md").read_text("utf-8"), re.MULTILINE)
    for path in EXAMPLES.glob("*.py"):
        used = re.findall(r"^from (llama3[\w.]*) import", path.read_text("utf-8"), re.MULTILINE)
        assert set(used) <= set(public), path.name
