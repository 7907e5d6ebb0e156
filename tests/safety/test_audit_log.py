"""The audit log: each decision is found again from it, what was changed is told, and what another policy would have
decided is what it decides."""

from __future__ import annotations

import json
import random
import resource
from dataclasses import replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from llama3.cli import app as cli
from llama3.errors import ConfigError, DataError
from llama3.plugins.registry import discover
from llama3.safety.audit import AuditLog
from llama3.safety.engine import PolicyEngine
from llama3.safety.guard import ACTIONS, Turn
from llama3.safety.logged import asked_again, decided_by, faults_of, read_log
from llama3.safety.policy import parse_policy
from llama3.testing.guard_faults import FaultyGuard, draw_case

SEEDS = st.integers(0, 10**9)
POLICY = {"input": {"any": ["prompt_injection", {"guard": "pii", "timeout_ms": 3000}]}, "output": {"first": ["pii"]}}


def config(path, policy):
    path.write_text(json.dumps({"extends": "quickstart", "safety": {"policy": policy}}))
    return path


@pytest.fixture
def command(capsys):
    def call(*args):
        with pytest.raises(SystemExit) as caught:
            cli.main(list(map(str, args)))
        said = capsys.readouterr()
        return caught.value.code, said.out, said.err

    return call


@pytest.fixture
def log(tmp_path, command):
    """Of three checks, with their texts."""
    path, policy = tmp_path / "log.jsonl", config(tmp_path / "policy.yaml", POLICY)
    for text, stage in [("write to bob@example.com", "input"), ("hello", "input"), ("ann@example.com", "output")]:
        given = ("guard", "check", text, "--policy", policy, "--stage", stage, "--audit", path, "--audit-texts")
        assert command(*given)[0] == 0
    return path


def says(case):
    return lambda name, options: FaultyGuard(case.says[name], None)


@settings(max_examples=60, deadline=None)
@given(SEEDS)
def test_another_policy_decides_what_is_told(tmp_path_factory, seed):
    """Its guards say what the log has of them; of one that the log lacks any answer is possible."""
    rng = random.Random(seed)
    case, other = replace(draw_case(rng, slow=0), faults={}), draw_case(rng, slow=0)
    assume(len(other.says) <= 4)
    path = tmp_path_factory.getbasetemp() / "other.jsonl"
    path.unlink(missing_ok=True)
    with PolicyEngine({case.stage: case.tree}, says(case), AuditLog(path)) as engine:
        engine.decide(case.stage, case.text)
    (entry,) = read_log(path).entries
    policy = parse_policy({case.stage: other.tree})
    both = replace(case, says={**other.says, **case.says})
    found = decided_by(policy, entry)
    with PolicyEngine(policy, says(both)) as engine:
        assert engine.decide(case.stage, case.text).action in found.actions
    if not found.missing:
        assert len(found.actions) == 1


def test_the_same_policy_decides_the_same(log):
    for entry in read_log(log).entries:
        assert decided_by(entry.policy, entry).actions == {entry.decision.action}
        assert faults_of(entry) == []


