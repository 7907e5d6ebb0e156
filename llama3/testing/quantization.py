"""Conformance of quantization schemes: an error that their bits allow, fewer bytes, and the same model after saving and
loading.

b bits cannot keep a Gaussian matrix better than with a relative error of 2^-b (Shannon's bound on rate and distortion).
The usual formats, one scale per row or group, come to twice that: 0.008 at 8 bits, 0.11 at 4. Four times is the limit
here, so that no sound scheme fails and one that loses a bit of its codes does. Where inputs are quantized too
(`QuantizationSpec.activation_bits`), the same is allowed of a product once more.
"""

from __future__ import annotations

import json
import math
import tempfile
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from llama3.checkpoints.hf import read_raw_config
from llama3.checkpoints.quantized import (
    QuantizationScheme,
    empty_parts,
    load_quantized,
    quantize_model,
    save_quantized,
)
from llama3.model.batch import Batch
from llama3.model.build import init_weights
from llama3.model.config import ModelConfig
from llama3.model.score import score
from llama3.model.transformer import Transformer
from llama3.plugins.specs import QuantizationSpec
from llama3.testing.conformance import Conformance
from llama3.testing.toys import toy_ids

ROWS, COLUMNS = 24, 128
CONFIG = ModelConfig(dim=128, n_layers=3, n_heads=4, n_kv_heads=2, ffn_dim=256, vocab_size=48, max_seq_len=64)
"""Wide enough for groups of 128 columns, deep enough for schemes that leave out the first and the last layer."""
SLACK = 4.0
"""How many times the least possible error is allowed."""


class QuantizationConformance(Conformance):
    """Checks of a scheme on a toy model on the CPU."""

    family = "quantization"
    max_relative_error: ClassVar[float | None] = None
    """Largest error of a matrix, as the Frobenius norm of the difference over that of the original. None: what its bits
    allow, those of the spec or, where it names none, those that are stored."""

    def test_it_supports_the_devices_that_it_declares(self) -> None:
        spec, scheme = self.spec, self.build()
        assert isinstance(spec, QuantizationSpec)
        for device in ("cpu", "cuda"):
            problems = list(scheme.supports(device))
            assert bool(problems) != (device in spec.devices), f"{device}: {problems or 'no problem reported'}"

    def test_targets_are_matrices_of_the_model(self) -> None:
        model, scheme = _model(), self.build()
        targets = list(scheme.targets(model.config))
        assert targets
        assert len(set(targets)) == len(targets), "a target is named twice"
        for target in targets:
            assert isinstance(model.get_submodule(target), nn.Linear), f"{target} is no matrix"

    def test_error_is_what_its_bits_allow_and_bytes_are_saved(self) -> None:
        model = _model()
        for error in quantize_model(model, self.build()):
            assert error.bytes_after < error.bytes_before, f"{error.name}: not smaller than in bfloat16"
            parts = [part for _, part in model.get_submodule(error.name).named_buffers()]
            bits = self._bits(parts, error.bytes_before // 2)
            limit = _allowed(bits) if self.max_relative_error is None else self.max_relative_error
            assert error.relative <= limit, (
                f"{error.name}: relative error {error.relative:.3f}; {limit:.3f} is allowed at {bits:.3g} bits "
                "(QuantizationSpec.bits)"
            )

    def test_what_it_stores_is_known_without_weights(self) -> None:
        model, scheme = _model(), self.build()
        told = empty_parts(scheme, model.config)
        quantize_model(model, scheme)
        for target, parts in told.items():
            kept = dict(model.get_submodule(target).named_buffers())
            assert {name: (x.dtype, x.shape) for name, x in parts.items()} == {
                name: (x.dtype, x.shape) for name, x in kept.items()
            }, f"{target}: weights on the device meta give other parts"

    def test_quantizing_twice_gives_the_same(self) -> None:
        one, other = (self.build().quantize(_weights(), None) for _ in range(2))
        assert one.keys() == other.keys()
        for name in one:
            assert one[name].keys() == other[name].keys()
            assert all(_same(one[name][part], other[name][part]) for part in one[name])

    def test_odd_matrices_stay_finite(self) -> None:
        scheme = self.build()
        for name, parts in scheme.quantize(_weights(), None).items():
            weight = scheme.dequantize(parts)
            assert weight.dtype == torch.float32
            assert bool(torch.isfinite(weight).all()), f"{name} has values that are not finite"
            assert weight.shape == (ROWS, COLUMNS)

    def test_the_module_computes_what_its_parts_stand_for(self) -> None:
        spec, scheme = self.spec, self.build()
        assert isinstance(spec, QuantizationSpec)
        x = torch.randn(5, COLUMNS, generator=torch.Generator().manual_seed(1))
        for name, parts in scheme.quantize(_weights(), None).items():
            module = scheme.make_linear(parts)
            assert dict(module.named_buffers()).keys() == parts.keys(), "the buffers are not the parts"
            assert not list(module.parameters()), "a quantized module has parameters"
            found, weight = module(x), scheme.dequantize(parts)
            if spec.activation_bits is None:
                torch.testing.assert_close(found, x @ weight.T, rtol=1e-4, atol=1e-5)
                continue
            # What is lost of the elements of an input adds up as chance does: by the root of how many there are.
            limit = float(_allowed(spec.activation_bits) * x.norm() * weight.norm() / COLUMNS**0.5)
            off = float((found - x @ weight.T).norm())
            assert off <= limit, f"{name}: the product is off by {off:.3g}; {limit:.3g} is allowed"

    def test_an_input_of_zeros_gives_zeros(self) -> None:
        scheme = self.build()
        parts = scheme.quantize({"random": _weights()["random"]}, None)["random"]
        found = scheme.make_linear(parts)(torch.zeros(2, COLUMNS))
        assert torch.equal(found, torch.zeros(2, ROWS)), "zeros times a matrix are not zeros"

    def test_saving_and_loading_gives_the_same_model(self) -> None:
        scheme: QuantizationScheme = self.build()
        model = _model()
        quantize_model(model, scheme)
        with tempfile.TemporaryDirectory() as folder:
            save_quantized(model, folder, self.plugin, scheme, rest=torch.float32)
            path = Path(folder)
            loaded = load_quantized(path, read_raw_config(path), dtype=torch.float32, device="cpu")
        assert torch.equal(_logps(model), _logps(loaded))

    def test_metadata_is_json(self) -> None:
        metadata = self.build().metadata()
        assert json.loads(json.dumps(metadata)) == metadata

    def _bits(self, parts: list[Tensor], weights: int) -> float:
        """Bits per weight, without scales: as the spec says, else as many as the codes take or tell apart."""
        spec = self.spec
        assert isinstance(spec, QuantizationSpec)
        if spec.bits is not None:
            assert spec.bits > 0, f"bits of the spec is {spec.bits}"
            return spec.bits
        codes = max(parts, key=lambda part: part.nbytes)
        stored = 8 * codes.nbytes / weights
        return min(stored, math.log2(len(codes.unique()))) if codes.numel() == weights else stored


def _allowed(bits: float) -> float:
    """The largest relative error of numbers that are kept in so many bits."""
    return float(min(SLACK * 2**-bits, 0.9))


def _same(one: Tensor, other: Tensor) -> bool:
    """Bit by bit: torch compares no FP8."""
    return one.dtype == other.dtype and torch.equal(one.view(torch.uint8), other.view(torch.uint8))


def _model() -> Transformer:
    return init_weights(Transformer(CONFIG), 0)


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
