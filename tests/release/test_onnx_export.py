"""The exporter `onnx`, run by onnxruntime token for token beside our engine."""

from __future__ import annotations

import json

import pytest
import torch
from exporting import (
    CONFIG,
    assert_computes_many_sequences_at_once,
    assert_draws_the_engine_s_tokens,
    write_checkpoint,
)

from llama3.cli import app as cli
from llama3.model.config import ModelConfig
from llama3.plugins import registry
from llama3.plugins.registry import discover
from llama3.release.decoder_step import input_names

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")
TYPES = {"int8": "INT8", "fp8": "FLOAT8E4M3FN"}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A checkpoint: its folder and the model."""
    folder = tmp_path_factory.mktemp("checkpoint")
    return folder, write_checkpoint(folder)


@pytest.fixture(scope="module")
def checkpoint(made):
    return made[0]


@pytest.fixture(scope="module")
def exported(checkpoint, tmp_path_factory):
    """An export through the command line: its folder and what was told."""
    out = tmp_path_factory.mktemp("exported") / "onnx"
    told = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("llama3.cli.export.print_json", told.append)
        with pytest.raises(SystemExit) as caught:
            cli.main(["export", str(checkpoint), str(out), "--to", "onnx", "--json"])
    assert caught.value.code == 0
    return out, told[0]


@pytest.fixture
def run(exported):
    session = ort.InferenceSession(exported[0] / "model.onnx", providers=["CPUExecutionProvider"])

    def run(inputs):
        given = {name: x.numpy() for name, x in zip(input_names(CONFIG), inputs, strict=True)}
        return [torch.from_numpy(x) for x in session.run(None, given)]

    return run


def test_it_is_verified_by_onnxruntime(exported):
    told = exported[1]
    assert told["verified"]["runtime"].startswith("onnxruntime")
    assert told["verified"]["tokens"] == told["verified"]["same_tokens"] == 32
    assert set(told["manifest"]["files"]) >= {"model.onnx", "config.json", "tokenizer.json", "probe.safetensors"}


def test_onnxruntime_draws_the_engine_s_tokens(run, made):
    assert_draws_the_engine_s_tokens(run, made[1])


def test_many_sequences_at_once(run, made):
    assert_computes_many_sequences_at_once(run, made[1])


def test_the_graph_is_small_and_says_nothing_of_this_machine(exported):
    loaded = onnx.load(exported[0] / "model.onnx")
    onnx.checker.check_model(loaded)
    assert [(one.domain, one.version) for one in loaded.opset_import] == [("", 23)]
    kinds = [node.op_type for node in loaded.graph.node]
    assert kinds.count("Attention") == CONFIG.n_layers
    assert kinds.count("RMSNormalization") == 2 * CONFIG.n_layers + 1
    loaded.graph.ClearField("initializer")
    assert b".py" not in loaded.SerializeToString()


def test_float16_is_verified_too(checkpoint, tmp_path):
    exporter = discover().build("exporters", "onnx", {"precision": "fp16"})
    exporter.export(checkpoint, tmp_path)
    report = exporter.verify(tmp_path)
    assert report.passed
    assert 1e-5 < report.difference < 0.05
    assert json.loads((tmp_path / "config.json").read_text())["vocab_size"] == 320


@pytest.mark.parametrize("kind", ["int8", "fp8"])
def test_quantized_matrices_are_verified_too(tmp_path, kind):
    write_checkpoint(tmp_path / "checkpoint", ModelConfig(64, 4, 4, 2, 96, 320, max_seq_len=128))
    (tmp_path / "out").mkdir()
    exporter = discover().build("exporters", "onnx", {"quantize": kind})
    made = exporter.export(tmp_path / "checkpoint", tmp_path / "out")
    assert exporter.verify(tmp_path / "out").passed
    assert 1e-5 < made.rounding < 0.2
    assert f"4 feed-forward matrices in {kind}" in made.notes[0]
    graph = onnx.load(tmp_path / "out" / "model.onnx").graph
    kinds = [node.op_type for node in graph.node]
    assert kinds.count("QuantizeLinear") == 4
    assert kinds.count("DequantizeLinear") == 8
    stored = [one for one in graph.initializer if one.data_type == getattr(onnx.TensorProto, TYPES[kind])]
    matrices = sorted(tuple(one.dims) for one in stored if len(one.dims) == 2)
    assert matrices == [(64, 96), (64, 96), (192, 64), (192, 64)], "two layers, in 8 bits"
    scales = {node.input[1] for node in graph.node if node.op_type == "DequantizeLinear"}
    shapes = sorted({tuple(one.dims) for one in graph.initializer if one.name in scales})
    assert shapes == ([(), (64,), (192,)] if kind == "int8" else [()]), "fp8 has one scale per tensor"


def test_a_missing_package_is_named_with_the_extra(checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(registry, "_importable", lambda module: module != "onnxscript")
    with pytest.raises(SystemExit) as caught:
        cli.main(["export", str(checkpoint), str(tmp_path / "out"), "--to", "onnx"])
    assert caught.value.code == 4
    assert "needs onnxscript. Fix: pip install 'llama3[onnx]'" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
