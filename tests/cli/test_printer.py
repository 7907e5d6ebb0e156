"""What reaches the terminal, a program that reads, and a reader who is gone."""

from __future__ import annotations

import io
import json
import logging
import os
import signal
import subprocess
import sys

import pytest

from llama3.artifacts.files import append_json_line, read_json_lines
from llama3.artifacts.progress import PatientConsole
from llama3.cli import app as cli
from llama3.cli import output
from llama3.errors import ConfigError, LlamaError, Problem, printable

EVIL = "a\x1b[31mred\r\x07\x9b2J\u202egnp\ud800"
CONTROLS = "\x1b\r\x07\x9b\u202e\ud800"


@pytest.fixture
def llama3(capsys):
    def call(*args):
        with pytest.raises(SystemExit) as caught:
            cli.main(list(args))
        captured = capsys.readouterr()
        return caught.value.code, captured.out, captured.err

    return call


def test_controls_are_spelled_out_and_lines_kept():
    assert printable("a\tb\nc ✓ é") == "a\tb\nc ✓ é"
    assert not set(printable(EVIL)) & set(CONTROLS)
    assert printable("\x1b\u202e\ud800\x85") == "\\x1b\\u202e\\ud800\\x85"
    assert printable("a\nb", lines=False) == "a\\nb"


def test_a_problem_is_one_line_whatever_it_tells_of():
    problem = Problem("L3-X-1", "evil\nerror: forged", EVIL, "why\nnot", fix="x")
    assert len(str(problem).splitlines()) == 1
    assert not set(str(problem)) & set(CONTROLS)


def test_every_way_to_tell_something_escapes(capsys):
    output.say(EVIL)
    output.note(EVIL)
    output.print_table([(EVIL, EVIL)], (EVIL, EVIL))
    output.print_json({EVIL: EVIL})
    captured = capsys.readouterr()
    assert not set(captured.out + captured.err) & set(CONTROLS)


def test_warnings_and_errors_escape(llama3, monkeypatch):
    def fail(*args, **kwargs):
        # Without the surrogate: pytest hands the log of a test on to other processes, as UTF-8.
        logging.getLogger("llama3.somewhere").warning("it said %s", EVIL.replace("\ud800", ""))
        raise LlamaError(Problem("L3-X-1", EVIL, EVIL))

    monkeypatch.setattr("llama3.artifacts.lineage.trace", fail)
    for args in (["lineage", "x"], ["lineage", "x", "--debug"]):
        code, out, err = llama3(*args)
        assert code == 1
        assert "it said a\\x1b[31mred" in err
        assert not set(out + err) & set(CONTROLS)


def test_json_is_json(capsys):
    output.print_json({"nan": float("nan"), "deep": [{"inf": -float("inf")}], "text": EVIL, "fine": 1.5})
    told = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert told == {"schema_version": 1, "nan": None, "deep": [{"inf": None}], "text": EVIL, "fine": 1.5}


def test_logs_are_json(tmp_path):
    append_json_line(tmp_path / "log.jsonl", {"loss": float("nan"), "rows": [float("inf"), 2.0]})
    json.loads((tmp_path / "log.jsonl").read_text(), parse_constant=pytest.fail)
    assert list(read_json_lines(tmp_path / "log.jsonl")) == [{"loss": None, "rows": [None, 2.0]}]