CHANGES = {
    "the action": lambda row: row.update(action="flag"),
    "a guard's action": lambda row: row["verdicts"][-1].update(action="block"),
    "what a guard said": lambda row: row["verdicts"][-1].update(said="block"),
    "its status": lambda row: row["verdicts"][-1].update(status="error"),
    "the guard": lambda row: row["verdicts"][-1].update(guard="regex"),
    "its place": lambda row: row["verdicts"][-1].update(leaf=9),
    "its marks": lambda row: row["verdicts"][-1].update(spans=[[0, 99, "email"]]),
    "what is redacted": lambda row: row.update(redacted=[]),
    "the stage": lambda row: row.update(stage="output"),
    "the text": lambda row: row.update(text="write to eve@example.com"),
    "the hash": lambda row: row.update(text_sha256="0" * 64),
    "a verdict too few": lambda row: row["verdicts"].pop(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_was_changed_is_told(log, command, change):
    lines = log.read_text().splitlines()
    row = json.loads(lines[1])
    assert row["action"] == "redact"
    CHANGES[change](row)
    log.write_text("\n".join([lines[0], json.dumps(row), *lines[2:]]) + "\n")
    code, out, err = command("guard", "replay", log)
    assert (code, f"{log}:2: " in out, "L3-SAF-053" in err) == (1, True, True)
    told = json.loads(command("guard", "replay", log, "--json")[1])
    assert told["found_again"] == told["decisions"] - 1


@pytest.mark.parametrize(
    "line", ["{", "[]", '{"event": "decision"}', '{"event": "policy", "schema_version": 2}', "", "\udcff"]
)
def test_lines_that_are_none_of_a_log_are_all_named(log, command, line):
    lines = log.read_text().splitlines()
    log.write_bytes("\n".join([*lines[:2], line, *lines[2:], line]).encode("utf-8", "surrogateescape") + b"\n")
    code, _, err = command("guard", "replay", log)
    assert (code, err.count("L3-SAF-052")) == (1, 2)
    assert f"{log}:3" in err


def test_a_policy_that_is_not_the_one_of_its_hash_is_refused(log):
    lines = log.read_text().replace('{"guard": "prompt_injection"}', '{"guard": "pii"}')
    log.write_text(lines)
    with pytest.raises(DataError, match="not the one of its hash"):
        read_log(log)
    log.write_text("".join(line for line in lines.splitlines(keepends=True) if '"decision"' in line))
    with pytest.raises(DataError, match="no policy with its hash"):
        read_log(log)


def test_guards_are_asked_again_only_where_there_are_texts(log, command, tmp_path):
    code, out, _ = command("guard", "replay", log, "--ask", "--json")
    assert (code, json.loads(out)["said_otherwise"]) == (0, 0)
    lines = log.read_text().replace('"said": "allow", "action": "allow"', '"said": "flag", "action": "flag"')
    log.write_text(lines)
    assert "now allow" in command("guard", "replay", log, "--ask")[1]
    plain = tmp_path / "plain.jsonl"
    command("guard", "check", "hello", "--policy", tmp_path / "policy.yaml", "--audit", plain)
    assert "hello" not in plain.read_text()
    code, _, err = command("guard", "replay", plain, "--ask")
    assert (code, "L3-SAF-054" in err) == (1, True)
    code, _, err = command("guard", "replay", tmp_path / "none.jsonl")
    assert (code, "L3-SAF-051" in err) == (1, True)


def test_what_passes_of_a_redacted_text_is_printed(tmp_path, command):
    policy = tmp_path / "pii.yaml"
    policy.write_text("input: pii")
    code, out, _ = command("guard", "check", "write to bob@example.com", "--policy", policy)
    assert (code, out.splitlines()[0], out.splitlines()[-1]) == (0, "redact", "passes as: write to [redacted]")
    assert "passes as" not in command("guard", "check", "hello", "--policy", policy)[1]


def test_what_cannot_be_written_down_is_not_decided(tmp_path, command):
    policy = config(tmp_path / "policy.yaml", POLICY)
    code, _, err = command("guard", "check", "hello", "--policy", policy, "--audit", tmp_path / "no" / "log")
    assert (code, "L3-SAF-050" in err) == (2, True)
    code, _, err = command("guard", "check", "hello", "--policy", policy, "--audit-texts")
    assert (code, "L3-CLI-023" in err) == (2, True)
    path = tmp_path / "folder" / "log"
    path.parent.mkdir()
    with PolicyEngine({"input": "pii"}, lambda name, options: _pii(), AuditLog(path)) as engine:
        assert engine.decide("input", "hello").action == "allow"
        path.unlink()
        path.parent.rmdir()
        with pytest.raises(ConfigError, match=r"No such file.*L3-SAF-050"):
            engine.decide("input", "hello")
    with pytest.raises(ConfigError, match="L3-SAF-050"):
        PolicyEngine({}, lambda name, options: _pii(), AuditLog(path)).open()


def _pii():
    return discover().build("guards", "pii", {})


def test_all_that_a_guard_was_shown_is_there_to_ask_it_again(tmp_path):
    path, seen = tmp_path / "log", []

    class Watching(FaultyGuard):
        def check(self, x):
            seen.append(replace(x, deadline=None))
            return super().check(x)

    case = replace(draw_case(random.Random(1), slow=0), faults={}, stage="output", tree={"guard": "g0"})
    build = lambda name, options: Watching(case.says["g0"], None)
    with PolicyEngine(
        dict.fromkeys(("output", "tool_call", "code"), "g0"), build, AuditLog(path, texts=True)
    ) as engine:
        list(engine.guard_stream(["a" * 250, "\ud800\n```c\n", "b" * 300, "\n```\n"], [Turn("user", "x")], "r1"))
        engine.decide("tool_call", "{}", [Turn("user", "x")], tools={"t": {"type": "object"}})
        first, seen[:] = list(seen), []
        assert {entry.decision.action for entry in read_log(path).entries} <= set(ACTIONS)
        for entry in read_log(path).entries:
            asked_again(engine, entry)
    assert seen == first


def test_a_line_that_is_not_taken_whole_leaves_the_log_as_it_was(tmp_path):
    """As on a full disk: the first bytes of a line are taken, and no more."""
    path = tmp_path / "log"
    with PolicyEngine({"input": "pii"}, lambda name, options: _pii(), AuditLog(path)) as engine:
        engine.decide("input", "hello")
        before = path.read_bytes()
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 50, limits[1]))
        try:
            with pytest.raises(ConfigError, match=f"{path}: .*too large.*L3-SAF-050"):
                engine.decide("input", "hello")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert path.read_bytes() == before
        engine.decide("input", "hello")
    assert (len(read_log(path).entries), read_log(path).torn) == (2, {})


