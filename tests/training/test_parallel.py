"""Strategies: what they refuse before anything starts, what they say they cost."""

import pytest
import torch

from llama3.config.schema import ParallelismSection
from llama3.errors import ConfigError, DoesNotFit
from llama3.model.config import PRESETS
from llama3.plugins.registry import discover
from llama3.training.parallel import Dims, GlobalStats, ParallelContext, StepShape, start

CPU = torch.device("cpu")
TINY, LARGE = PRESETS["tiny"], PRESETS["llama-3-8b"]


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


def test_fsdp_shares_the_state_and_pays_in_traffic():
    step = StepShape(tokens=1 << 20, microbatch_tokens=8192)
    single, fsdp = (discover().build("parallelism", name) for name in ("single", "fsdp"))
    alone = single.estimate(LARGE, Dims(), step)
    assert alone.sent == 0
    assert alone.memory > 16 * LARGE.num_params()
    costs = [fsdp.estimate(LARGE, Dims(dp=n), step) for n in (1, 8, 64)]
    assert costs[0].sent == 0
    assert costs[0].memory > costs[1].memory > costs[2].memory
    # 1 Mi tokens on 8 ranks are 16 microbatches; each gathers twice and scatters once 7/8 of the fp32 weights.
    assert costs[1].sent == 16 * (3 * 4 * LARGE.num_params() * 7 // 8)


@pytest.mark.parametrize(("dims", "passes"), [(Dims(), 4), (Dims(dp=2), 2), (Dims(dp=3), 2), (Dims(tp=2), 4)])
def test_microbatches_per_rank(dims, passes):
    assert StepShape(tokens=4096, microbatch_tokens=1024).microbatches(dims) == passes


def test_moments_of_one_rank():
    x_N = torch.tensor([1.0, 2.0, 4.0])
    mean, std = GlobalStats(ParallelContext(CPU)).moments(x_N)
    torch.testing.assert_close(mean, x_N.mean())
    torch.testing.assert_close(std, x_N.std())
    assert GlobalStats(ParallelContext(CPU)).moments(x_N[:1])[1] == 0
