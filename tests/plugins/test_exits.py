"""`sys.exit` in a plugin is a failure of the plugin, wherever it is called: nothing ends as if all were well."""

from __future__ import annotations

import sys

import pytest

import llama3
from llama3.artifacts import stage
from llama3.artifacts.progress import Display
from llama3.artifacts.run import RunDir
from llama3.errors import PluginError
from llama3.plugins.registry import discover
from llama3.training.metrics import Loggers

LEAVING = """
import sys
from pydantic import BaseModel, field_validator
from llama3.plugins import RewardSpec, hookimpl


@hookimpl
def llama3_rewards():
    return [
        RewardSpec(name="leaver", factory="leaving:Leaver"),
        RewardSpec(name="picky", factory="leaving:Leaver", options="leaving:Options"),
    ]


@hookimpl
def llama3_run_start(run_dir, config):
    sys.exit(0)


class Options(BaseModel):
    depth: int = 1

    @field_validator("depth")
    @classmethod
    def _never(cls, value):
        sys.exit(0)


class Leaver:
    def __init__(self, options=None):
        sys.exit(0)
"""


@pytest.fixture
def leaving(site):
    site.add("leaving", LEAVING)
    discover.cache_clear()
    yield
    discover.cache_clear()


def test_of_a_factory(leaving):
    with pytest.raises(PluginError, match=r"leaving:leaver 1\.0.*SystemExit: 0.*L3-PLG-017"):
        discover().build("rewards", "leaver")


def test_of_options(leaving):
    with pytest.raises(PluginError, match=r"leaving\.py:\d+.*SystemExit: 0.*L3-PLG-022"):
        discover().options("rewards", "picky", {"depth": 2})
    with pytest.raises(PluginError, match="L3-PLG-022"):
        llama3.run({"post_training": {"rewards": [{"name": "picky", "depth": 2}]}})


def test_of_an_observer(leaving, tmp_path, caplog):
    discover().observers.notify("llama3_run_start", run_dir=tmp_path, config={})
    assert "llama3_run_start failed and is switched off: SystemExit: 0" in caplog.text


def test_of_a_logger(tmp_path, caplog):
    class Leaving:
        def open(self, directory, stage):
            sys.exit(0)

    loggers = Loggers([("leaver", Leaving())])
    loggers.open(tmp_path, "x")
    loggers.log(1, {})
    assert "logger 'leaver' failed in open()" in caplog.text


@pytest.mark.parametrize("code", [0, 3, "bye"])
def test_within_a_stage(tmp_path, code):
    @stage(output="report")
    def leave(*, out):
        sys.exit(code)

    run = RunDir(tmp_path, Display.silent())
    with pytest.raises(PluginError, match=r"test_exits\.py:\d+: tried to end the program.*L3-PLG-022"):
        run.execute(leave, {})
    assert [row["kind"] for row in run.rows("events")][-1] == "stage_failed"
    assert list(run.artifacts.iterdir()) == []
