"""`llama3 cost`: the published bound to its figures, this machine measured through the engine, and what is refused."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET

import pytest
import torch
from model_files import random_model

from llama3.checkpoints.quantized import quantize_model
from llama3.checkpoints.weights import save_model
from llama3.cost.footprint import quantized
from llama3.inference.paged_cache import PagedCache
from llama3.model.config import PRESETS, ModelConfig
from llama3.plugins.registry import discover
from llama3.testing.toys import toy_tokenizer

CONFIG = ModelConfig(64, 4, 4, 2, 128, toy_tokenizer().vocab_size, max_seq_len=256)
BOUND = "bound:\n  memory: 141e9\n  bandwidth: 4.3e12\n  flops: {bf16: 788e12}\n"
"""An H200 as it was measured, without launches."""


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "model"
    save_model(random_model(CONFIG), folder, dtype=torch.bfloat16)
    toy_tokenizer().save(folder)
    return folder


@pytest.fixture
def bound(tmp_path):
    path = tmp_path / "bound.yaml"
    path.write_text(BOUND)
    return path


@pytest.fixture
def ask(llama3):
    """The report of a question."""

    def call(*args):
        code, printed, told = llama3("cost", *args, "--json")
        assert code == 0, told
        return json.loads(printed)

    return call


def by_point(report, gpu=None):
    rows = report["rows"]
    return {(row["quantization"], row["batch"], row["context"]): row for row in rows if gpu in (None, row["gpu"])}


# -- the bound ---------------------------------------------------------------------------------------------------------

FIGURES = {
    "bf16": (15.0e9, 284, 11.7e3),
    "fp8_rowwise": (9.7e9, 436, 15.0e3),
    "int8": (8.0e9, 527, 16.6e3),
    "int4": (4.8e9, 879, 20.6e3),
}
"""Llama 3 8B by the bound at 4.3 TB/s: bytes that a step reads; tokens/s of 1 and of 64 answers, 1,024 tokens each. The
output matrix stays in bfloat16. Scales, which the figures leave out, are up to 0.3 % of the bytes."""


def test_the_bound_of_8b_to_its_figures(ask, bound):
    formats = ",".join(FIGURES)
    report = ask("llama-3.1-8b", "--gpu", bound, "--quantization", formats, "--batch", "1,64", "--context", "1024")
    rows = by_point(report)
    for name, (read, alone, together) in FIGURES.items():
        assert report["formats"][name]["read"] == pytest.approx(read, rel=0.01)
        assert rows[name, 1, 1024]["tokens_per_second"] == pytest.approx(alone, rel=0.004)
        assert rows[name, 64, 1024]["tokens_per_second"] == pytest.approx(together, rel=0.005)
        assert 64 / rows[name, 64, 1024]["seconds_per_token"] == pytest.approx(together, rel=0.005)
        parts = rows[name, 64, 1024]["predicted"]["parts"]
        assert 1.2e-3 < parts["compute"] < parts["read"]  # 2 P B / F and attention


def test_128k_tokens_and_what_fits(ask, bound):
    rows = by_point(ask("llama-3.1-8b", "--gpu", bound, "--batch", "1,6,64", "--context", "131072"))
    assert rows["bf16", 1, 131072]["tokens_per_second"] == pytest.approx(134, rel=0.005)
    assert rows["bf16", 1, 131072]["memory"]["cache"] == 16 * 2**30
    assert rows["bf16", 1, 131072]["max_batch"] == 6
    assert rows["bf16", 6, 131072]["fits"]
    row = rows["bf16", 64, 131072]
    assert (row["fits"], row["tokens_per_second"], row["predicted"], row["on_front"]) == (False, None, None, None)
    assert row["note"].startswith("does not fit: 1,115.6 GB needed, 126.9 GB there")


def test_a_prompt_takes_its_products_and_its_attention(ask, bound):
    rows = by_point(ask("llama-3.1-8b", "--gpu", bound, "--context", "1024,131072"))
    short, long = (rows["bf16", 1, context]["prompt_seconds"] for context in (1024, 131072))
    assert short == pytest.approx(2 * 6.98e9 * 1023 / 788e12, rel=0.03)
    assert long == pytest.approx((2 * 6.98e9 * 131071 + 2 * 131071**2 * 4096 * 32) / 788e12, rel=0.01)


def test_the_405b_is_served_as_the_paper_serves_it(ask):
    """16 GPUs in bfloat16, 8 in FP8, which are 812 GB and about 60 GB a GPU of weights."""
    report = ask("llama-3.1-405b", "--gpu", "h100", "--gpus", "8", "--quantization", "bf16,fp8_rowwise")
    rows = by_point(report)
    assert report["formats"]["bf16"]["resident"] == 2 * PRESETS["llama-3.1-405b"].num_params()
    assert [rows[name, 1, 1024]["fits"] for name in ("bf16", "fp8_rowwise")] == [False, True]
    row = rows["fp8_rowwise", 1, 1024]
    assert 55e9 < row["memory"]["weights"] < 70e9
    assert row["tokens_per_second_per_gpu"] == row["tokens_per_second"] / 8
    assert row["predicted"]["parts"]["send"] > 0
    # FP8 products run at their own rate, the others at that of bfloat16.
    assert set(report["formats"]["fp8_rowwise"]["factors"]) == {"fp8", "bf16"}


def test_a_price_is_that_of_the_gpus_over_what_they_make(ask):
    question = ("llama-3.1-70b", "--gpu", "a100", "--gpus", "4")
    for price, extra in ((2.5, ("--price", "2.5")), (1.79, ())):
        for row in ask(*question, *extra)["rows"]:
            hourly = 4 * price
            assert row["price_per_million"]["output"] == pytest.approx(hourly / 3600 / row["tokens_per_second"] * 1e6)
            assert row["price_per_million"]["input"] == pytest.approx(
                hourly / 3600 / row["prompt_tokens_per_second"] * 1e6
            )
    report = ask("llama-3.1-8b", "--gpu", "l4")
    assert report["price"] is None
    assert all(row["price_per_million"] is None for row in report["rows"])


def test_points_of_one_context_are_compared(ask, bound):
    report = ask("llama-3.1-8b", "--gpu", bound, "--quantization", "bf16,int4", "--batch", "1,64",
                 "--context", "1024,8192")  # fmt: skip
    assert {point for point, row in by_point(report).items() if row["on_front"]} == {
        ("int4", batch, context) for batch in (1, 64) for context in (1024, 8192)
    }


# -- what schemes store ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["int8", "int4", "fp8_rowwise", "int8_dynamic"])
def test_bytes_are_those_of_a_quantized_model(name):
    options = {"group": 64} if name == "int4" else {}
    scheme = discover().build("quantization", name, options)
    model = random_model(CONFIG).bfloat16()
    quantize_model(model, scheme)
    kept = sum(tensor.nbytes for tensor in model.state_dict().values())
    found = quantized(CONFIG, name, scheme, inputs=False)
    assert found.resident == kept
    assert found.read == kept - model.embed.weight.nbytes


FOREIGN = """
import torch
from torch import nn
from llama3.plugins import QuantizationSpec, hookimpl

