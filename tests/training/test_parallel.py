"""Strategies: what they refuse before anything starts."""

import pytest
import torch

from llama3.config.schema import ParallelismSection
from llama3.errors import ConfigError, DoesNotFit
from llama3.model.config import PRESETS
from llama3.plugins.registry import discover
from llama3.training.parallel import Dims, GlobalStats, ParallelContext, start

CPU = torch.device("cpu")
TINY = PRESETS["tiny"]


def test_a_single_process_needs_no_process_group():
    parallel = start(ParallelismSection(), TINY, CPU, discover())
    assert parallel.context == ParallelContext(CPU, Dims())
    assert parallel.context.is_main
    assert parallel.context.reduce([1, 2], "sum") == [1, 2]


@pytest.mark.parametrize("section", [{"tp": 2}, {"cp": 2}, {"pp": 2}])
def test_an_axis_that_no_plugin_supplies_is_refused(section):
    with pytest.raises(ConfigError, match="L3-PAR-001"):
        start(ParallelismSection.model_validate(section), TINY, CPU, discover())


def test_single_refuses_company_and_names_the_way_out(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match=r"runs in one process, this run has 2.*name: fsdp, size: 2"):
        start(ParallelismSection(), TINY, CPU, discover())


def test_a_world_of_another_size_is_refused():
    section = ParallelismSection.model_validate({"dp": {"name": "fsdp", "size": 4}})
    with pytest.raises(DoesNotFit, match=r"needs 4 processes, this run has 1.*--nproc-per-node 4"):
        start(section, TINY, CPU, discover())


def test_moments_of_one_rank():
    x_N = torch.tensor([1.0, 2.0, 4.0])
    mean, std = GlobalStats(ParallelContext(CPU)).moments(x_N)
    torch.testing.assert_close(mean, x_N.mean())
    torch.testing.assert_close(std, x_N.std())
    assert GlobalStats(ParallelContext(CPU)).moments(x_N[:1])[1] == 0
