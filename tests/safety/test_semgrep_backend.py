"""Semgrep as a judge beside our rules: the real one where it is installed, and executables that fail in every way."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from pathlib import Path

import pytest
import yaml

from llama3.config import load
from llama3.errors import PluginError
from llama3.plugins.registry import discover
from llama3.safety.engine import PolicyEngine

RULES = """
rules:
- {id: own-shell, languages: [python], severity: ERROR, message: a shell,
   metadata: {cwe: "CWE-78: OS Command Injection"}, pattern: my_own_shell(...)}
- {id: own-log, languages: [javascript], severity: WARNING, message: a log, pattern: my_own_log(...)}
"""
BAD = "```python\nx = 1\nmy_own_shell(x)  # nosemgrep\n```"
GOOD = "```python\nx = 1\nmy_other(x)\n```"
FINDING = {"check_id": "a.own-shell", "start": {"line": 2}, "end": {"line": 2},
           "extra": {"severity": "ERROR", "metadata": {"cwe": ["CWE-78: x"]}}}  # fmt: skip


@pytest.fixture
def rules(tmp_path):
    path = tmp_path / "rules.yaml"
    path.write_text(RULES)
    return str(path)


def engine_of(executable, *rules, **options):
    guard = {"name": "code_shield", "backend": "semgrep", "executable": str(executable), "rules": rules, **options}
    policy = {"output": {"guard": guard, "timeout_ms": 60_000}}
    return PolicyEngine(policy, lambda name, options: discover().build("guards", name, options))


@pytest.fixture
def script(tmp_path):
    """An executable that does this instead of scanning."""

    def write(*lines):
        path = tmp_path / "stand-in"
        path.write_text("\n".join(["#!/bin/sh", *lines]) + "\n")
        path.chmod(0o755)
        return path

    return write


def said(**changes):
    return json.dumps({"results": [], "errors": [], "paths": {"scanned": ["/some/code.py"]}, **changes})


def test_its_findings_stand_beside_ours(script, rules):
    stand_in = script(f"echo '{said(results=[FINDING])}'", "exit 1")
    with engine_of(stand_in, rules) as engine:
        decision = engine.decide("output", BAD)
        both = engine.decide("output", "```python\nimport os\nos.system(input())\n```")
    (verdict,) = decision.verdicts
    assert (decision.action, verdict.categories["semgrep"]) == ("block", 1.0)
    assert "semgrep (CWE-78): own-shell" in verdict.reason
    assert [BAD[span.start : span.end] for span in verdict.spans] == ["my_own_shell(x)  # nosemgrep\n"]
    assert {"semgrep CWE-78", "shell CWE-78"} <= {span.category for span in both.verdicts[0].spans}


def test_text_without_code_is_not_asked_about(script, rules):
    with engine_of(script("exit 2"), rules) as engine:
        assert not engine.decide("output", "Rain is water that falls from clouds.").blocked


FAILURES = {
    "another exit code": ("echo '" + said() + "'", "exit 2"),
    "killed": ("kill -9 $$",),
    "nothing": ("exit 0",),
    "no JSON": ("echo fine",),
    "other JSON": ("echo '[]'",),
    "half of it": ("echo '{\"results\": []}'",),
    "nested": ("head -c 100000 /dev/zero | tr '\\0' '['",),
    "it could not parse": ("echo '" + said(errors=[{"type": "Syntax error"}]) + "'",),
    "a finding of nothing": ("echo '" + said(results=[{}]) + "'",),
    "nothing was scanned": ("echo '" + said(paths={"scanned": []}) + "'",),
    "no paths": ("echo '" + said(paths=None) + "'",),
    "another file": ("echo '" + said(paths={"scanned": ["/some/code.js"]}) + "'",),
    "skipped": ("echo '" + said(paths={"scanned": ["code.py"], "skipped": [{"path": "/a/code.py"}]}) + "'",),
    "a finding at no line": ("echo '" + said(results=[{**FINDING, "end": {"line": float("inf")}}]) + "'",),
    "a finding elsewhere": ("echo '" + said(results=[{**FINDING, "start": {"line": "x"}}]) + "'",),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_what_is_no_answer_blocks(script, rules, failure):
    with engine_of(script(*FAILURES[failure]), rules) as engine:
        decision = engine.decide("output", GOOD)
    assert (decision.blocked, decision.verdicts[0].status) == (True, "error")
    assert "L3-SAF-043" in decision.verdicts[0].reason


def test_a_closed_block_of_a_stream_is_asked_about_once(script, rules, tmp_path):
    asked = tmp_path / "asked"
    blocks = [f"```python\nx = {n}\nmy_other(x)\n```\n\nAnd then a word.\n\n" for n in range(4)]
    stand_in = script(f"echo x >> {asked}", f"echo '{said()}'")
    with engine_of(stand_in, rules) as engine:
        for count in range(1, 5):
            assert not engine.decide("output", "".join(blocks[:count])).blocked
        assert len(asked.read_text().split()) == 4
        assert engine.decide("output", blocks[0].replace("python", "js")).verdicts[0].status == "error"
        assert engine.decide("output", blocks[0].replace("python", "go")).verdicts[0].status == "ok", (
            "no rule is for it"
        )


def test_what_failed_is_asked_about_again(script, rules, tmp_path):
    asked = tmp_path / "asked"
    stand_in = script(f"test -e {asked} || {{ touch {asked}; exit 2; }}", f"echo '{said()}'")
    with engine_of(stand_in, rules) as engine:
        assert [engine.decide("output", GOOD).blocked for _ in range(3)] == [True, False, False]


def test_one_that_takes_too_long_is_ended_with_all_that_it_began(script, rules, tmp_path):
    pids = tmp_path / "pids"
    stand_in = script("sleep 60 &", f"echo $! > {pids}", "wait")
    with engine_of(stand_in, rules, seconds=0.5) as engine:
        decision = engine.decide("output", GOOD)
    assert (decision.blocked, decision.verdicts[0].status) == (True, "error")
    child = int(pids.read_text())
    for _ in range(100):
        if not _runs(child):
            return
        time.sleep(0.05)
    pytest.fail("what it began goes on")


def _runs(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_parse_errors_of_other_languages_are_none(script, rules):
    """Code that does not say its language is held against all: in most of them it does not parse."""
    stand_in = script("echo '" + said(errors=[{"type": ["PartialParsing", []]}], results=[FINDING]) + "'")
    with engine_of(stand_in, rules) as engine:
        assert engine.decide("output", BAD.replace("python", "")).verdicts[0].status == "ok"
    late = script("echo '" + said(errors=[{"type": "Timeout"}]) + "'")
    with engine_of(late, rules) as engine:
        assert engine.decide("output", GOOD.replace("python", "")).verdicts[0].status == "error"


def test_what_is_missing_is_told_before_anything_is_judged(rules, tmp_path):
    for executable, files in (("no-such-semgrep", [rules]), ("sh", []), ("sh", [str(tmp_path / "none.yaml")])):
        with pytest.raises(PluginError, match="L3-SAF-042"):
            engine_of(executable, *files).__enter__()


def test_the_page_shows_a_policy_that_is_one():
    page = (Path(__file__).parents[2] / "docs" / "safety.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```yaml\n(# semgrep.yaml\n.*?)^```", page, re.DOTALL | re.MULTILINE)
    assert load(yaml.safe_load(block), environ={}).config.safety.policy


def test_the_real_one_finds_what_its_rules_say(rules, monkeypatch):
    """Set SEMGREP to the executable, and PYTHONPATH to its folder where it was installed with pip's --target."""
    executable = os.environ.get("SEMGREP") or shutil.which("semgrep")
    if executable is None:
        pytest.skip("semgrep is not installed: pip install --target FOLDER semgrep, SEMGREP=FOLDER/bin/semgrep")
    with engine_of(executable, rules) as engine:
        bad, good = (engine.decide("output", text) for text in (BAD, GOOD))
        nameless = engine.decide("output", BAD.replace("python", ""))
        broken = engine.decide("output", "```python\ndef f((:\n    my_own_shell(x)\n```")
    assert (bad.action, good.action, nameless.action) == ("block", "allow", "block")
    assert bad.verdicts[0].categories["semgrep"] == 1.0
    assert (broken.blocked, broken.verdicts[0].status) == (True, "error")
