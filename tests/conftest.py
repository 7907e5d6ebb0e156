"""Fixtures for every area: fake distributions on a temporary sys.path, and the wheel in clean environments."""

from __future__ import annotations

import gc
import importlib
import importlib.metadata
import importlib.util
import os
import shutil
import sys
import textwrap
from pathlib import Path

if "PYTEST_XDIST_WORKER" in os.environ:
    # Before torch is imported: threads of workers that share cores wait for each other.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from hypothesis import HealthCheck, settings
from installing import ROOT, Env, run

from llama3.plugins.loader import GROUP, load_plugins
from llama3.plugins.registry import Registry

if not torch.cuda.is_available():
    # Before Triton is imported, which reads it once: kernels for a GPU are interpreted.
    os.environ.setdefault("TRITON_INTERPRET", "1")

# Until all tests are collected: modules are no garbage.
gc.disable()

# How long an example takes says nothing of right and wrong, and machines differ.
settings.register_profile("no_clock", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("no_clock")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers():
    """Of `-n auto`: three workers on two cores, since many tests wait for servers and processes."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return cores * 3 // 2


def pytest_collection_finish():
    """The first backward pass of a process decides whether autograd has threads, which no fork survives: later, an
    export that was traced has registered a device that is not there.

    And a worker imports once what torch imports at its first optimizer and in each rank, else each of its forks would.
    """
    gc.enable()
    torch.ones(1, requires_grad=True).sum().backward()
    if "PYTEST_XDIST_WORKER" in os.environ:
        importlib.import_module("torch._dynamo")
        importlib.import_module("torch.distributed.checkpoint")


@pytest.fixture(autouse=True, scope="module")
def _what_is_there_is_no_garbage():
    """Modules stay: a collection of garbage, of which each stage makes one, need not go through all of them."""
    gc.collect()
    gc.freeze()


class Site:
    """A folder of fake distributions."""

    def __init__(self, path):
        self.path = path

    def add(self, dist, source=None, *, version="1.0", entry="main", module=None, metadata=True):
        """Write a distribution with one plugin module; `source=None` points the entry at a missing module."""
        module = module or dist.replace("-", "_")
        if source is not None:
            (self.path / f"{module}.py").write_text(textwrap.dedent(source))
        info = self.path / f"{dist.replace('-', '_')}-{version}.dist-info"
        info.mkdir(exist_ok=True)
        if metadata:
            (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {dist}\nVersion: {version}\n")
        entries = info / "entry_points.txt"
        old = entries.read_text() if entries.exists() else f"[{GROUP}]\n"
        entries.write_text(f"{old}{entry} = {module}\n")

    def entries(self):
        found = []
        for dist in importlib.metadata.distributions(path=[str(self.path)]):
            found.extend(entry for entry in dist.entry_points if entry.group == GROUP)
        return found

    def load(self, environ=None):
        return load_plugins(self.entries(), environ)

    def registry(self, environ=None, **options):
        return Registry(self.load(environ), **options)


@pytest.fixture
def site(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("site")
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(folder))
    yield Site(folder)
    for name in set(sys.modules) - before:
        if (getattr(sys.modules[name], "__file__", None) or "").startswith(str(folder)):
            del sys.modules[name]


@pytest.fixture(scope="session")
def wheel(tmp_path_factory):
    """The wheel under test: `LLAMA3_WHEEL`, or one built here with whatever cargo has built already."""
    if given := os.environ.get("LLAMA3_WHEEL"):
        return Path(given).resolve()
    if shutil.which("cargo") is None or importlib.util.find_spec("maturin") is None:
        pytest.skip("building the wheel needs cargo and maturin")
    out = tmp_path_factory.mktemp("wheel")
    run([sys.executable, "-m", "maturin", "build", "--release", "--locked", "--out", out], cwd=ROOT)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="session")
def installed(wheel, tmp_path_factory):
    """A clean environment with the wheel, on the running Python, with torch within reach."""
    env = Env(tmp_path_factory.mktemp("installed") / "env")
    env.install("--no-deps", "--no-index", wheel)
    env.borrow_packages()
    return env


@pytest.fixture(scope="module")
def browser():
    """A real browser, where one is installed; the pages of a module share it."""
    playwright = pytest.importorskip("playwright.sync_api")
    program = shutil.which("chromium-headless-shell")
    if program is None:
        pytest.skip("chromium-headless-shell is not installed (apt-get install chromium-headless-shell)")
    with playwright.sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=program)
        yield found
        found.close()
