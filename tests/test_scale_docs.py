"""docs/scale.md: its commands and configs are valid, and its figures are what its code prints."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from installing import lay
from torch.distributed.run import get_args_parser

from llama3.config import load
from llama3.errors import DECLARED
from llama3.plugins.registry import discover
from llama3.preflight import load_config, ready

torchrun = get_args_parser()

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.DOTALL | re.M)


SHAPE = {"model": {"preset": "llama-3.1-8b"}}
"""A model that is large enough for the page's meshes; `my.yaml` names one."""


@pytest.fixture
def ulysses(tmp_path, monkeypatch):
    """The example, as the page's `pip install` leaves it."""
    lay(ROOT / "examples" / "llama3-ulysses", tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    discover.cache_clear()
    yield
    discover.cache_clear()


def started(command: list[str], monkeypatch) -> dict[str, str]:
    """The strategies of what a command starts, by their axes, after every check that needs no run."""
    split = command.index("-m") if command[0] == "torchrun" else 0
    world = 1
    if split:
        launch = torchrun.parse_args([*command[1:split], "-m", "llama3"])
        world = int(launch.nnodes.split(":")[-1]) * int(launch.nproc_per_node)
        monkeypatch.setenv("WORLD_SIZE", str(world))
    program = command[split:]
    assert program[: 4 if split else 3] == [*(["-m"] if split else []), "llama3", "run", "my.yaml"]
    changes = [program[i + 1] for i, word in enumerate(program) if word == "--set"]
    section = ready(load_config(SHAPE, changes)).config.parallelism
    return {axis: slot.name for axis, slot in section.strategies(world).items()}


EXPECTED = [
    {},
    {"dp": "fsdp"},
    {"tp": "tensor", "pp": "pipeline", "dp": "fsdp"},
    {"tp": "tensor", "dp": "fsdp"},
    {"dp": "torchft"},
    {"cp": "ulysses"},
]
WITHOUT = [
    index for index, expected in enumerate(EXPECTED) if "torchft" in expected.values() and not find_spec("torchft")
]
"""Blocks whose plugin lacks its library."""


@pytest.mark.usefixtures("ulysses")
@pytest.mark.parametrize("number", range(len(EXPECTED)))
def test_a_command_starts_as_many_processes_as_its_mesh_has(number, tmp_path, monkeypatch):
    assert len(blocks("bash")) == len(EXPECTED)
    if number in WITHOUT:
        pytest.skip("torchft is not installed (the extra torchft)")
    block = blocks("bash")[number]
    lines = submitted(block, tmp_path) if block.startswith("#!") else block.splitlines()
    for line in lines:
        words = shlex.split(line)
        if words[:3] == ["pip", "install", "-e"]:
            assert (ROOT / words[3] / "pyproject.toml").is_file()
        elif words[0] == "torchft_lighthouse":
            assert_lighthouse(words, tmp_path)
        else:
            assert started(words, monkeypatch) == EXPECTED[number]


def assert_lighthouse(words: list[str], folder: Path) -> None:
    """Asked for its help, it tells of these options. The script is the one that `pip install` makes."""
    script = folder / words[0]
    script.write_text("from torchft._torchft import lighthouse_main\nlighthouse_main()\n")
    done = subprocess.run([sys.executable, str(script), "--help"], capture_output=True, text=True, check=True)
    for option in (word for word in words if word.startswith("--")):
        assert f"{option} <" in done.stdout


def submitted(script: str, folder: Path) -> list[str]:
    """The commands that a job gives to `srun`, on a cluster that consists of two scripts."""
    asked = dict(re.findall(r"^#SBATCH --([\w-]+)=(\S+)$", script, re.M))
    assert asked["nodes"] == "4"
    assert asked["ntasks-per-node"] == "1"  # each is a torchrun, of as many processes as there are GPUs
    assert f"--nproc-per-node {asked['gpus-per-node']} " in script
    for name, does in {"scontrol": 'echo "$3-0"; echo "$3-1"', "srun": 'printf "%q " "$@"; echo'}.items():
        (folder / name).write_text(f"#!/bin/bash\n{does}\n")
        (folder / name).chmod(0o755)
    environment = os.environ | {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}", "SLURM_NNODES": asked["nodes"]}
    environment |= {"SLURM_JOB_NODELIST": "machine", "SLURM_JOB_ID": "7"}
    done = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert "--rdzv-endpoint machine-0:29500" in done.stdout
    return done.stdout.splitlines()


@pytest.mark.parametrize(("number", "world"), [(0, 8), (1, 64)])
def test_a_config_is_a_mesh_that_fits(number, world, monkeypatch):
    assert len(blocks("yaml")) == 2
    monkeypatch.setenv("WORLD_SIZE", str(world))
    ready(load_config(SHAPE | yaml.safe_load(blocks("yaml")[number])))


def test_the_config_names_the_strategies_that_the_page_does():
    section = load(yaml.safe_load(blocks("yaml")[0]), environ={}).config.parallelism
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


def test_every_way_to_share_the_weights_is_a_strategy():
    section = TEXT.partition("## Choosing who holds the weights")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `(.+?)` \|", section, re.M)[1:]
    for row in rows:
        value = yaml.safe_load(row.replace("N}", "2}"))
        slot = load({"parallelism": {"dp": value}}, environ={}).config.parallelism.dp
        discover().build("parallelism", slot.name, slot.options)
    assert len(rows) == 4


def test_the_figures_are_what_the_code_prints():
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        for block in blocks("python"):
            exec(compile(block, "docs/scale.md", "exec"), {})
    assert [printed.getvalue()] == blocks("text")


def test_the_codes_of_the_page_exist():
    import llama3_plugins.parallelism.fsdp
    import llama3_plugins.parallelism.pipeline
    import llama3_plugins.parallelism.tensor
    import llama3_plugins.parallelism.torchft  # noqa: F401

    assert set(re.findall(r"L3-[A-Z]+-\d+", TEXT)) <= set(DECLARED)
