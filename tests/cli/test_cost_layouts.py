"""`llama3 cost --layout`: what pipelines with micro-batches give, against the paper's figures and by hand."""

from __future__ import annotations

import json

import pytest

from llama3.cost.bound import Bounds
from llama3.cost.footprint import plain
from llama3.cost.gpus import find_gpu
from llama3.cost.layout import GpuLayout
from llama3.model.config import PRESETS

HERD = "llama-3.1-405b"
CONTEXT = 4096 + 256
"""Of the paper's figures 24 and 27."""


@pytest.fixture
def ask(llama3):
    """The rows of a question about the largest model, by layout, micro-batches and batch."""

    def call(*args):
        code, printed, told = llama3("cost", HERD, "--gpu", "h100", "--context", str(CONTEXT), *args, "--json")
        assert code == 0, told
        rows = json.loads(printed)["rows"]
        return {(f"{row['tp']}x{row['pp']}", row["microbatches"], row["batch"]): row for row in rows}

    return call


def test_micro_batches_raise_throughput_at_equal_local_batches_in_both_phases(ask):
    """Paper, figure 24: 405B in bfloat16 on two nodes, tp inside a node and pp across."""
    rows = ask("--gpus", "16", "--layout", "8x2", "--batch", "8,16,32,64,128")
    for local in (8, 16, 32, 64):
        without, with_them = rows["8x2", 1, local], rows["8x2", 2, 2 * local]
        assert with_them["tokens_per_second"] > 1.9 * without["tokens_per_second"]
        assert with_them["seconds_per_token"] >= without["seconds_per_token"]
        assert with_them["on_front"]
        assert not without["on_front"]
        assert with_them["prompt_tokens_per_second"] == pytest.approx(2 * without["prompt_tokens_per_second"])


def test_fp8_on_one_node_reads_prompts_with_half_as_much_again_of_each_gpu(ask):
    """Paper, 6.2: FP8 on one node against bfloat16 on two: up to 50% more throughput of the prompts."""
    two = ask("--gpus", "16", "--layout", "8x2", "--batch", "16")["8x2", 2, 16]
    one = ask("--gpus", "8", "--quantization", "fp8_rowwise", "--batch", "16")["8x1", 1, 16]
    assert not ask("--gpus", "8", "--batch", "1")["8x1", 1, 1]["fits"], "bfloat16 needs two nodes"
    assert 1.2 < one["prompt_tokens_per_second"] / 8 / (two["prompt_tokens_per_second"] / 16) < 1.6
    assert one["tokens_per_second_per_gpu"] > two["tokens_per_second_per_gpu"]
    assert one["seconds_per_token"] < two["seconds_per_token"]


def test_what_gpus_send_is_counted_over_the_links_that_it_takes():
    config, (_, gpu) = PRESETS[HERD], find_gpu("h100")
    taken, batch = plain(config, "bf16"), 32
    states = 2 * config.dim * batch // 2  # bytes of the hidden states of one of two micro-batches
    found = Bounds(config, taken, gpu, GpuLayout(8, 2, 2)).step(batch, CONTEXT)
    ring = 2 * 7 / 8 * config.n_layers * states / (gpu.link / 2)  # of 2 all-reduces a layer, half of the layers
    assert found.send == pytest.approx(2 * (ring + states / 8 / gpu.network))
    near = Bounds(config, taken, gpu, GpuLayout(4, 2, 2)).step(batch, CONTEXT)
    ring = 2 * 3 / 4 * config.n_layers * states / (gpu.link / 2)
    assert near.send == pytest.approx(2 * (ring + states / 4 / (gpu.link / 2)))
    assert Bounds(config, taken, gpu).step(batch, CONTEXT).send == 0


def test_every_layout_that_there_is(ask):
    found = {(layout, count) for layout, count, _ in ask("--gpus", "16", "--layout", "all", "--batch", "16")}
    sizes = [(8, 2), (4, 4), (2, 8), (1, 16)]
    assert found == {(f"{tp}x{pp}", count) for tp, pp in sizes for count in (1, pp)}
    few = ask("--gpus", "16", "--layout", "all", "--batch", "3")
    assert ("4x4", 4, 3) not in few, "no micro-batch is empty"
    assert ("8x2", 2, 3) in few


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (["--layout", "8*2"], "L3-SRV-062"),
        (["--layout", "4x2"], "L3-SRV-063"),
        (["--layout", "16x1"], "L3-SRV-064"),
        ([], "L3-CST-009"),
        (["--gpus", "1024", "--layout", "all"], "L3-SRV-066"),
        (["--gpu", "l4", "--gpu", "h100"], "L3-SRV-065"),
    ],
)
def test_what_is_no_layout(llama3, options, code):
    status, _, told = llama3("cost", HERD, "--gpu", "h100", "--gpus", "16", *options)
    assert (status, code in told) == (2, True), told


def test_a_gpu_without_a_network_is_asked_for_it(llama3):
    status, _, told = llama3("cost", HERD, "--gpu", "l4", "--gpus", "16", "--layout", "8x2")
    assert status == 2
    assert "no `network`" in told


def test_the_table_and_the_page_tell_layouts_and_the_price(llama3, tmp_path):
    out = tmp_path / "costs"
    arguments = ["--gpu", "h100", "--gpus", "4", "--layout", "2x2", "--batch", "8", "--price", "2.5", "--out", str(out)]
    code, printed, told = llama3("cost", "llama-3.1-8b", *arguments)
    assert code == 0, told
    assert "2.5 an hour each" in printed
    assert [line.split()[:4] for line in printed.splitlines() if line.startswith("2 x 2")] == [
        ["2", "x", "2", "1"], ["2", "x", "2", "2"]]  # fmt: skip
    assert "bf16, 2 x 2, 2 micro-batches" in (out / "cost.html").read_text()


@pytest.mark.parametrize(("kind", "each"), [("auto", 2 * 128), ("int8", 128 + 4), ("fp8", 128 + 4)])
def test_a_cache_of_codes_is_counted(llama3, kind, each):
    code, printed, told = llama3("cost", HERD, "--gpu", "h100", "--kv-cache-dtype", kind, "--json")
    assert code == 0, told
    report = json.loads(printed)
    config = PRESETS[HERD]
    assert report["kv_cache_dtype"] == kind
    assert report["formats"]["bf16"]["cache"] == 2 * config.n_layers * config.n_kv_heads * each
