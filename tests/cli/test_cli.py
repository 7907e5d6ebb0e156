"""The program: exit codes, one problem per line, JSON on stdout, commands of plugins."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from llama3.cli import app as cli
from llama3.cli.run import show as show_run
from llama3.errors import ConfigError, DoesNotFit, GateFailed, LlamaError, PluginError, Problem
from llama3.plugins.registry import discover


@pytest.fixture
def llama3(capsys, monkeypatch):
    """Run the program in this process: (exit code, stdout, stderr)."""
    monkeypatch.setenv("COLUMNS", "200")

    def call(*args):
        discover.cache_clear()
        with pytest.raises(SystemExit) as caught:
            cli.main(list(args))
        captured = capsys.readouterr()
        return caught.value.code, captured.out, captured.err

    yield call
    discover.cache_clear()


def fake(monkeypatch, error):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr("llama3.artifacts.lineage.trace", fail)


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (
            LlamaError([Problem("L3-X-1", "a", "b"), Problem("L3-X-2", "c", "d")]),
            1,
            "error: a: b [L3-X-1]\nerror: c: d",
        ),
        (ConfigError(Problem("L3-X-1", "a", "b", fix="c")), 2, "error: a: b. Fix: c [L3-X-1]\n"),
        (DoesNotFit(Problem("L3-X-1", "a", "b")), 3, "[L3-X-1]"),
        (PluginError(Problem("L3-X-1", "a", "b")), 4, "[L3-X-1]"),
        (GateFailed(Problem("L3-X-1", "a", "b")), 5, "[L3-X-1]"),
        (OSError(28, "No space left on device", "/data/x"), 1, "error: /data/x: No space left on device [L3-CLI-002]"),
        (ModuleNotFoundError("No module named 'torch'", name="torch"), 1, "pip install torch"),
        (
            ValueError("odd\nthing"),
            1,
            "error: a fault of the program: ValueError. odd thing. Fix: see where with --debug",
        ),
        (KeyboardInterrupt(), 4, "tried to end the program (KeyboardInterrupt)"),
    ],
)
def test_exit_codes_and_messages(llama3, monkeypatch, error, code, text):
    fake(monkeypatch, error)
    got, out, err = llama3("lineage", "x")
    assert got == code
    assert out == ""
    assert text in err
    assert "Traceback" not in err


def test_debug_shows_the_traceback_wherever_it_stands(llama3, monkeypatch):
    fake(monkeypatch, ConfigError(Problem("L3-X-1", "a", "b")))
    for args in (["--debug", "lineage", "x"], ["lineage", "x", "--debug"]):
        code, _, err = llama3(*args)
        assert code == 2
        assert "Traceback" in err
        assert "error: a: b [L3-X-1]" in err


def test_usage_errors(llama3):
    code, _, err = llama3("lineag")
    assert code == 2
    assert "did you mean 'lineage'" in err
    assert llama3("lineage")[0] == 2
    assert llama3("plugins", "list", "--famly", "x")[0] == 2


def test_version(llama3):
    assert llama3("--version") == (0, "llama3 0.1.0\n", "")


def test_config_commands(llama3, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, _ = llama3("config", "list", "--json")
    assert code == 0
    assert "quickstart" in [preset["name"] for preset in json.loads(out)["presets"]]
    code, out, _ = llama3("config", "init")
    assert code == 0
    (tmp_path / "my.yaml").write_text(out + "pretrain_: {steps: 5}\n")
    code, out, _ = llama3("config", "validate", "my.yaml", "--json")
    assert code == 2
    assert "did you mean 'pretrain'" in json.loads(out)["problems"][0]["why"]
    code, _, err = llama3("config", "validate", "my.yaml", "--set", "run.sed=1")
    assert code == 2
    assert len(err.splitlines()) == 2
    code, out, _ = llama3("config", "explain", "pretrain.steps", "--json")
    assert json.loads(out)["default"] == 1000
    assert llama3("config", "explain", "pretrian")[0] == 2
    code, out, _ = llama3("config", "explain", "post_training.audit.most_drift", "--set", "run.seed=1")
    assert (code, "post_training.audit is null, so this section is off" in out) == (0, True), out
    assert "default: 0.5" in out
    code, out, _ = llama3("config", "schema")
    assert json.loads(out)["title"] == "llama3 config"


def test_validate_tells_of_every_file_that_is_not_there(llama3, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.txt").touch()
    (tmp_path / "my.yaml").write_text(
        "data: {sources: [stdlib, {name: jsonl, path: a.jsonl}, {name: files, path: empty.txt},\n"
        "  {name: html, path: ., glob: '*.html'}]}\n"
        "post_training: {data: c.jsonl}\n"
    )
    code, _, err = llama3("config", "validate", "my.yaml")
    assert code == 2
    for text in (
        "my.yaml:1:40: data.sources.1.path: source 'jsonl': a.jsonl: not found",
        "my.yaml:1:70: data.sources.2.path: source 'files': empty.txt: all 1 files are empty",
        "my.yaml:2:16: data.sources.3.path: source 'html': .: no file of it matches *.html",
        "c.jsonl: cannot be read",
    ):
        assert text in err
    assert len(err.splitlines()) == 4
    assert llama3("run", "my.yaml")[::2] == (code, err), "a run says the same, before it makes anything"
    assert not (tmp_path / "runs").exists()


def test_a_value_is_told_of_at_the_option_that_gave_it(llama3, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("../x", "", "a'b/c"):
        code, _, err = llama3("run", "quickstart", "--name", name, "--set", "pretrain.steps=0")
        assert code == 2
        assert "error: --name: run.name: not the name of a directory" in err
        assert f"got {name!r}" in err
        assert "error: --set pretrain.steps=0: pretrain.steps: " in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", ["pretrain.lr=.inf", "run.seed=1e40", "data.mix.a=.nan", "pretrain=.inf"])
def test_an_odd_number_is_one_problem(llama3, value):
    code, _, err = llama3("config", "validate", "quickstart", "--set", value)
    assert code == 2
    (line,) = err.splitlines()
    assert line.startswith(f"error: --set {value}: {value.partition('=')[0]}: ")
    assert "L3-CFG-019" in line


def test_show_gives_origins(llama3, tmp_path, monkeypatch, site):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LLAMA3__PRETRAIN__BATCH", "3")
    code, out, err = llama3("config", "show", "quickstart", "--set", "pretrain.steps=5", "--origin")
    assert code == 0, err
    lines = {line.split()[0]: line.split(maxsplit=2)[1:] for line in out.splitlines()}
    assert lines["pretrain.steps"] == ["5", "--set pretrain.steps=5"]
    assert lines["pretrain.batch"] == ["3", "LLAMA3__PRETRAIN__BATCH"]
    assert lines["run.name"][0] == "quickstart"
    assert lines["run.name"][1].startswith("quickstart.yaml:")


COMMAND = """
from llama3.plugins import CommandSpec, hookimpl

