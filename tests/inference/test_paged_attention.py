"""The ways to read the cache against their definition. Without a GPU Triton's kernels are interpreted here and compiled
for GPUs that are not there; torch's varlen attention is checked up to the call."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest
import torch
from gpu_compile import output_of
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from llama3.errors import ConfigError
from llama3.inference import Engine, paged_attention, paged_kernel
from llama3.inference.paged_attention import (
    CoreReads,
    Taken,
    TritonReads,
    VarlenReads,
    definition,
    fault,
    ranges,
    reads,
    taken,
)
from llama3.model.build import init_weights
from llama3.model.config import ModelConfig
from llama3.model.transformer import Transformer

CPU = torch.device("cpu")
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
needs_triton = pytest.mark.skipif(
    paged_kernel.triton is None, reason="Triton is not installed (a torch built for CPUs alone comes without it)"
)


@dataclass
class Cache:
    """Random keys and values of sequences, and queries of the last `new[i]` tokens of each."""

    q_TKGC: Tensor
    k_KNXC: Tensor
    v_KNXC: Tensor
    table: np.ndarray
    rows: np.ndarray
    starts: np.ndarray
    ends: np.ndarray

    @classmethod
    def random(cls, lengths, new, *, heads=2, group=2, channels=16, size=16, dtype=torch.float32, seed=0):
        random = np.random.default_rng(seed)
        ends, new = np.array(lengths), np.minimum(new, lengths)
        blocks = -(-int(ends.max()) // size)
        total = 1 + int((-(-ends // size)).sum())
        table = np.zeros((len(ends), blocks + 2), np.int32)
        shuffled = iter(random.permutation(np.arange(1, total)))
        for row, length in enumerate(ends):
            for index in range(-(-length // size)):
                table[row, index] = next(shuffled)
        draw = lambda *shape: torch.from_numpy(random.normal(size=shape)).to(DEVICE, dtype)
        # The queries are a part of a larger tensor, as they are in the model.
        q = draw(int(new.sum()), heads, group + 1, channels)[:, :, :-1]
        slabs = (draw(heads, total, size, channels) for _ in range(2))
        return cls(q, *slabs, table, np.arange(len(ends)), ends - new, ends)

    def attend(self, way):
        size = self.k_KNXC.shape[2]
        made = reads(way, self.table, size, self.rows, self.starts, self.ends, DEVICE)
        return made.attend(self.q_TKGC, self.k_KNXC, self.v_KNXC)

    def expected(self):
        lines = torch.from_numpy(self.table[np.repeat(self.rows, self.ends - self.starts)]).to(DEVICE)
        seen = ranges(self.starts, self.ends) + 1
        return definition(self.q_TKGC, self.k_KNXC, self.v_KNXC, lines, seen).to(self.q_TKGC.dtype)


def test_the_definition_is_scaled_dot_product_attention():
    cache = Cache.random([37], [3], size=4)
    blocks = torch.from_numpy(cache.table[0, :10]).long().to(DEVICE)
    k, v = (slab[:, blocks].flatten(1, 2)[:, :37] for slab in (cache.k_KNXC, cache.v_KNXC))
    mask = torch.ones(3, 37, dtype=torch.bool, device=DEVICE).tril(34)
    for head in range(2):
        for row in range(2):
            o = torch.nn.functional.scaled_dot_product_attention(
                cache.q_TKGC[None, :, head, row], k[None, head], v[None, head], attn_mask=mask
            )
            assert_close(o[0], cache.expected()[:, head, row])


LENGTHS = st.lists(st.sampled_from([1, 2, 15, 16, 17, 31, 33, 255, 256, 257, 300, 513]), min_size=1, max_size=4)


@needs_triton
@settings(max_examples=15)
@given(
    lengths=LENGTHS,
    new=st.integers(1, 3),
    heads=st.integers(1, 2),
    group=st.integers(1, 5),
    channels=st.sampled_from([8, 16, 24, 40]),
    size=st.sampled_from([1, 4, 16]),
    seed=st.integers(0, 9),
)
@example([513, 1, 1, 1, 1, 1, 1], 1, 1, 4, 16, 16, 0)  # a long one beside many short ones
@example([16, 256, 512], 1, 2, 1, 16, 16, 0)  # full blocks, full pieces
@example([1], 1, 1, 1, 8, 1, 0)
@example([40], 8, 1, 17, 8, 16, 0)  # more query heads than the rows a matrix unit takes
def test_the_triton_kernel_computes_the_definition(lengths, new, heads, group, channels, size, seed):
    cache = Cache.random(lengths, new, heads=heads, group=group, channels=channels, size=size, seed=seed)
    assert_close(cache.attend("triton"), cache.expected(), atol=2e-6, rtol=1e-5)


@needs_triton
def test_a_sequence_of_many_pieces_is_cut_into_no_more_than_there_are():
    length = paged_kernel.PIECES * paged_kernel.PIECE_KEYS + 100
    cache = Cache.random([length, 5], [1, 1], heads=1, channels=8)
    assert_close(cache.attend("triton"), cache.expected(), atol=2e-6, rtol=1e-5)


@needs_triton
def test_half_precision_is_summed_in_float32():
    cache = Cache.random([300, 17], [1, 1], dtype=torch.float16)
    assert_close(cache.attend("triton"), cache.expected(), atol=1e-3, rtol=1e-3)


@needs_triton
@pytest.mark.parametrize("way", ["triton", "core"])
def test_a_token_has_the_same_bits_alone_and_beside_others(way):
    if way == "core" and fault("core", torch.empty(0), 1, torch.float32) is not None:
        pytest.skip("the core has no fast paths on this machine")
    cache = Cache.random([700, 3, 257, 16], [3, 1, 2, 1])
    together = cache.attend(way)
    edges = np.append(0, np.cumsum(cache.ends - cache.starts))
    for i, (first, last) in enumerate(pairwise(edges)):
        for token in range(first, last):
            start = cache.starts[i] + token - first
            one = Cache(
                cache.q_TKGC[token : token + 1],
                cache.k_KNXC,
                cache.v_KNXC,
                cache.table[:, : -(-int(start + 1) // 16)],  # a narrower table is a smaller grid
                np.array([i]),
                np.array([start]),
                np.array([start + 1]),
            )
            if way == "core":
                one.table = cache.table
            assert torch.equal(one.attend(way)[0], together[token])


@needs_triton
def test_offsets_into_the_slab_do_not_overflow():
    """The last block of the last head lies beyond 2^31 elements. Its pages alone are ever touched."""
    blocks, size, channels = (1 << 27) + 7, 1, 16
    shape = (2, blocks, size, channels)
    slabs = [torch.from_numpy(np.zeros(shape, np.float16)) for _ in range(2)]
    used = [3, blocks - 1, blocks - 2]
    small = [torch.randn(2, 3, size, channels).half() for _ in range(2)]
    for slab, values in zip(slabs, small, strict=True):
        slab[:, used] = values
    q = torch.randn(1, 2, 2, channels).half()
    seen = torch.tensor([3], dtype=torch.int32)
    far = paged_kernel.attend(q, *slabs, torch.tensor([used], dtype=torch.int32), seen)
    near = paged_kernel.attend(q, *small, torch.tensor([[0, 1, 2]], dtype=torch.int32), seen)
    assert torch.equal(far, near)


COMPILES = """
from llama3.inference import paged_kernel
table, seen = torch.zeros(3, 40, dtype=torch.int32), torch.ones(3, dtype=torch.int32)
for capability in (80, 90, 100):
    q, slab = (torch.empty(*shape, dtype=torch.bfloat16) for shape in ((3, 8, 4, 128), (8, 20, 16, 128)))
    paged_kernel.attend(q, slab, slab, table, seen)
