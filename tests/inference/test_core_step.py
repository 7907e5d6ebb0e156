"""The decoding step of the Rust core against the transformer that defines it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from llama3 import _core
from llama3.checkpoints.quantized import quantize_model
from llama3.inference import Engine, Sampling, core_step
from llama3.inference.core_step import CoreStep
from llama3.model.build import init_weights
from llama3.model.config import ModelConfig
from llama3.model.ops import FEW_ROWS
from llama3.model.transformer import Transformer
from llama3.plugins.registry import discover

pytestmark = pytest.mark.skipif(not _core.HAS_SIMD, reason="the kernels are not used on this processor")
CONFIG = ModelConfig(dim=96, n_layers=3, n_heads=6, n_kv_heads=2, ffn_dim=160, vocab_size=300, max_seq_len=128)
SCHEMES = {"int8": {}, "int8_dynamic": {}, "int4": {"group": 32}}


def model(scheme: str | None = None) -> Transformer:
    found = init_weights(Transformer(CONFIG), 0).requires_grad_(False)
    if scheme is not None:
        quantize_model(found, discover().build("quantization", scheme, SCHEMES[scheme]))
    return found


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Tensor, Tensor]]:
    """The hidden states of every step that the core computed, and those of the transformer for the same step."""
    pairs: list[tuple[Tensor, Tensor]] = []
    step, ran = CoreStep.step, []

    class Watched:
        def __getattr__(self, name: str) -> object:
            ran.append(name)
            return getattr(_core, name)

    def both(self: CoreStep, tokens_T: Tensor, positions_T: Tensor) -> Tensor:
        ran.clear()
        found = step(self, tokens_T, positions_T)
        if ran == ["decode"]:
            pairs.append((found, self._model.step(tokens_T, positions_T, self._cache)))
        return found

    monkeypatch.setattr(core_step, "_core", Watched())
    monkeypatch.setattr(CoreStep, "step", both)
    return pairs


def generate(engine: Engine, count: int = 3, tokens: int = 6, **sampling: Any) -> list[list[int]]:
    prompts = [np.arange(1, 12 + index) for index in range(count)]
    return [answer.ids for (answer,) in engine.generate(prompts, Sampling(tokens, temperature=0, **sampling))]


# A quantized model has its own types.
@pytest.mark.parametrize(("scheme", "dtype"), [(None, torch.bfloat16), *((name, None) for name in (None, *SCHEMES))])
def test_the_core_computes_what_the_transformer_does(
    scheme: str | None, dtype: torch.dtype | None, watched: list[tuple[Tensor, Tensor]]
) -> None:
    generate(Engine(model(scheme), dtype=dtype))
    assert len(watched) == 5, "every step but that of the prompts"
    # Codes of rows are rounded: where float32 differs in a last bit a code may be the next one.
    tolerance = 5e-2 if dtype == torch.bfloat16 or scheme == "int8_dynamic" else 1e-4
    for found, expected in watched:
        assert_close(found, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("scheme", [None, *SCHEMES])
def test_an_answer_has_the_same_bits_alone_and_beside_others(scheme: str | None) -> None:
    engine = Engine(model(scheme), max_batch=16)
    prompt = np.array([7])  # longer ones that come together are computed as a prompt, by torch
    (alone,) = engine.generate([prompt], Sampling(20, seed=3))[0]
    others = [np.array([index, 3][: 1 + index % 2]) for index in range(12)]
    (beside,) = engine.generate([*others, prompt], Sampling(20, seed=3))[-1]
    assert (alone.ids, alone.logps) == (beside.ids, beside.logps)


def test_weights_are_read_where_they_are(watched: list[tuple[Tensor, Tensor]]) -> None:
    changed = model()
    engine = Engine(changed)
    before = generate(engine)
    changed.layers["1"].ffn.down.weight.mul_(-3)
    inside = generate(engine)
    changed.layers["0"].attention.qkv.weight = torch.nn.Parameter(
        -changed.layers["0"].attention.qkv.weight, requires_grad=False
    )
    replaced = generate(engine)
    assert before != inside != replaced
    for found, expected in watched:
        assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_what_the_core_does_not_know_is_left_to_the_transformer(watched: list[tuple[Tensor, Tensor]]) -> None:
    hooked = model()
    seen: list[object] = []
    hooked.layers["0"].ffn.down.register_forward_hook(lambda *_: seen.append(None))
    generate(Engine(hooked))
    assert len(seen) == 6, "a hook is called in every step"
    other = model()
    other.layers["0"].ffn.down = torch.nn.Linear(CONFIG.ffn_dim, CONFIG.dim, bias=False)
    generate(Engine(other))
    fp8 = model()
    quantize_model(fp8, discover().build("quantization", "fp8_rowwise", {}))
    generate(Engine(fp8))
    generate(Engine(model(), max_batch=FEW_ROWS + 1), count=FEW_ROWS + 1)
    assert watched == []