@hookimpl
def llama3_commands():
    return [CommandSpec(name="greet", factory="greeting:app", summary="say hello")]
"""
GREETING = """
import typer
app = typer.Typer()

@app.command()
def greet(name: str, loud: bool = False):
    print(f"hello {name}" + "!" * loud)
"""


def test_a_command_of_a_plugin_is_listed_without_import_and_runs(llama3, site):
    site.add("acme", COMMAND)
    (site.path / "greeting.py").write_text(GREETING)
    code, out, _ = llama3("--help")
    assert code == 0
    assert "say hello (acme)" in out
    assert "greeting" not in sys.modules
    assert llama3("greet", "you", "--loud") == (0, "hello you!\n", "")
    code, _, err = llama3("gret")
    assert "did you mean 'greet'" in err


def test_a_command_that_cannot_be_imported_breaks_only_itself(llama3, site):
    site.add("acme", COMMAND)
    code, _, err = llama3("greet", "you")
    assert code == 4
    assert "acme:greet 1.0 (greeting:app): import failed. ModuleNotFoundError" in err
    assert llama3("--help")[0] == 0


def test_recovery_commands_work_while_a_plugin_is_broken(llama3, site, monkeypatch):
    site.add("bad", "import nowhere_pkg", version="0.2")
    monkeypatch.setenv("LLAMA3_PLUGINS_STRICT", "1")
    code, out, _ = llama3("plugins", "list", "--broken")
    assert code == 0
    assert "broken: bad 0.2 (main): import failed: ModuleNotFoundError: No module named 'nowhere_pkg'" in out
    assert "fix: pip install nowhere-pkg" in out
    code, out, _ = llama3("doctor")
    assert code == 1
    assert "pip install nowhere-pkg" in out
    assert llama3("--help")[0] == 0
    code, _, err = llama3("plugins", "show", "bad")
    assert code == 4
    assert "nowhere_pkg" in err
    code, _, err = llama3("config", "validate", "quickstart")  # strict: nothing starts
    assert code == 4
    assert "L3-PLG-018" in err


def test_doctor_names_a_core_that_is_older_than_its_sources(llama3, tmp_path, monkeypatch):
    from llama3 import _core

    built, source = tmp_path / "llama3" / "_core.so", tmp_path / "core-rs" / "src" / "lib.rs"
    for path, time in ((source, 1000), (built, 2000)):
        path.parent.mkdir(parents=True)
        path.touch()
        os.utime(path, (time, time))
    monkeypatch.setattr(_core, "__file__", str(built))
    assert "release build" in llama3("doctor")[1]
    os.utime(source, (3000, 3000))
    code, out, _ = llama3("doctor")
    assert code == 1
    assert "older than its Rust sources" in out


def test_plugins_list_and_show(llama3):
    code, out, _ = llama3("plugins", "list", "--json")
    rows = json.loads(out)["plugins"]
    assert code == 0
    assert {"family": "guards", "name": "prompt_injection", "status": "ok"}.items() <= next(
        row for row in rows if row["name"] == "prompt_injection"
    ).items()
    code, out, _ = llama3("plugins", "show", "guards/prompt_injection")
    assert code == 0
    assert "in a config: {name: prompt_injection" in out
    assert "did you mean 'prompt_injection'" in llama3("plugins", "show", "prompt_injektion")[2]
    assert llama3("plugins", "list", "--family", "guard")[0] == 2


def test_a_command_that_is_shown_can_be_pasted(capsys):
    """A run's name may have a space."""
    report = {
        "bits_per_byte_by_model": {},
        "bits_per_byte": {"gzip": None, "order3": None},
        "pass_rate": {},
        "changes": [],
    }
    show_run(SimpleNamespace(path=Path("runs/my run"), report=report))
    assert "llama3 chat 'runs/my run'" in capsys.readouterr().out