print([len(kernel.asm["cubin"]) > 0 for kernel in made], max(kernel.metadata.shared for kernel in made))
"""


@needs_triton
def test_the_kernels_compile_for_gpus_that_are_not_here(tmp_path):
    compiled, shared = output_of(COMPILES, tmp_path).rsplit(maxsplit=1)
    assert compiled == str([True] * 6)
    assert int(shared) <= 80 << 10, "two programs fit on a processor of an A100"


# -- torch's varlen attention ------------------------------------------------------------------------


def test_varlen_is_told_what_the_definition_means(monkeypatch):
    """A stand-in that follows torch's documentation of `varlen_attn` word by word, since no CPU computes it."""
    from torch.nn.attention import varlen

    def documented(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, scale=None, window_size, enable_gqa,
                   seqused_k, block_table):  # fmt: skip
        assert scale is None
        assert cu_seq_k is None
        assert enable_gqa
        assert window_size == (-1, 0)
        assert {t.dtype for t in (cu_seq_q, seqused_k, block_table)} == {torch.int32}
        out = torch.empty_like(query)
        group = query.shape[1] // key.shape[2]
        for i, (first, last) in enumerate(pairwise(cu_seq_q.tolist())):
            used = int(seqused_k[i])
            assert last - first <= max_q
            assert used <= max_k <= block_table.shape[1] * key.shape[1]
            keys, values = (pool[block_table[i].long()].flatten(0, 1)[:used] for pool in (key, value))
            mask = torch.ones(last - first, used, dtype=torch.bool).tril(used - (last - first))
            for head in range(query.shape[1]):
                kv = (pages[None, :, head // group] for pages in (keys, values))
                out[first:last, head] = torch.nn.functional.scaled_dot_product_attention(
                    query[None, first:last, head], *kv, attn_mask=mask
                )[0]
        return out

    monkeypatch.setattr(varlen, "varlen_attn", documented)
    cache = Cache.random([300, 17, 1, 40], [70, 17, 1, 3], group=3)
    assert_close(cache.attend("varlen"), cache.expected())


def test_varlen_takes_our_arguments_and_cudnn_could_compute_them(monkeypatch):
    """On a device without memory the real `varlen_attn` runs up to the kernel; for an H100 it would choose cuDNN."""
    from torch.nn.attention import varlen

    cache = Cache.random([300, 17], [70, 17], channels=64)
    q, k, v = (x.to("meta", torch.bfloat16) for x in (cache.q_TKGC, cache.k_KNXC, cache.v_KNXC))
    made = VarlenReads.of(cache.table, 16, cache.rows, cache.starts, cache.ends, torch.device("meta"))
    assert made.attend(q, k, v).shape == q.shape

    monkeypatch.setattr(varlen, "_should_use_cudnn", lambda index: True)
    monkeypatch.setattr(varlen, "_cudnn_version", lambda query: 92400)
    reasons = varlen._cudnn_rejection_reasons(
        q.flatten(1, 2), k.permute(1, 2, 0, 3), v.permute(1, 2, 0, 3), made.starts_B1, None, made.longest[0], [-1, 0],
        made.seen_B, made.table_BP,
    )  # fmt: skip
    assert reasons == ["query must be on CUDA"]


# -- which way is taken -------------------------------------------------------------------------------


SLABS = torch.zeros(2, 1, 2, 5, 16, 16)


def test_a_cpu_takes_the_core_where_it_has_fast_paths(monkeypatch):
    monkeypatch.setattr(paged_attention._core, "HAS_SIMD", True)
    assert taken(None, SLABS, 2) == taken("core", SLABS, 2) == Taken("core", None)
    assert taken(None, SLABS.double(), 2) == taken("gather", SLABS, 2) == Taken(None, None)
    monkeypatch.setattr(paged_attention._core, "HAS_SIMD", False)
    assert taken(None, SLABS, 2) == Taken(None, None)
    with pytest.raises(ConfigError, match="L3-GEN-030"):
        taken("core", SLABS, 2)


def test_a_way_that_needs_a_gpu_is_refused_on_a_cpu(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    model = init_weights(Transformer(ModelConfig(32, 1, 2, 2, 64, 61, max_seq_len=64)), 0)
    for way in ("triton", "varlen"):
        with pytest.raises(ConfigError, match=r"needs a CUDA device, the model is on cpu.*L3-GEN-030"):
            Engine(model, attention=way)


@needs_triton
@pytest.mark.parametrize(
    ("broken", "reason"),
    [(lambda q, *rest: torch.zeros_like(q), "off in"), (lambda *inputs: 1 / 0, "ZeroDivisionError")],
)
def test_a_way_that_computes_something_else_is_not_taken(monkeypatch, broken, reason):
    slabs = SLABS.to(DEVICE)
    paged_attention._tried.cache_clear()
    assert fault("triton", slabs, 2, slabs.dtype) is None
    paged_attention._tried.cache_clear()
    monkeypatch.setattr(paged_kernel, "attend", broken)
    assert reason in fault("triton", slabs, 2, slabs.dtype)
    paged_attention._tried.cache_clear()


def test_reads_are_what_their_way_says():
    cache = Cache.random([3], [1])
    kinds = {"core": CoreReads, "triton": TritonReads, "varlen": VarlenReads}
    for way, kind in kinds.items():
        assert isinstance(reads(way, cache.table, 16, cache.rows, cache.starts, cache.ends, CPU), kind)
