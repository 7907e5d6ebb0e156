"""A KV cache of codes: how far they are from the numbers that they stand for, in rows and in what attention makes of
them; and an engine that keeps them, in which prompts are shared, forked and guessed as ever."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from llama3 import _core
from llama3.errors import ConfigError
from llama3.inference import Engine, KvPool, Sampling
from llama3.inference.kv_codes import KvCodes, codes_of
from llama3.inference.paged_cache import PagedCache
from llama3.model.build import init_weights
from llama3.model.config import ModelConfig
from llama3.model.transformer import Transformer

VOCAB = 61
CONFIG = ModelConfig(64, 2, 4, 2, 64, VOCAB, max_seq_len=128)
GREEDY = Sampling(12, temperature=0)
KINDS = ["int8", "fp8"]
in_core = pytest.mark.skipif(not _core.HAS_SIMD, reason="the core does not attend on this processor")


def codes(kind: str) -> KvCodes:
    found = codes_of(kind)
    assert found is not None
    return found


def half_step(kind: str, x_C: Tensor, scale: Tensor) -> Tensor:
    """The most by which a code may differ from its number: half of the distance between its neighbours."""
    if kind == "int8":
        return (scale / 2)[..., None].expand(x_C.shape)
    return torch.maximum(x_C.abs() * 2**-4, scale[..., None] * 2**-10)


@pytest.fixture(scope="module")
def model() -> Transformer:
    model = init_weights(Transformer(CONFIG), 0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2.5)
    return model


def random_prompts(count: int, longest: int, seed: int = 0) -> list[list[int]]:
    random = np.random.default_rng(seed)
    return [random.integers(0, VOCAB, random.integers(1, longest + 1)).tolist() for _ in range(count)]


def assert_clean(engine: Engine) -> None:
    stats = engine.pool.stats()
    assert engine.pool.check() == []
    assert (stats["free"], stats["rows"], stats["promised"]) == (stats["blocks"], 0, 0)


@pytest.mark.parametrize("kind", KINDS)
@given(
    rows=st.lists(st.lists(st.floats(-1e4, 1e4, width=32), min_size=5, max_size=5), min_size=1, max_size=6),
    exponent=st.integers(-20, 20),
)
def test_a_code_is_at_most_half_a_step_from_its_number(kind: str, rows: list[list[float]], exponent: int) -> None:
    x = torch.tensor(rows) * 2.0**exponent
    stored, scale = codes(kind).quantize(x)
    assert stored.dtype.itemsize == 1
    found = codes(kind).dequantize(stored, scale, torch.float32)
    slack = x.abs().amax(-1, keepdim=True) * 1e-6
    assert ((found - x).abs() <= half_step(kind, x, scale) + slack).all()
    largest = x.abs().amax(-1)
    assert_close(found.abs().amax(-1), largest, rtol=1e-6, atol=1e-38)


@in_core
def test_the_core_reads_floats_of_8_bits_as_torch_does() -> None:
    every = torch.arange(256, dtype=torch.uint8)
    expected = every.view(torch.float8_e4m3fn).float()
    values, keys = every.numpy().reshape(1, 1, 1, 256), np.zeros((1, 1, 1, 256), np.uint8)
    out, one, ones = np.zeros((1, 1, 1, 256), np.float32), np.array([1]), np.ones((1, 1, 1), np.float32)
    table = np.zeros((1, 1), np.int32)
    _core.paged_attention(np.ones_like(out), keys, values, table, np.array([0]), one, out, ones, ones * 0.5)
    known = ~expected.isnan()
    assert known.sum() == 254
    assert torch.equal(torch.from_numpy(out).flatten()[known], expected[known] * 0.5)


@in_core
def test_codes_without_scales_are_refused() -> None:
    f, row, one = (lambda *shape: np.zeros(shape, np.float32)), np.array([0]), np.array([1])
    cache, table = np.zeros((1, 3, 2, 4), np.int8), np.array([[1]], np.int32)
    attend: Callable[..., None] = _core.paged_attention
    for keys, scales in [
        (cache, ()),
        (cache, (f(1, 3, 2), None)),
        (cache, (f(1, 3, 2), f(1, 2, 3))),
        (f(1, 3, 2, 4), (f(1, 3, 2), f(1, 3, 2))),
    ]:
        with pytest.raises(ValueError, match="do not belong together"):
            attend(f(1, 1, 1, 4), keys, keys, table, row, one, f(1, 1, 1, 4), *scales)


def attended(kind: str, x: dict[str, Tensor], pieces: list[int], few_tokens: int | None) -> Tensor:
    """What a cache's attention gives for tokens that come in pieces."""
    pool = KvPool(8, 16, max_seqs=1)
    cache = PagedCache(CONFIG, pool, dtype=torch.float32, device=torch.device("cpu"), codes=codes_of(kind))
    if few_tokens is not None:
        cache._few_tokens = few_tokens
    length = len(x["q"])
    admitted = pool.admit(np.arange(length, dtype=np.uint32))
    assert admitted is not None
    ends = np.cumsum(pieces)
    found = []
    for start, end in zip(ends - pieces, ends, strict=True):
        cache.plan(np.array([admitted[0]]), np.array([start]), np.array([end]))
        found.append(cache.attend(1, *(x[name][start:end] for name in "qkv")))
    return torch.cat(found)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pieces", [[40], [20, *[1] * 20], [5, 7, 1, 27]])
