"""With `--json` stdout has one document, whatever plugins print there."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
import started
import yaml
from test_recipe import write_text

from llama3.cli import main
from llama3.plugins.registry import discover

TALKER = """
import os, subprocess, sys
import typer
from llama3.plugins import AlgorithmSpec, CommandSpec, hookimpl
from llama3_plugins.algorithms.next_token import NextToken

print("said on import")
command = typer.Typer()


@command.command()
def talk(json: bool = False):
    print('{"own": 1}')


class Talker(NextToken):
    def loss(self, scored, batch):
        print("said in loss")
        sys.stdout.write("written in loss")
        os.write(1, b"said as C does")
        subprocess.run([sys.executable, "-c", "print('said by a process')"], check=True)
        return super().loss(scored, batch)


@hookimpl
def llama3_algorithms():
    return [AlgorithmSpec(name="talker", factory="acme_talker:Talker", data="tokens")]


@hookimpl
def llama3_commands():
    return [CommandSpec(name="talk", factory="acme_talker:command")]
"""
SAID = ("said on import", "said in loss", "written in loss", "said as C does", "said by a process")


@pytest.fixture
def talker(site):
    site.add("acme-talker", TALKER, module="acme_talker")
    discover.cache_clear()
    yield
    discover.cache_clear()


def test_what_a_plugin_prints_is_no_data(talker, tmp_path: Path) -> None:
    write_text(tmp_path / "text")
    config = {
        "run": {"name": "talks", "dir": str(tmp_path), "threads": 1},
        "data": {"sources": [{"name": "files", "path": str(tmp_path / "text")}], "filters": [], "held_out": 0.2},
        "tokenizer": {"vocab_size": 300, "num_special": 16},
        "model": {"preset": "tiny", "dim": 32, "n_layers": 1, "n_heads": 2, "n_kv_heads": 1, "ffn_dim": 32,
                  "max_seq_len": 64},
        "pretrain": {"steps": 1, "batch": 2, "seq_len": 32, "precision": "fp32", "warmup": 0, "algorithm": "talker"},
        "post_training": {"rounds": 0},
        "evaluation": {"limit": 1, "max_tokens": 1},
        "quantization": [],
    }  # fmt: skip
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(part for part in sys.path if part)}
    command = [sys.executable, "-m", "llama3", "run", str(tmp_path / "run.yaml"), "--json"]
    for more in ([], ["--restarts", "1", "--name", "again"]):
        done = started.run([*command, *more], env=environment)
        assert done.returncode == 0, done.stderr
        assert "bits_per_byte" in json.loads(done.stdout)
        assert [said for said in SAID if said not in done.stderr] == []


def test_a_plugins_own_command_has_stdout(talker, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, printed in ((["talk", "--json"], '{"own": 1}\n'), (["lineage", "--json", "--help"], "Usage")):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 0
        assert printed in capsys.readouterr().out
