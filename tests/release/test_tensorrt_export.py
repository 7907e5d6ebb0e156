"""The exporters `tensorrt` and `tensorrt_rtx`: engines are built where TensorRT-RTX is installed. None is ever run."""

from __future__ import annotations

import importlib.util
import sys

import pytest
from exporting import write_checkpoint

from llama3.cli import app as cli
from llama3.errors import CheckpointError
from llama3.model.config import ModelConfig
from llama3.plugins.registry import discover
from llama3_plugins.exporters.tensorrt import TensorRTExporter, TensorRTOptions

CONFIG = ModelConfig(64, 3, 4, 2, 96, 320, max_seq_len=128)
INSTALLED = importlib.util.find_spec("tensorrt_rtx_bindings") is not None
needs_rtx = pytest.mark.skipif(not INSTALLED, reason="TensorRT-RTX is not installed (the extra tensorrt-rtx)")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    write_checkpoint(folder, CONFIG)
    return folder


@needs_rtx
@pytest.mark.parametrize("options", [{"max_batch": 2}, {"quantize": "int8"}, {"quantize": "fp8", "targets": ["SM89"]}])
def test_an_engine_is_built_for_gpus_that_are_not_there(checkpoint, tmp_path, options):
    exporter = discover().build("exporters", "tensorrt_rtx", options)
    made = exporter.export(checkpoint, tmp_path)
    assert {"model.engine", "model.onnx", "probe.safetensors"} <= set(made.files)
    assert (tmp_path / "model.engine").stat().st_size > 100_000
    report = exporter.verify(tmp_path)
    assert report.passed
    assert report.not_verified == ("the engine: it was built and not run",)
    assert "from the graph" in report.runtime


@needs_rtx
def test_a_graph_that_the_builder_cannot_read_is_told_of(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "llama3_plugins.exporters.onnx.write_onnx", lambda model, precision, path: path.write_bytes(b"no graph")
    )
    with pytest.raises(CheckpointError, match="L3-EXP-005"):
        discover().build("exporters", "tensorrt_rtx").export(checkpoint, tmp_path)


def test_profiles_bound_every_input():
    exporter = TensorRTExporter(TensorRTOptions(max_tokens=32, max_batch=4))
    prompts = dict(exporter._shapes(CONFIG, (1, 16, 32), (0, 0, 0)))
    assert prompts["input_ids"] == prompts["position_ids"] == [(1, 1), (1, 16), (4, 32)]
    assert prompts["attention_mask"] == [(1, 1), (1, 16), (4, 32)]
    assert prompts["past_key_values.1.value"] == [(1, 2, 0, 16), (1, 2, 0, 16), (4, 2, 0, 16)]
    tokens = dict(exporter._shapes(CONFIG, (1, 1, 1), (1, 16, 31)))
    assert tokens["attention_mask"] == [(1, 2), (1, 17), (4, 32)]
    assert tokens["past_key_values.0.key"] == [(1, 2, 1, 16), (1, 2, 16, 16), (4, 2, 31, 16)]
    assert len(tokens) == 3 + 2 * CONFIG.n_layers


@pytest.mark.parametrize("name", ["tensorrt", "tensorrt_rtx"])
def test_without_its_libraries_it_says_what_it_needs(checkpoint, tmp_path, monkeypatch, capsys, name):
    monkeypatch.setattr("llama3.plugins.registry._importable", lambda module: not module.startswith("tensorrt"))
    with pytest.raises(SystemExit) as caught:
        cli.main(["export", str(checkpoint), str(tmp_path / "out"), "--to", name])
    assert caught.value.code == 4
    extra = name.replace("_", "-")
    assert f"pip install 'llama3[{extra}]'" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("name", "module"), [("tensorrt", "tensorrt"), ("tensorrt_rtx", "tensorrt_rtx_bindings")])
def test_bindings_without_their_libraries_are_told_of_before_any_work(
    checkpoint, tmp_path, monkeypatch, capsys, name, module
):
    """As PyPI has them: the package is there, what it loads is not."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / f"{module}.py").write_text("raise ImportError('libnvinfer.so.10: cannot open shared object')")
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.delitem(sys.modules, module, raising=False)
    with pytest.raises(SystemExit) as caught:
        cli.main(["export", str(checkpoint), str(tmp_path / "out"), "--to", name])
    assert caught.value.code == 4
    told = capsys.readouterr().err
    assert "L3-EXP-020" in told
    assert "libnvinfer.so.10" in told
    assert [path.name for path in tmp_path.iterdir()] == ["site"]


def test_a_target_that_the_builder_does_not_know_is_refused(checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("llama3.plugins.registry._importable", lambda module: True)
    with pytest.raises(SystemExit) as caught:
        cli.main(["export", str(checkpoint), str(tmp_path / "out"), "--to", "tensorrt_rtx", "--set", "targets=[SM90]"])
    assert caught.value.code == 2
    assert "targets" in capsys.readouterr().err
