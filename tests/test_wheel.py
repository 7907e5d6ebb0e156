"""The wheel, installed in clean environments outside the source tree."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from installing import ROOT, Env

pytestmark = pytest.mark.install

NETWORK = re.compile(r"NewConnectionError|ConnectTimeout|name resolution|ProxyError|Failed to establish", re.IGNORECASE)


def newer_pythons():
    """Interpreters above the running one, by minor version: on PATH, and the versions of pyenv."""
    pyenv = os.environ.get("PYENV_ROOT", "")
    if not pyenv and shutil.which("pyenv"):
        pyenv = subprocess.run(["pyenv", "root"], capture_output=True, text=True).stdout.strip()
    folders = [str(path) for path in sorted(Path(pyenv).glob("versions/*/bin"))] if pyenv else []
    found = {}
    for minor in range(sys.version_info.minor + 1, 20):
        for folder in [*folders, *os.environ.get("PATH", "").split(os.pathsep)]:
            python = shutil.which(f"python3.{minor}", path=folder)
            if python and minor not in found and _runs(python, minor):
                found[minor] = python
    return [found[minor] for minor in sorted(found)]


def _runs(python, minor):
    """A pyenv shim exists for versions that are not active; it exits with an error."""
    program = (
        "import sys, sysconfig, venv; print(sys.version_info.minor, sysconfig.get_config_var('Py_GIL_DISABLED') or 0)"
    )
    done = subprocess.run([python, "-c", program], capture_output=True, text=True)
    return done.stdout.split() == [str(minor), "0"]  # free-threaded Python does not load abi3 extensions


NEWER = newer_pythons()

USE_CORE = """
import argparse, inspect
import numpy as np
from llama3.tokenizer import Tokenizer
from llama3.data import Deduplicator
from llama3.inference import KvPool

text = inspect.getsource(argparse)
tokenizer = Tokenizer.train([text], vocab_size=512, num_special=16)
ids = tokenizer.encode(text)
assert ids.dtype == np.uint32 and len(ids) < len(text) and tokenizer.decode(ids) == text
assert Deduplicator and KvPool
print("core works")
"""


def test_it_holds_what_it_should_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (entry_points,) = [archive.read(name).decode() for name in names if name.endswith("entry_points.txt")]
        presets = {Path(name).name: archive.read(name) for name in names if name.startswith("llama3/presets/")}
        (tags,) = [archive.read(name).decode() for name in names if name.endswith(".dist-info/WHEEL")]
    assert "cp311-abi3-" in tags
    assert {"llama3/py.typed", "llama3/_core.pyi"} <= names
    assert len([name for name in names if name.startswith("llama3/_core.") and name.endswith((".so", ".pyd"))]) == 1
    assert "llama3=llama3.cli:main" in entry_points.replace(" ", "")
    assert "[llama3.plugins]" in entry_points
    assert {name: raw for name, raw in presets.items() if name.endswith(".yaml")} == {
        path.name: path.read_bytes() for path in (ROOT / "configs").glob("*.yaml")
    }
    sources = {str(p.relative_to(ROOT)) for part in ("llama3", "llama3_plugins") for p in (ROOT / part).rglob("*.py")}
    assert sources <= names
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"llama3", "llama3_plugins"}


def test_it_is_complete_on_this_python(installed):
    where = installed.call("-c", "import llama3, llama3._core as c; print(llama3.__file__, c.__file__)").stdout
    assert all(path.startswith(str(installed.path.resolve())) for path in where.split()), where
    assert "core works" in installed.call("-c", USE_CORE).stdout
    every = (
        "import importlib, pkgutil, llama3, llama3_plugins\n"
        "for package in (llama3, llama3_plugins):\n"
        "    for module in pkgutil.walk_packages(package.__path__, package.__name__ + '.'):\n"
        "        if not module.name.endswith('__main__'): importlib.import_module(module.name)\n"
    )
    installed.call("-c", every)
    installed.llama3("config", "validate", "quickstart")
    installed.llama3("doctor")


@pytest.fixture(scope="module", params=NEWER or [None], ids=lambda python: Path(python).name if python else "none")
def without_torch(request, wheel, tmp_path_factory):
    """The wheel and its light dependencies on a newer Python."""
    if request.param is None:
        pytest.skip(f"no Python above 3.{sys.version_info.minor} on this machine")
    env = Env(tmp_path_factory.mktemp("newer") / "env", request.param)
    env.install("--no-deps", "--no-index", wheel)
    try:
        env.install("--only-binary", ":all:", *light_dependencies(wheel))
    except AssertionError as error:
        if NETWORK.search(str(error)):
            pytest.skip("the light dependencies cannot be downloaded here")
        raise
    return env


def light_dependencies(wheel):
    """What the wheel requires without extras, but torch."""
    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = [archive.read(name).decode() for name in archive.namelist() if name.endswith("/METADATA")]
    lines = [line.removeprefix("Requires-Dist: ") for line in metadata.splitlines() if line.startswith("Requires-Dist")]
    return [line for line in lines if "extra ==" not in line and not line.startswith("torch")]


def test_without_torch_core_plugins_config_and_commands_work(without_torch):
    env = without_torch
    assert env.call("-c", "import torch", check=False).returncode == 1
    assert "core works" in env.call("-c", USE_CORE).stdout
    assert env.llama3("--version").stdout.startswith("llama3 ")
    assert "generate" in env.llama3("--help").stdout
    rows = json.loads(env.llama3("plugins", "list", "--json").stdout)
    assert rows["broken"] == []
    assert {"dpo", "sft", "prompt_injection", "stdlib"} <= {row["name"] for row in rows["plugins"]}
    env.llama3("config", "validate", "quickstart")
    assert "dpo" in env.llama3("config", "explain", "post_training.algorithm").stdout
    assert json.loads(env.llama3("config", "schema").stdout)["title"] == "llama3 config"
    doctor = env.llama3("doctor")
    assert "not installed" in doctor.stdout
    assert "pip install torch" in doctor.stdout


def test_without_torch_what_needs_it_says_so(without_torch):
    done = without_torch.llama3("generate", "nowhere", "hello", check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "torch is not installed" in done.stderr
    assert "pip install torch" in done.stderr