def test_runs_list_reads_what_is_there(llama3, tmp_path):
    assert "no runs" in llama3("runs", "list", "--dir", str(tmp_path))[2]
    for name, report in (
        (
            "done",
            '{"bits_per_byte": {"model": 2.5}, "bits_per_byte_by_model": {"base": 2.5, "final": 1.5}, '
            '"pass_rate": {"final": {"rate": 0.5}}}',
        ),
        ("cut", ""),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text("")
        (tmp_path / name / "events.jsonl").write_text('{"time": "t", "kind": "started"}\n{"time": "t2", "ki')
        if report:
            (tmp_path / name / "report.json").write_text(report)
    code, out, _ = llama3("runs", "list", "--dir", str(tmp_path), "--json")
    assert code == 0
    cut, done = json.loads(out)["runs"]
    assert (cut["status"], cut["last"]) == ("unfinished", "t started")
    assert (done["status"], done["bits_per_byte"], done["pass_rate"]) == ("finished", 1.5, 0.5)
    assert (cut["bits_per_byte"], cut["pass_rate"]) == (None, None)
    shown = llama3("runs", "list", "--dir", str(tmp_path))[1]
    assert "1.500" in shown
    assert "50.0%" in shown


HEAVY = ("torch", "transformers")
ARRAYS = ("numpy", "pyarrow", "safetensors")


@pytest.mark.parametrize(
    ("args", "absent"),
    [
        (["--help"], HEAVY + ARRAYS),
        (["plugins", "list"], HEAVY + ARRAYS),
        (["plugins", "show", "prompt_injection"], HEAVY + ARRAYS),
        (["config", "list"], HEAVY + ARRAYS),
        (["config", "init"], HEAVY + ARRAYS),
        (["config", "explain", "pretrain"], HEAVY + ARRAYS),
        # These ask plugins for their options, some of which stand beside code that reads documents.
        (["config", "explain", "post_training.algorithm"], HEAVY),
        (["config", "validate", "quickstart"], HEAVY),
        (["config", "show", "quickstart"], HEAVY),
        (["config", "schema"], HEAVY),
        (["doctor"], HEAVY),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_light_commands_import_nothing_heavy(args, absent):
    program = (
        "import sys\nfrom llama3.cli import main\n"
        f"try: main({args!r})\n"
        f"finally: print('HEAVY', [name for name in {absent} if name in sys.modules], file=sys.stderr)\n"
    )
    environ = {**os.environ, "LLAMA3_PLUGINS": ""}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environ, timeout=60)
    assert "HEAVY []" in done.stderr, done.stderr
    assert done.returncode == 0 or args == ["doctor"], done.stderr  # the doctor may have found something


def test_import_of_the_package_is_light():
    program = f"import sys, llama3; sys.exit(bool([n for n in {('pydantic', *HEAVY, *ARRAYS)} if n in sys.modules]))"
    assert subprocess.run([sys.executable, "-c", program], timeout=60).returncode == 0


def test_python_m_llama3_is_the_program():
    done = subprocess.run([sys.executable, "-m", "llama3", "--version"], capture_output=True, text=True, timeout=60)
    assert done.stdout == "llama3 0.1.0\n"


def test_a_rank_leaves_the_word_to_rank_0_and_speaks_where_that_goes_on(llama3, monkeypatch):
    mistake = ("run", "quickstart", "--set", "parallelism.dp=fsdpp")
    monkeypatch.setenv("RANK", "1")

    class Ended(threading.Event):
        def wait(self, timeout):
            signal.raise_signal(signal.SIGTERM)  # as torchrun does when rank 0 has failed
            return super().wait(timeout)

    with monkeypatch.context() as patch:
        patch.setattr("llama3.cli.run.Event", Ended)
        assert llama3(*mistake) == (4, "", "")
    monkeypatch.setattr("llama3.cli.run.PATIENCE", 0.01)
    code, _, err = llama3(*mistake)
    assert code == 4
    assert "did you mean 'fsdp'?" in err


@pytest.mark.parametrize("axis", ["tp", "cp", "pp"])
def test_a_strategy_that_cannot_supply_an_axis_is_refused_before_work(llama3, tmp_path, monkeypatch, axis):
    monkeypatch.chdir(tmp_path)
    fsdp = ("run", "quickstart", "--set", "parallelism.dp={name: fsdp, size: 2}")
    code, _, err = llama3(*fsdp, "--set", f"parallelism.{axis}={{name: acme, size: 2}}")
    assert code == 4
    assert f"parallelism.{axis}: no plugin 'acme'" in err
    code, _, err = llama3(*fsdp, "--set", f"parallelism.{axis}={{name: fsdp, size: 2}}")
    assert code == 2
    assert f"parallelism.{axis}: 'fsdp' is a strategy for dp, not {axis}" in err
    assert list(tmp_path.iterdir()) == []


PLAIN = """
from llama3.guards import Verdict
from llama3.plugins import GuardSpec, hookimpl


@hookimpl
def llama3_guards():
    return [GuardSpec(name="plain", factory="plain_guard:Plain", stages=frozenset({"input"}))]


class Plain:
    def open(self): ...

    def check(self, x):
        return Verdict(action="allow")

    def close(self): ...
"""


def test_a_guard_of_plain_functions_passes_its_checks(llama3, site):
    site.add("plain-guard", PLAIN)
    code, out, err = llama3("plugins", "check", "guards/plain")
    assert code == 0, out + err
    assert "failed to close" not in err


STOPPING = """
from llama3.plugins import RewardSpec, hookimpl


@hookimpl
def llama3_rewards():
    return [RewardSpec(name="stopping", factory="stopping_reward:Stopping", has_tasks=False)]


class Stopping:
    verifies = False

    def score(self, prompts, answers, examples):
        raise KeyboardInterrupt
"""


def test_a_reward_that_raises_what_ctrl_c_does_fails_its_checks(llama3, site):
    site.add("stopping-reward", STOPPING)
    code, out, _ = llama3("plugins", "check", "stopping")
    assert (code, "failed" in out, "KeyboardInterrupt" in out) == (4, True, True), out


def test_a_plugin_that_was_only_written_is_to_be_installed(llama3, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert llama3("plugins", "new", "brief", "--family", "rewards")[0] == 0
    code, _, err = llama3("plugins", "check", "brief")
    assert code == 4
    assert "no plugin 'brief' is installed. Fix: llama3 plugins list, with --broken" in err
    assert "pip install -e FOLDER" in err


def test_a_broken_package_is_installed_and_broken(llama3, site):
    """Whichever of its names it is asked for by; where it broke is told."""
    site.add("llama3-brief", "import nowhere_pkg", module="llama3_brief")
    for command in ("check", "show"):
        for name in ("brief", "llama3-brief"):
            code, _, err = llama3("plugins", command, name)
            assert code == 4
            assert "llama3-brief 1.0 (main): is installed and broken: import failed" in err
            assert "No module named 'nowhere_pkg'" in err
            assert f"({site.path / 'llama3_brief.py'}:1)" in err
    code, _, err = llama3("plugins", "check", "summary")  # whose it is cannot be known
    assert code == 4
    assert "L3-PLG-040" in err
    assert "llama3-brief" in err


def test_a_module_without_hooks_is_told_of(llama3, site):
    site.add("hookless", "VALUE = 1", module="hookless")
    assert "hookless has no hook" in llama3("plugins", "list")[1]
    code, _, err = llama3("plugins", "check", "hookless")
    assert code == 4
    assert "has no hook" in err


def test_lineage_of_nothing_says_what_has_one(llama3, tmp_path):
    code, _, err = llama3("lineage", str(tmp_path))
    assert code == 1
    for words in ("a release or of another artifact (runs/NAME/artifacts/release)", "of a run too (runs/NAME)"):
        assert words in err