@pytest.mark.parametrize("few_tokens", [0, None])
@pytest.mark.parametrize("spread", [0.3, 2.0])
def test_attention_is_off_by_no_more_than_half_a_step_explains(
    kind: str, pieces: list[int], few_tokens: int | None, spread: float
) -> None:
    """A score moves by at most e = sum |q| |dk| / sqrt(C), so a weight by a factor of e^2e at most either way; the
    output moves by (e^2e - 1) max |v| for the weights and max |dv| for the values."""
    heads, group, channels = 2, 2, CONFIG.head_dim
    random = torch.Generator().manual_seed(0)
    x = {"q": torch.randn(40, heads, group, channels, generator=random)}
    x |= {name: torch.randn(40, heads, channels, generator=random) * spread for name in "kv"}
    exact = attended("auto", x, pieces, few_tokens)
    found = attended(kind, x, pieces, few_tokens)
    off = {name: half_step(kind, x[name], codes(kind).quantize(x[name])[1]) for name in "kv"}
    # [tokens that look, heads, group, tokens that are seen]
    score = torch.einsum("tkgc,skc->tkgs", x["q"].abs(), off["k"]) / channels**0.5
    score = score.masked_fill(torch.arange(40) > torch.arange(40)[:, None, None, None], 0).amax(-1)
    largest = {"v": x["v"].abs().amax((0, 2)), "dv": off["v"].amax((0, 2))}
    bound = ((2 * score).exp() - 1) * largest["v"][:, None] + largest["dv"][:, None]
    assert ((found - exact).abs() <= bound[..., None] + 1e-5).all()
    assert not torch.equal(found, exact)
    # Gathered or where they lie, alone or in pieces: the same codes, hence the same but for rounding.
    assert_close(found, attended(kind, x, [40], 0), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_is_the_same_however_it_is_computed(model: Transformer, kind: str) -> None:
    """Cached, forked, in pieces, beside others, guessed."""
    prompts = [*random_prompts(6, 30, seed=2), *(random_prompts(1, 1)[0] * 30 + tail for tail in ([1, 2], [3]))]
    alone = [Engine(model, kv_dtype=kind).generate([prompt], GREEDY)[0][0].ids for prompt in prompts]  # type: ignore[arg-type]
    ways: list[dict[str, Any]] = [
        {},
        {"block_size": 4, "max_batch": 3},
        {"block_size": 4, "prefill_tokens": 7},
        {"speculative": "prompt_lookup", "block_size": 1},
    ]
    for way in ways:
        engine = Engine(model, kv_dtype=kind, **way)  # type: ignore[arg-type]
        for _ in range(2):
            found = engine.generate(prompts, replace(GREEDY, n=3))
            assert [[answer.ids for answer in group] for group in found] == [[ids] * 3 for ids in alone]
        assert engine.pool.stats()["hit_tokens"] > 0
        assert_clean(engine)


@pytest.mark.parametrize("kind", KINDS)
def test_forks_that_write_own_their_codes(model: Transformer, kind: str) -> None:
    sampling = Sampling(20, n=4, seed=1)
    (together,) = Engine(model, block_size=16, kv_dtype=kind).generate([[1, 2, 3]], sampling)  # type: ignore[arg-type]
    (apart,) = Engine(model, block_size=1, kv_dtype=kind).generate([[1, 2, 3]], sampling)  # type: ignore[arg-type]
    assert len({tuple(answer.ids) for answer in together}) == 4
    for a, b in zip(together, apart, strict=True):
        assert a.ids == b.ids
        np.testing.assert_allclose(a.logps, b.logps, atol=1e-4)


@in_core
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_an_answer_has_the_same_bits_alone_and_beside_others(
    model: Transformer, kind: str, dtype: torch.dtype | None
) -> None:
    prompts = random_prompts(8, 1, seed=8)
    sampling = Sampling(40, seed=4, stop_ids=frozenset({3, 40}))
    made: Callable[[], Engine] = lambda: Engine(model, dtype=dtype, kv_dtype=kind)  # type: ignore[arg-type]
    together = made().generate(prompts, sampling)
    assert together == [made().generate([prompt], sampling)[0] for prompt in prompts]
    assert together != Engine(model, dtype=dtype).generate(prompts, sampling)


@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_any_load_finishes_and_leaks_nothing(model: Transformer, data: st.DataObject) -> None:
    blocks, size = data.draw(st.integers(12, 40)), data.draw(st.integers(1, 5))
    kind = data.draw(st.sampled_from(KINDS))
    engine = Engine(model, num_blocks=blocks, block_size=size, max_batch=data.draw(st.integers(1, 6)), kv_dtype=kind)
    limit = engine.pool.max_tokens
    sizes = data.draw(st.lists(st.tuples(st.integers(1, limit - 1), st.integers(1, 6), st.integers(1, 5)), max_size=6))
    requests = [
        engine.submit([token % VOCAB for token in range(length)], Sampling(min(room, limit - length), n=n))
        for length, room, n in sizes
    ]
    while not all(request.is_over for request in requests):
        engine.step()
        assert engine.pool.check() == []
    assert_clean(engine)


def test_the_same_memory_holds_more_tokens(model: Transformer) -> None:
    bytes_of = lambda kind, dtype: PagedCache.block_bytes(CONFIG, 16, dtype, codes_of(kind))
    heads, channels = 2 * CONFIG.n_layers * 16 * CONFIG.n_kv_heads, CONFIG.head_dim
    assert bytes_of("auto", torch.float32) == 4 * heads * channels
    assert bytes_of("int8", torch.float32) == bytes_of("fp8", torch.bfloat16) == heads * (channels + 4)
    large = ModelConfig(256, 8, 4, 4, 64, VOCAB, max_seq_len=8192)
    blocks = {
        kind: Engine(Transformer(large), kv_dtype=kind).pool.num_blocks  # type: ignore[arg-type]
        for kind in ("auto", "int8", "fp8")
    }
    assert blocks["int8"] == blocks["fp8"] > 3.5 * blocks["auto"]
    for kind in KINDS:
        cache = Engine(model, num_blocks=9, kv_dtype=kind).cache  # type: ignore[arg-type]
        assert cache.scales is not None
        assert cache.kv.nbytes + cache.scales.nbytes == 9 * bytes_of(kind, torch.float32)


def test_other_types_are_refused(model: Transformer) -> None:
    with pytest.raises(ConfigError, match=r"kv_dtype: 'int4' is no type of a KV cache.*auto, int8, fp8.*L3-GEN-022"):
        Engine(model, kv_dtype="int4")  # type: ignore[arg-type]