def test_a_torn_line_is_named_and_hides_no_other(log, command, tmp_path):
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join(lines)[:-40])
    assert command("guard", "check", "hi", "--policy", tmp_path / "policy.yaml", "--audit", log)[0] == 0
    code, out, err = command("guard", "replay", log)
    assert "decisions: 3; found again: 3" in out
    assert (code, err.count("L3-SAF-052"), f"{log}:{len(lines)}: " in err) == (1, 1, True)
    assert json.loads(command("guard", "replay", log, "--json")[1])["torn_lines"] == [len(lines)]


@pytest.mark.parametrize("kept", [0, 1])
def test_where_nothing_is_written_nothing_was_verified(log, command, kept):
    log.write_text("".join(log.read_text().splitlines(keepends=True)[:kept]))
    code, _, err = command("guard", "replay", log)
    assert (code, "L3-SAF-055" in err) == (1, True)


def test_guards_are_opened_once_for_each_policy(log, command, monkeypatch):
    opened, really = [], PolicyEngine.open
    monkeypatch.setattr(PolicyEngine, "open", lambda engine: (opened.append(engine), really(engine)))
    assert command("guard", "replay", log, "--ask")[0] == 0
    assert (log.read_text().count('"event": "policy"'), len(opened)) == (3, 2)


def test_without_texts_the_log_quotes_nothing_and_names_no_password(tmp_path, command):
    """A model's own words: the name of an argument, what a guard raised; and what a config has in a URL."""
    path, address = tmp_path / "log", "https://ann:s3cr3t@example.com/v1?to=a@b"
    tools = {"send": {"type": "object", "properties": {}, "additionalProperties": False}}
    call = json.dumps({"name": "send", "parameters": {"my-private-words": 1}})

    class Quoting(FaultyGuard):
        def check(self, x):
            raise ValueError(f"cannot read {x.text}: {address}")

    def build(name, options):
        found = discover().build("guards", name, options)
        return found if name == "tool_calls" else Quoting(draw_case(random.Random(1), slow=0).says["g0"], None)

    rule = {"category": "a", "pattern": address}
    policy = {"tool_call": "tool_calls", "output": {"guard": {"name": "regex", "patterns": [rule]}}}
    with PolicyEngine(policy, build, AuditLog(path)) as engine:
        shown = engine.decide("tool_call", call, tools=tools).verdicts[0]
        failed = engine.decide("output", "other-private-words").verdicts[0]
    assert "s3cr3t" not in failed.reason
    assert (shown.action, failed.status) == ("block", "error")
    assert all(len(verdict.reason) > 20 for verdict in (shown, failed)), "on the screen they say why"
    written = path.read_text()
    assert [word for word in ("private", "s3cr3t", "ann:") if word in written] == []
    assert "https://example.com/v1?to=a@b" in written
    assert command("guard", "replay", path)[0] == 0
    assert decided_by(parse_policy(policy), read_log(path).entries[1]).missing == []
