"""docs/scale.md: its commands and configs are valid, and its figures are what its code prints."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from pathlib import Path

import yaml

from llama3.config import load
from llama3.errors import DECLARED
from llama3.preflight import load_config

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.DOTALL | re.M)


def test_the_command_starts_as_many_processes_as_its_mesh_has(monkeypatch):
    (command,) = blocks("bash")
    words = shlex.split(command)
    world = int(words[words.index("--nproc-per-node") + 1])
    changes = [words[i + 1] for i, word in enumerate(words) if word == "--set"]
    monkeypatch.setenv("WORLD_SIZE", str(world))
    # Of a model that is large enough for it.
    shape = {"preset": "llama-3.1-8b"}
    section = load_config({"model": shape}, changes).config.parallelism
    assert {axis: slot.name for axis, slot in section.strategies(world).items()} == {
        "tp": "tensor",
        "pp": "pipeline",
        "dp": "fsdp",
    }


def test_the_config_names_the_strategies_that_the_page_does():
    (config,) = (yaml.safe_load(block) for block in blocks("yaml"))
    section = load(config, environ={}).config.parallelism
    assert {axis: slot.name for axis, slot in section.strategies(8).items()} == {
        "tp": "tensor",
        "pp": "pipeline",
        "dp": "fsdp",
    }
    assert section.sizes(8) == {"tp": 2, "cp": 1, "pp": 2, "dp": 2}
    defaults = dict(re.findall(r"^\| `(tp|cp|pp|dp)` \|.*?\| `(\w+)` \|", TEXT, re.M))
    for axis, name in defaults.items():
        assert getattr(load({"parallelism": {axis: 2}}, environ={}).config.parallelism, axis).name == name
    assert len(defaults) == 4


def test_the_figures_are_what_the_code_prints():
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        for block in blocks("python"):
            exec(compile(block, "docs/scale.md", "exec"), {})
    assert [printed.getvalue()] == blocks("text")


def test_the_codes_of_the_page_exist():
    import llama3_plugins.parallelism.pipeline
    import llama3_plugins.parallelism.tensor  # noqa: F401

    assert set(re.findall(r"L3-[A-Z]+-\d+", TEXT)) <= set(DECLARED)
