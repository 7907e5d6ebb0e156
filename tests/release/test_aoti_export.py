"""The exporter `aoti`: its package runs token for token beside our engine."""

from __future__ import annotations

import pytest
import torch
from exporting import assert_computes_many_sequences_at_once, assert_draws_the_engine_s_tokens, write_checkpoint

from llama3.errors import PluginError
from llama3.model.config import ModelConfig
from llama3.plugins.registry import discover


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_package_computes_what_the_engine_computes(tmp_path):
    model = write_checkpoint(tmp_path / "checkpoint", ModelConfig(32, 1, 2, 1, 32, 320, max_seq_len=128))
    (out := tmp_path / "out").mkdir()
    exporter = discover().build("exporters", "aoti")
    made = exporter.export(tmp_path / "checkpoint", out)
    assert {"model.pt2", "config.json", "tokenizer.json", "probe.safetensors"} <= set(made.files)
    report = exporter.verify(out)
    assert report.passed
    assert report.same_tokens == report.tokens == 32
    assert report.runtime.startswith("AOTInductor")
    package = torch._inductor.aoti_load_package(str(out / "model.pt2"))

    def run(inputs):
        return package(*inputs)

    assert_draws_the_engine_s_tokens(run, model)
    assert_computes_many_sequences_at_once(run, model)


def test_without_a_compiler_nothing_is_begun(tmp_path):
    from torch._inductor import config

    with config.patch({"cpp.cxx": ("no-such-compiler",)}), pytest.raises(PluginError, match="L3-EXP-004"):
        discover().build("exporters", "aoti").export(tmp_path / "no-model-is-read", tmp_path)
    assert list(tmp_path.iterdir()) == []
