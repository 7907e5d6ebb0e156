"""Conformance of quantization schemes: bounded error, fewer bytes, and the same model after saving and loading."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from llama3.checkpoints.hf import read_raw_config
from llama3.checkpoints.quantized import QuantizationScheme, load_quantized, quantize_model, save_quantized
from llama3.model.batch import Batch
from llama3.model.score import score
from llama3.model.transformer import Transformer
from llama3.plugins.specs import QuantizationSpec
from llama3.testing.conformance import Conformance
from llama3.testing.toys import toy_ids, toy_model

ROWS, COLUMNS = 24, 32


class QuantizationConformance(Conformance):
    """Checks of a scheme on a toy model on the CPU."""

    family = "quantization"
    max_relative_error = 0.05
    """Largest error of a matrix: Frobenius norm of the difference over that of the original."""

    def test_it_supports_the_devices_that_it_declares(self) -> None:
        spec, scheme = self.spec, self.build()
        assert isinstance(spec, QuantizationSpec)
        for device in ("cpu", "cuda"):
            problems = list(scheme.supports(device))
            assert bool(problems) != (device in spec.devices), f"{device}: {problems or 'no problem reported'}"

    def test_targets_are_matrices_of_the_model(self) -> None:
        model, scheme = toy_model(), self.build()
        targets = list(scheme.targets(model.config))
        assert targets
        assert len(set(targets)) == len(targets), "a target is named twice"
        for target in targets:
            assert isinstance(model.get_submodule(target), nn.Linear), f"{target} is no matrix"

    def test_error_is_bounded_and_bytes_are_saved(self) -> None:
        for error in quantize_model(toy_model(), self.build()):
            assert error.relative <= self.max_relative_error, f"{error.name}: relative error {error.relative:.3f}"
            assert error.bytes_after < error.bytes_before, f"{error.name}: not smaller than in bfloat16"

    def test_quantizing_twice_gives_the_same(self) -> None:
        one, other = (self.build().quantize(_weights(), None) for _ in range(2))
        assert one.keys() == other.keys()
        for name in one:
            assert one[name].keys() == other[name].keys()
            assert all(torch.equal(one[name][part], other[name][part]) for part in one[name])

    def test_odd_matrices_stay_finite(self) -> None:
        scheme = self.build()
        for name, parts in scheme.quantize(_weights(), None).items():
            weight = scheme.dequantize(parts)
            assert weight.dtype == torch.float32
            assert bool(torch.isfinite(weight).all()), f"{name} has values that are not finite"
            assert weight.shape == (ROWS, COLUMNS)

    def test_the_module_computes_what_its_parts_stand_for(self) -> None:
        scheme = self.build()
        x = torch.randn(5, COLUMNS, generator=torch.Generator().manual_seed(1))
        for parts in scheme.quantize(_weights(), None).values():
            module = scheme.make_linear(parts)
            assert dict(module.named_buffers()).keys() == parts.keys(), "the buffers are not the parts"
            assert not list(module.parameters()), "a quantized module has parameters"
            torch.testing.assert_close(module(x), x @ scheme.dequantize(parts).T, rtol=1e-4, atol=1e-5)

    def test_saving_and_loading_gives_the_same_model(self) -> None:
        scheme: QuantizationScheme = self.build()
        model = toy_model()
        quantize_model(model, scheme)
        with tempfile.TemporaryDirectory() as folder:
            save_quantized(model, folder, self.plugin, scheme, rest=torch.float32)
            path = Path(folder)
            loaded = load_quantized(path, read_raw_config(path), dtype=torch.float32, device="cpu")
        assert torch.equal(_logps(model), _logps(loaded))

    def test_metadata_is_json(self) -> None:
        metadata = self.build().metadata()
        assert json.loads(json.dumps(metadata)) == metadata


def _weights() -> dict[str, Tensor]:
    """An ordinary matrix, and those that break careless scales: zeros, one huge value, tiny values, one sign."""
    random = torch.randn(ROWS, COLUMNS, generator=torch.Generator().manual_seed(0))
    spike = random.clone()
    spike[0, 0] = 1e4
    with_zero_row = random.clone()
    with_zero_row[3] = 0
    return {
        "random": random,
        "zeros": torch.zeros(ROWS, COLUMNS),
        "zero row": with_zero_row,
        "spike": spike,
        "tiny": random * 1e-20,
        "positive": random.abs(),
    }


def _logps(model: Transformer) -> Tensor:
    with torch.no_grad():
        logps_M = score(model, Batch.of_documents(toy_ids(np.random.default_rng(0), 48), range(0, 48, 6))).logps_M
    assert logps_M is not None
    return logps_M