@pytest.mark.parametrize(
    "args",
    [
        ("lineage", "/no/such/place"),
        ("show", "/no/such/place"),
        ("convert", "/no/such/place", "/no/out", "--to", "hf"),
        ("merge", "/no/base", "/no/adapter", "/no/out"),
        ("generate", "/no/such/place", "hi"),
        ("audit", "/no/a", "/no/b"),
        ("run", "/no/such.yaml"),
        ("config", "show", "/no/such.yaml"),
        ("config", "explain", "no.such.key"),
        ("plugins", "show", "no_such_plugin"),
        ("plugins", "list", "--family", "no_such_family"),
        ("lineage",),
        ("lineage", "x", "--no-such-option"),
        ("no_such_command",),
    ],
    ids=" ".join,
)
def test_with_json_every_error_is_json_on_stdout_too(llama3, args, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plain, out, err = llama3(*args)
    assert out == ""
    code, out, _ = llama3(*args, "--json")
    assert code == plain != 0
    told = json.loads(out)
    assert told["ok"] is False
    assert told["problems"]
    assert all(problem.keys() == {"code", "where", "what", "why", "fix"} for problem in told["problems"])
    if "error: " in err and "[L3" in err:
        assert {problem["code"] for problem in told["problems"]} == {
            line.rsplit("[", 1)[1].rstrip("]") for line in err.splitlines() if line.endswith("]")
        }


def test_an_error_after_a_document_is_no_second_document(llama3, monkeypatch):
    def fail(*args, **kwargs):
        output.print_json({"figures": 1})
        raise ConfigError(Problem("L3-X-1", "a", "b"))

    monkeypatch.setattr("llama3.artifacts.lineage.trace", fail)
    code, out, err = llama3("lineage", "x", "--json")
    assert (code, json.loads(out)["figures"]) == (2, 1)
    assert "L3-X-1" in err


@pytest.mark.parametrize("error", [SystemExit(0), SystemExit("bye"), SystemExit(3)])
def test_what_ends_the_program_in_a_command_is_a_plugins_failure(llama3, monkeypatch, error):
    def leave(*args, **kwargs):
        raise error

    monkeypatch.setattr("llama3.artifacts.lineage.trace", leave)
    code, _, err = llama3("lineage", "x")
    assert code == 4
    assert "L3-PLG-022" in err
    assert "test_printer.py" in err, "the place where it did"


def test_an_interrupt_says_that_it_stopped(llama3, monkeypatch):
    def stop(*args, **kwargs):
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr("llama3.artifacts.lineage.trace", stop)
    code, _, err = llama3("lineage", "x")
    assert code == 130
    assert "L3-CLI-001" in err


def test_a_full_disk_that_a_library_tells_of_is_named(llama3, monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("llama3.artifacts.lineage.trace", fail)
    code, _, err = llama3("lineage", "x")
    assert code == 1
    assert "L3-CLI-006" in err


PROGRAM = [sys.executable, "-m", "llama3", "config", "list"]


def test_a_reader_who_goes_away_makes_no_failure():
    reading, writing = os.pipe()
    os.close(reading)
    for command in (PROGRAM, [*PROGRAM, "--json"], [sys.executable, "-m", "llama3", "--help"]):
        done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, timeout=60)
        assert (done.returncode, done.stderr) == (0, "")
    os.close(writing)


@pytest.mark.parametrize(("closed", "code"), [("2>&-", 0), (">&-", 1), (">&- 2>&-", 1)])
def test_a_closed_stream_of_notes_is_no_failure_and_one_of_data_is(closed, code):
    command = f'exec "$0" -m llama3 config list {closed}'
    done = subprocess.run(["bash", "-c", command, sys.executable], capture_output=True, text=True, timeout=60)
    assert done.returncode == code
    assert ("standard output: the output could not be written. it is closed" in done.stderr) == (closed == ">&-")


@pytest.mark.parametrize(
    "args",
    [
        ("config", "list"),
        ("config", "list", "--json"),
        ("config", "init"),
        ("plugins", "list"),
        ("runs", "list", "--json"),
        ("doctor",),
        ("--version",),
        # Before a model is looked for: nobody would see its answer.
        ("generate", "/no/such/place", "hi"),
        ("chat", "/no/such/place"),
        ("tokens", "/no/such/place", "--message", "hi"),
    ],
    ids=" ".join,
)
def test_no_command_loses_what_it_has_to_tell_in_silence(capsys, monkeypatch, args):
    monkeypatch.setattr(sys, "stdout", None)
    with pytest.raises(SystemExit) as caught:
        cli.main(list(args))
    assert caught.value.code == 1
    assert "L3-CLI-005" in capsys.readouterr().err


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_output_that_finds_no_room_is_named():
    with open("/dev/full", "w") as full:
        done = subprocess.run(PROGRAM, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert done.returncode == 1
    assert "L3-CLI-005" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
@pytest.mark.parametrize(
    ("args", "streams", "code"),
    [
        (["--help"], ["stdout"], 1),
        (["data", "curate", "--help"], ["stdout"], 1),
        (["config", "list", "--json"], ["stdout"], 1),
        (["--help"], ["stderr"], 0),
        (["nonsense"], ["stderr"], 2),
        (["run", "nowhere.yaml"], ["stderr"], 2),
        (["nonsense"], ["stdout", "stderr"], 2),
        (["run", "nowhere.yaml", "--json"], ["stdout", "stderr"], 2),
    ],
    ids=str,
)
def test_a_full_disk_behind_a_stream_changes_no_exit_code_but_of_what_is_lost(args, streams, code):
    with open("/dev/full", "w") as full:
        given = {name: full if name in streams else subprocess.PIPE for name in ("stdout", "stderr")}
        program = [*PROGRAM[:3], *args]
        done = subprocess.run(program, **given, text=True, timeout=60)
    assert done.returncode == code
    if done.stderr is not None:
        assert done.stderr.startswith("error: standard output: ")
        assert done.stderr.endswith("[L3-CLI-005]\n")


def test_a_console_whose_reader_is_gone_is_quiet():
    class Gone(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    console = PatientConsole(file=Gone())
    console.print("a")
    console.print("b")


def test_what_another_error_made_of_a_signal_is_a_stop(llama3, monkeypatch):
    def broken_off(*args, **kwargs):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except KeyboardInterrupt:
            raise ValueError("what C code makes of it") from None

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr("llama3.artifacts.lineage.trace", broken_off)
    code, _, err = llama3("lineage", "x")
    assert code == 130
    assert "L3-CLI-001" in err
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("content", ["[" * 100_000, "[1]", "3", '{"schema": [[]]}', "\ud800"])
def test_odd_files_of_a_run_are_told_of_as_unfinished(llama3, tmp_path, content):
    folder = tmp_path / "odd"
    folder.mkdir()
    for name in ("config.yaml", "report.json", "events.jsonl"):
        (folder / name).write_bytes(content.encode("utf-8", "surrogatepass"))
    code, out, _ = llama3("runs", "list", "--dir", str(tmp_path), "--json")
    assert code == 0
    assert json.loads(out)["runs"][0]["name"] == "odd"


def test_help_whose_reader_went_away_ends_quietly():
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run([sys.executable, "-m", "llama3", "run", "--help"], stdout=writer, stderr=subprocess.PIPE)
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")