@hookimpl
def llama3_quantization_schemes():
    names = ("Odd", "Stubborn")
    return [QuantizationSpec(name=name.lower(), factory=f"foreign_main:{name}") for name in names]

class Odd:
    '''Every second layer's down matrix in bytes, with two numbers of 64 bits for each row.'''
    def supports(self, device):
        return ()
    def targets(self, config):
        return [f"layers.{n}.ffn.down" for n in range(0, config.n_layers, 2)]
    def quantize(self, weights, calibration):
        return {name: {"codes": w.to(torch.int8), "ends": torch.stack([w.amin(1), w.amax(1)]).double()}
                for name, w in weights.items()}

class Stubborn(Odd):
    def quantize(self, weights, calibration):
        return {name: {"codes": w.to(torch.int8), "scale": float(w.max())} for name, w in weights.items()}
"""


def test_a_third_partys_scheme_is_counted_as_it_stores(site, llama3, ask):
    site.add("foreign", FOREIGN, module="foreign_main")
    discover.cache_clear()
    try:
        report = ask("llama-3.1-8b", "--gpu", "h100", "--quantization", "odd")
        plain = 2 * PRESETS["llama-3.1-8b"].num_params()
        assert report["formats"]["odd"]["resident"] == plain - 16 * (4096 * 14336 - 2 * 8 * 4096)
        code, _, told = llama3("cost", "llama-3.1-8b", "--gpu", "h100", "--quantization", "stubborn")
        assert code == 4
        assert "stubborn: quantization.stubborn does not tell what it stores" in told
        assert "[L3-CST-003]" in told
    finally:
        discover.cache_clear()


# -- this machine ------------------------------------------------------------------------------------------------------


def test_a_model_is_measured_and_the_error_of_its_prediction_told(model, llama3, tmp_path):
    out = tmp_path / "out"
    asked = ("cost", model, "--quantization", "bf16,int8", "--batch", "1,3", "--context", "64,200", "--out", out)
    code, printed, _ = llama3(*asked, "--json")
    assert code == 0
    report = json.loads(printed)
    assert json.loads((out / "cost.json").read_text()) == report
    assert list(report["gpus"]) == ["here"]
    rows = by_point(report)
    assert len(rows) == 8
    for (_, batch, context), row in rows.items():
        assert row["note"] == ""
        assert row["price_per_million"] is None
        assert row["seconds_per_token"] == row["measured"]["seconds_per_token"] > 0
        assert row["tokens_per_second"] == pytest.approx(batch / row["seconds_per_token"])
        assert row["prompt_tokens_per_second"] == pytest.approx((context - 1) / row["measured"]["prompt_seconds"])
    for name, rate in (("steps", "tokens_per_second"), ("prompts", "prompt_tokens_per_second")):
        errors = [
            abs(row["predicted"][rate] / row["measured"][rate] - 1)
            for (_, batch, _), row in rows.items()
            if name == "steps" or batch == 1
        ]
        assert report["error"][name]["points"] == len(errors)
        assert report["error"][name]["max"] == pytest.approx(max(errors))
    assert set(report["error"]["steps_by_quantization"]) == {"bf16", "int8"}

    page = (out / "cost.html").read_text()
    assert not re.search(r"""(?:src|href)=|url\(|<script""", page)
    assert page.count("<svg") == 2
    for svg in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        marks = list(ET.fromstring(svg).iter("circle"))
        assert len(marks) == 4
        assert any("beaten" not in mark.attrib["class"] for mark in marks)

    code, _, told = llama3(*asked)
    assert code == 2
    assert "[L3-CNV-001]" in told


def test_steps_are_timed_at_the_context_that_was_asked_for(model, ask, monkeypatch):
    planned = []
    plan = PagedCache.plan

    def watched(self, rows, starts, ends):
        planned.append((sorted(ends.tolist()), int((ends - starts).sum())))
        return plan(self, rows, starts, ends)

    monkeypatch.setattr(PagedCache, "plan", watched)
    row = by_point(ask(model, "--batch", "3", "--context", "240"))["bf16", 3, 240]
    assert row["measured"] is not None
    steps = [ends for ends, new in planned if new == 3 and len(ends) == 3]
    assert steps[0] == [225] * 3  # the last token of each prompt; all others were found in the cache
    assert steps == [[225 + number] * 3 for number in range(15)]
    assert max(ends[-1] for ends, _ in planned) == 239
    assert ([239], 239) in planned  # a prompt that is computed whole


def test_what_is_predicted_for_others_comes_with_the_error_here(model, llama3, ask):
    asked = (model, "--gpu", "h100", "--batch", "1", "--context", "64")
    report = ask(*asked)
    assert {row["gpu"] for row in report["rows"]} == {"h100", "here"}
    assert by_point(report, "h100")["bf16", 1, 64]["measured"] is None
    assert by_point(report, "here")["bf16", 1, 64]["price_per_million"] is None
    assert report["error"]["steps"]["points"] == 1
    _, printed, _ = llama3("cost", *asked)
    assert re.search(r"^bf16 +1 +64 +\S+ +.*front$", printed, re.MULTILINE)
    assert "MEASURED" not in printed
    assert re.search(r"^error of predicted tokens/s on this machine: median \d+%, largest \d+%", printed, re.MULTILINE)

    report = ask(*asked, "--seconds", "0")
    assert list(report["gpus"]) == ["h100"]
    assert report["error"]["steps"] is None


def test_what_does_not_fit_here_is_a_row(model, llama3):
    code, printed, _ = llama3("cost", model, "--batch", "1,1000000000", "--context", "256")
    assert code == 0
    assert re.search(r"^bf16 +1,000,000,000 +256 +- .*does not fit: [\d,.]+ GB needed, ", printed, re.MULTILINE)
    assert re.search(r"^bf16 +1 +256 +[\d,.]+ ", printed, re.MULTILINE)
    code, printed, _ = llama3(
        "cost", model, "--batch", "60000", "--context", "16"
    )  # more blocks than the pager numbers
    assert code == 0
    assert re.search(r"^bf16 +60,000 +16 +- .*; not measured: the cache of .* tokens needs ", printed, re.MULTILINE)


def test_time_that_is_over_is_said(model, llama3):
    _, printed, _ = llama3("cost", model, "--seconds", "0.000001")
    assert printed.count("not measured: the time was over (--seconds)") == 2
    assert "nothing was measured on this machine" in printed
    _, printed, _ = llama3("cost", "tiny")
    assert printed.count("not measured: a shape has no weights") == 2


def test_a_quantized_model_is_asked_about_as_it_is(model, llama3, ask, tmp_path):
    small = tmp_path / "small"
    assert llama3("quantize", model, small, "--scheme", "int4", "--set", "group=32", "--prompts", "0")[0] == 0
    report = ask(small, "--batch", "1", "--context", "64")
    assert by_point(report)["int4", 1, 64]["measured"] is not None
    other = ask(model, "--quantization", "int4", "--set", "int4.group=32", "--seconds", "0")
    assert report["formats"] == other["formats"]
    code, _, told = llama3("cost", small, "--quantization", "bf16,int4", "--context", "64")
    assert code == 2
    assert "--quantization bf16: the model is quantized by int4 already" in told
    code, _, told = llama3("cost", small, "--set", "int4.group=64", "--context", "64")
    assert code == 2
    assert "[L3-CST-012]" in told


# -- what is refused ---------------------------------------------------------------------------------------------------


def problems(llama3, *args):
    code, printed, told = llama3("cost", *args)
    assert (code, printed) == (2, "")
    return [line.removeprefix("error: ") for line in told.splitlines()]


def test_everything_that_is_wrong_is_told_at_once(llama3, model):
    told = problems(
        llama3, model, "--gpu", "h10", "--gpus", "4", "--quantization", "bf17,int4", "--set", "int4.group=100",
        "--set", "int8.group=3", "--batch", "0,x,1.5,", "--context", f"1,64,257,{'9' * 5000}", "--price", "nan",
        "--device", "tpu",
    )  # fmt: skip
    codes = [re.search(r"\[(\S+)\]$", line)[1] for line in told]
    assert codes.count("L3-CST-006") == 6
    assert set(codes) == {
        "L3-CST-001", "L3-CST-005", "L3-CST-006", "L3-CST-007", "L3-CST-008", "L3-CST-009", "L3-CST-013",
        "L3-QNT-007", "L3-TRN-031",
    }  # fmt: skip
    assert any("did you mean 'h100'?" in line for line in told)
    assert any("did you mean 'bf16'?" in line for line in told)
    assert any("257 tokens are more than the model's context of 256" in line for line in told)


def test_a_model_that_is_none_a_scheme_of_another_device_and_several_of_this_one(llama3, tmp_path):
    told = problems(llama3, "llama-3.1-8", "--batch", "0")
    assert "did you mean 'llama-3.1-8b'" in told[-2] + told[0]
    assert len(told) == 2
    code, _, text = llama3("cost", "llama-3.1-8b", "--gpu", "h100", "--quantization", "int8_dynamic")
    assert code == 4
    assert "[L3-QNT-006]" in text
    assert "[L3-CST-010]" in problems(llama3, "llama-3.1-8b", "--gpus", "2")[0]
    (tmp_path / "empty").mkdir()
    code, _, text = llama3("cost", tmp_path / "empty")
    assert code == 1
    assert "no model is here" in text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a:\n  memory: 1\n  bandwidth: -1\n  flops: {bf16: 1}\n", "gpu.yaml:3:3: a.bandwidth: "),
        ("a:\n  memory: 1\n  bandwidth: 1\n  flops: {fp8: 1}\n", "gpu.yaml:4:3: a.flops: needs bf16"),
        ("a:\n  memory: 1\n  bandwith: 1\n  flops: {bf16: 1}\n", "a.bandwith: unknown key. did you mean 'bandwidth'?"),
        ("a: 3\n", "gpu.yaml:1:1: a: "),
        (f"{BOUND}{BOUND.replace('bound', 'other')}", "describes 2 GPUs"),
        ("3\n", "describes 0 GPUs"),
        (BOUND.replace("bound", "here"), "a GPU is called `here`"),
        ("a: [", "not valid YAML"),
    ],
)
def test_a_file_that_describes_no_gpu(llama3, tmp_path, text, said):
    (tmp_path / "gpu.yaml").write_text(text)
    told = problems(llama3, "llama-3.1-8b", "--gpu", tmp_path / "gpu.yaml")
    assert any(said in line for line in told)


def test_several_gpus_need_a_link(llama3, bound):
    (told,) = problems(llama3, "llama-3.1-8b", "--gpu", bound, "--gpus", "2")
    assert "no `link`" in told


@pytest.mark.parametrize("short", ["8b", "70B", "405b", "3.2-1b"])
def test_a_shape_has_the_same_short_names_as_in_a_plan(llama3, ask, short):
    asked = ("--gpu", "h100", "--quantization", "bf16")
    gpus = ("--gpus", "8") if short in ("70B", "405b") else ()
    name = ask(short, *asked, *gpus)["model"]["name"]
    layout = ("--gpus", "2048", "--layout", "8,1,16,16")
    code, printed, _ = llama3("plan", short, *layout, "--json")
    assert (code, json.loads(printed)["model"]) == (0, name)
