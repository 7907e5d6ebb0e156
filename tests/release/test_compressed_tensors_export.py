"""`llama3 export` into layouts of quantized models: what is quantized goes along as it is, the rest is quantized
first."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from exporting import CONFIG, write_checkpoint

from llama3.errors import ConfigError, PluginError
from llama3.release.export import export
from llama3.release.quantize import quantize_checkpoint


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    write_checkpoint(folder, replace(CONFIG, n_layers=3))  # fp8_rowwise leaves out the ends
    return folder


@pytest.mark.parametrize(
    ("exporter", "method", "scheme", "options"),
    [
        ("compressed_tensors", "compressed-tensors", "int8", {}),
        ("compressed_tensors", "compressed-tensors", "int8_dynamic", {"scheme": "int8_dynamic"}),
        ("fbgemm_fp8", "fbgemm_fp8", "fp8_rowwise", {}),
    ],
)
def test_a_model_and_its_quantized_copy_give_the_same_files(model, tmp_path, exporter, method, scheme, options):
    made, report = export(model, tmp_path / "one", exporter, options)
    assert (made.layout, made.dtype, report.passed) == (method, scheme, True)
    assert report.tokens == report.same_tokens > 0
    (tmp_path / "quantized").mkdir()
    quantize_checkpoint(model, tmp_path / "quantized", scheme)
    export(tmp_path / "quantized", tmp_path / "two", exporter)
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    said = json.loads((tmp_path / "one" / "config.json").read_bytes())["quantization_config"]
    assert said["quant_method"] == method
    assert set(made.files) == {path.name for path in (tmp_path / "one").iterdir()} - {"LICENSE"}


@pytest.mark.parametrize(("scheme", "error"), [("nothing", PluginError), ("int4", ConfigError)])
def test_what_cannot_be_quantized_leaves_nothing(model, tmp_path, scheme, error):
    with pytest.raises(error):
        export(model, tmp_path / "out", "compressed_tensors", {"scheme": scheme})
    assert list(tmp_path.iterdir()) == []
