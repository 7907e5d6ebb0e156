"""What a shell offers on <Tab>, asked as a shell asks."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from llama3.cli import completion
from llama3.plugins.registry import FAMILIES, discover


def ask(line: str, cwd) -> list[str]:
    """The words that the program offers to a shell for a line that ends where the cursor is."""
    environment = {**os.environ, "_LLAMA3_COMPLETE": "complete_fish", "_TYPER_COMPLETE_ARGS": line}
    environment["_TYPER_COMPLETE_FISH_ACTION"] = "get-args"
    program = "import sys; from llama3.cli import main; main(); assert 'torch' not in sys.modules"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment, cwd=cwd, check=False
    )
    return [row.split("\t")[0] for row in done.stdout.splitlines()]


def test_a_shell_is_offered_what_there_is(tmp_path):
    (tmp_path / "quick.yaml").write_text("")
    assert ask("llama3 run qui", tmp_path) == ["quickstart", "quick.yaml"]
    assert ask("llama3 plugins check grp", tmp_path) == ["grpo"]
    assert ask("llama3 run quickstart --set pretrain.ste", tmp_path) == ["pretrain.steps="]


def words(offers):
    return [word for word, _ in offers]


def test_keys_and_their_values():
    assert "pretrain.steps" in words(completion.keys("pretrain."))
    assert "post_training" in words(completion.keys("post"))
    assert "post_training.algorithm.beta" in words(completion.keys("post_training.algorithm."))
    assert "post_training.algorithm=dpo" in words(completion.overrides("post_training.algorithm="))
    assert words(completion.overrides("post_training.algorithm=grp")) == ["post_training.algorithm=grpo"]
    assert "release.precision=bf16" in words(completion.overrides("release.precision="))
    assert completion.overrides("no.such.key=") == []
    assert completion.keys("no.such") == []
    assert all(meaning for _, meaning in completion.keys("pretrain."))


def test_plugins_and_families():
    assert words(completion.families("")) == list(FAMILIES)
    assert words(completion.families("rew")) == ["rewards"]
    assert set(words(completion.plugins(""))) == {row.name for row in discover().list()}
    assert set(words(completion.plugins("guards/"))) == {f"guards/{name}" for name in discover().names("guards")}
    assert words(completion.presets("ado")) == ["adopt"]
    assert words(completion.gpus("h")) == ["here", "h100", "h200"]


def test_files_and_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a.yaml").write_text("")
    (tmp_path / "mine" / "a.txt").write_text("")
    assert words(completion.configs("mi")) == ["mine/"]
    assert words(completion.configs("mine/")) == ["mine/a.yaml"]
    assert words(completion.configs(f"{tmp_path}/mine/")) == [f"{tmp_path}/mine/a.yaml"]
    assert words(completion.configs("nowhere/")) == []


@pytest.mark.parametrize("find", ["presets", "configs", "families", "plugins", "keys", "overrides", "gpus"])
def test_nothing_is_offered_where_something_is_broken(find, monkeypatch):
    def broken(*_, **__):
        raise SystemExit(3)

    monkeypatch.setattr("llama3.plugins.registry.discover", broken)
    monkeypatch.setattr("llama3.config.presets.presets", broken)
    monkeypatch.setattr("llama3.config.explain.explain", broken)
    monkeypatch.setattr("llama3.config.explain.all_keys", broken)
    assert isinstance(getattr(completion, find)("zzz="), list)
