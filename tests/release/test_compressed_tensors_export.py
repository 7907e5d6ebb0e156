"""`llama3 export --to compressed-tensors`: what is quantized goes along as it is, the rest is quantized first."""

from __future__ import annotations

import json

import pytest
from exporting import write_checkpoint

from llama3.errors import ConfigError, PluginError
from llama3.release.export import export
from llama3.release.quantize import quantize_checkpoint


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    write_checkpoint(folder)
    return folder


@pytest.mark.parametrize("scheme", ["int8", "int8_dynamic"])
def test_a_model_and_its_quantized_copy_give_the_same_files(model, tmp_path, scheme):
    made, report = export(model, tmp_path / "one", "compressed_tensors", {"scheme": scheme})
    assert (made.layout, made.dtype, report.passed) == ("compressed-tensors", scheme, True)
    assert report.tokens == report.same_tokens > 0
    (tmp_path / "quantized").mkdir()
    quantize_checkpoint(model, tmp_path / "quantized", scheme)
    export(tmp_path / "quantized", tmp_path / "two", "compressed_tensors")
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    said = json.loads((tmp_path / "one" / "config.json").read_bytes())["quantization_config"]
    assert said["quant_method"] == "compressed-tensors"
    assert set(made.files) == {path.name for path in (tmp_path / "one").iterdir()} - {"LICENSE"}


@pytest.mark.parametrize(("scheme", "error"), [("nothing", PluginError), ("int4", ConfigError)])
def test_what_cannot_be_quantized_leaves_nothing(model, tmp_path, scheme, error):
    with pytest.raises(error):
        export(model, tmp_path / "out", "compressed_tensors", {"scheme": scheme})
    assert list(tmp_path.iterdir()) == []
