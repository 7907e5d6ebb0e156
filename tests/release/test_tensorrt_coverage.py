"""The decoder step in torch-tensorrt: which of its operators have converters, by the golden file beside this test."""

from __future__ import annotations

import json
import re
import zipfile
from pathlib import Path

import pytest
import torch
from tensorrt_coverage import GOLDEN, converters, decompositions, operators, toy_step

LEFT = {"operator.neg": "of a length, where a slice is counted from the end; its converter came with 2.13"}
"""Operators without a converter in some version: torch computes them, outside of the engine."""


KINDS = ("converted", "converted_if_its_validator_agrees")


def golden():
    return json.loads(GOLDEN.read_text())


@pytest.fixture(scope="module")
def step():
    return toy_step()


@pytest.mark.parametrize("version", golden()["torch_tensorrt"])
def test_our_graph_calls_what_the_golden_file_lists(step, version):
    if torch.__version__.split(".")[:2] != golden()["torch"].split(".")[:2]:
        pytest.skip(f"torch {golden()['torch']} traced the golden graph, this is {torch.__version__}")
    entry = golden()["torch_tensorrt"][version]
    converted = {*entry["converted"], *entry["converted_if_its_validator_agrees"]}
    assert operators(step, converted, entry["taken_apart_besides"]) == converted | set(entry["left_to_torch"])


def test_what_has_no_converter_is_named():
    left = {name for entry in golden()["torch_tensorrt"].values() for name in entry["left_to_torch"]}
    assert left == LEFT.keys()
    assert golden()["torch_tensorrt"]["2.13.0"]["left_to_torch"] == []


def test_converters_are_read_from_the_sources_of_a_wheel(tmp_path):
    wheel = tmp_path / "torch_tensorrt-1.whl"
    with zipfile.ZipFile(wheel, "w") as files:
        files.writestr(
            "torch_tensorrt/dynamo/conversion/some_converters.py",
            "import nothing_that_is_installed\n"
            "@dynamo_tensorrt_converter(torch.ops.aten.cat.default, supports_dynamic_shapes=True)\n"
            "@dynamo_tensorrt_converter(torch.ops.aten.matmul, capability_validator=f, supports_dynamic_shapes=True)\n"
            "@dynamo_tensorrt_converter(torch.ops.aten.repeat.default)\n"
            "@dynamo_tensorrt_converter(operator.neg, supports_dynamic_shapes=True)\n"
            "def convert(): ...\n",
        )
        files.writestr("torch_tensorrt/dynamo/other.py", "@dynamo_tensorrt_converter(torch.ops.aten.exp.default)\n")
        files.writestr(
            "torch_tensorrt/dynamo/lowering/_decomposition_groups.py",
            "torch_enabled_decompositions: Set[int] = {aten.repeat, aten.eye.m}\n",
        )
    assert converters(wheel) == {"aten.cat.default": False, "aten.matmul.default": True, "operator.neg": False}
    assert decompositions(wheel) == ["aten.repeat", "aten.eye.m"]


def test_the_page_says_so():
    page = (Path(__file__).parents[2] / "docs" / "export.md").read_text(encoding="utf-8")
    for version, entry in golden()["torch_tensorrt"].items():
        figures = [entry["converters"], *(len(entry[name]) for name in KINDS), ", ".join(entry["left_to_torch"]) or "-"]
        (row,) = re.findall(rf"^\| .*{re.escape(version)}.*", page, re.MULTILINE)
        assert row.endswith(f" | {' | '.join(map(str, figures))} |")
