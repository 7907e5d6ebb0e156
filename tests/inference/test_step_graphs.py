"""Steps as graphs, and the whole step on a CUDA device that is not there.

A CUDA graph repeats operations on tensors that stay where they are. So does a traced graph of torch operations, in
which no Python of ours is left: it stands in for one on a CPU. What a GPU alone can show is the capture itself.
"""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode

from llama3 import _core
from llama3.inference import Engine, Sampling, paged_attention, paged_kernel
from llama3.inference import engine as engine_module
from llama3.inference.forwards import ForwardPlan
from llama3.inference.request import Request
from llama3.inference.sampling import Draws, draw, scores_of
from llama3.inference.step_graphs import StepGraphs
from llama3.model import transformer
from llama3.model.build import init_weights
from llama3.model.config import ModelConfig
from llama3.model.transformer import Transformer

CONFIG = ModelConfig(32, 2, 2, 1, 64, 61, max_seq_len=64)
PROMPTS = [[1, 2, 3], [4] * 20, [5, 6, 7, 8, 9, 10, 11, 12, 13, 14]]
pytestmark = pytest.mark.skipif(
    paged_kernel.triton is None, reason="Triton is not installed (a torch built for CPUs alone comes without it)"
)


@pytest.fixture
def model(monkeypatch) -> Transformer:
    monkeypatch.setattr(_core, "HAS_SIMD", False)  # operations that torch sees, as on a GPU
    model = init_weights(Transformer(CONFIG), 0)
    with torch.no_grad():
        for parameter in model.parameters():  # larger weights, for scores that differ clearly
            parameter.mul_(2.5)
    return model


class Traced:
    """Makes graphs of torch operations; remembers how often, and how many tokens each computes."""

    def __init__(self):
        self.sizes = []

    def __call__(self, compute):
        graph = make_fx(compute)()
        (result,) = graph.graph.find_nodes(op="output")
        self.sizes.append(len(result.args[0].meta["val"]))
        return graph


def with_graphs(model, capture, **options):
    engine = Engine(model, attention="triton", **options)
    engine.forwards.graphs = StepGraphs(engine.model, engine.cache, capture)
    return engine


def plan_of(tokens, rows, starts, ends):
    none = np.empty(0, np.int64)
    return ForwardPlan(tokens, rows, starts, ends, none, none)


@pytest.mark.skipif(torch.cuda.is_available(), reason="without a GPU only")
def test_an_engine_on_a_cpu_has_no_graphs(model):
    assert Engine(model, attention="triton").forwards.graphs is None


def test_answers_from_graphs_are_those_of_plain_steps(model):
    capture = Traced()
    sampling = Sampling(4, n=2, seed=3)  # forks write into copies of shared blocks
    expected = Engine(model).generate(PROMPTS, sampling)
    engine = with_graphs(model, capture, block_size=4, max_batch=4)  # so that requests join and leave
    for _ in range(2):
        answers = engine.generate(PROMPTS, sampling)
        assert [[a.ids for a in group] for group in answers] == [[a.ids for a in group] for group in expected]
        logps = [np.concatenate([a.logps for group in found for a in group]) for found in (answers, expected)]
        np.testing.assert_allclose(*logps, atol=1e-5)
    assert len(capture.sizes) == len(set(capture.sizes))
    assert {2, 4} <= set(capture.sizes) <= {1, 2, 4, 8, 16}
    assert engine.pool.check() == []


def test_rows_of_several_tokens_are_steps_too(model):
    """As drafts make them: some tokens of each of several sequences at once."""
    tokens = np.random.default_rng(0).integers(0, 61, (3, 30)).astype(np.uint32)
    engines = [with_graphs(model, Traced(), block_size=4), Engine(model, attention="gather", block_size=4)]
    found = []
    for engine in engines:
        rows = np.array([engine.pool.admit(prompt)[0] for prompt in tokens], np.int64)
        steps = [(np.array([0, 0, 0]), np.array([20, 11, 9])), (np.array([20, 11, 9]), np.array([21, 19, 12]))]
        with torch.inference_mode():
            for starts, ends in steps:
                pieces = [tokens[i, start:end] for i, (start, end) in enumerate(zip(starts, ends, strict=True))]
                h_TD = engine.forwards.hidden(plan_of(np.concatenate(pieces), rows, starts, ends))
        found.append(h_TD)
    assert engines[0].forwards.graphs._capture.sizes == [16], "the second step alone has few tokens of each"
    torch.testing.assert_close(*found, atol=1e-4, rtol=1e-4)  # sums in another order


def test_padding_touches_no_sequence(model):
    engine = with_graphs(model, Traced())
    engine.generate(PROMPTS[:3], Sampling(4, temperature=0))
    before = engine.cache.kv[:, :, :, 1:].clone()
    rows = np.array([engine.pool.admit([1, 2, 3])[0] for _ in range(3)], np.int64)
    with torch.inference_mode():
        engine.forwards.hidden(plan_of(np.array([3, 3, 3], np.uint32), rows, np.array([2, 2, 2]), np.array([3, 3, 3])))
    changed = (engine.cache.kv[:, :, :, 1:] != before).flatten(-2).any(-1).any(0).any(0).any(0)
    assert set(changed.nonzero().flatten().add(1).tolist()) <= set(engine.pool.block_table[rows, 0].tolist())


def test_graphs_follow_weights_that_moved(model):
    capture = Traced()
    engine = with_graphs(model, capture)
    greedy = Sampling(4, temperature=0)
    first = engine.generate(PROMPTS[:1], greedy)
    with torch.no_grad():
        model.lm_head.weight.neg_()  # in place: the graphs read it anew
    assert engine.generate(PROMPTS[:1], greedy)[0][0].ids != first[0][0].ids
    assert capture.sizes == [4, 1]
    model.layers["0"].ffn.down.weight = torch.nn.Parameter(-model.layers["0"].ffn.down.weight.detach())
    assert engine.generate(PROMPTS[:1], greedy)[0][0].ids == Engine(model).generate(PROMPTS[:1], greedy)[0][0].ids
    assert capture.sizes == [4, 1, 4, 1]


def test_what_cannot_be_captured_is_computed_as_it_comes(model, caplog):
    def refuses(compute):
        raise RuntimeError("operation not permitted when stream is capturing")

    with caplog.at_level(logging.WARNING):
        answers = with_graphs(model, refuses).generate(PROMPTS, Sampling(3, temperature=0))
    expected = Engine(model).generate(PROMPTS, Sampling(3, temperature=0))
    assert [a.ids for (a,) in answers] == [a.ids for (a,) in expected]
    assert "L3-GEN-032" in caplog.text


# -- a device that is not there ------------------------------------------------------------------------


class Watched(TorchDispatchMode):
    """Remembers the devices of all results, and what asks the device for a number, which waits for it."""

    def __init__(self):
        super().__init__()
        self.devices, self.waits, self.ops = {}, [], set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.ops.add(str(func))
        if "_local_scalar_dense" in str(func) or "nonzero" in str(func):
            self.waits.append(str(func))
        if (
            isinstance(result, torch.Tensor) and func is not torch.ops.aten.lift_fresh.default
        ):  # of an array of the host
            self.devices.setdefault(result.device.type, set()).add(str(func))
        return result


@pytest.fixture
def on_fake_gpu(monkeypatch):
    """An engine on a CUDA device of torch's fake tensors, which have shapes and devices and no numbers. Operations
    whose operands are on several devices fail."""
    from torch.nn.attention import varlen

    monkeypatch.setattr(paged_attention, "_tried", lambda *shape: None)
    no_numbers = lambda array, device: torch.empty(array.shape, dtype=torch.from_numpy(array).dtype, device=device)
    monkeypatch.setattr(paged_attention, "to_device", no_numbers)
    for module in ("forwards", "paged_cache", "step_graphs"):
        monkeypatch.setattr(f"llama3.inference.{module}.to_device", no_numbers)
    monkeypatch.setattr(varlen, "_should_use_cudnn", lambda index: True)
    monkeypatch.setattr(varlen, "_cudnn_version", lambda query: 92600)
    monkeypatch.setattr(varlen, "_cudnn_decode_disabled", lambda index: False)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1 << 30, 1 << 30))
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 0))
    properties = type("Properties", (), {"total_memory": 1 << 40})
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setattr(StepGraphs, "_weight_addresses", lambda self: [])
    monkeypatch.setattr(engine_module.Engine, "_weight_versions", lambda self: [])
    monkeypatch.setattr(FakeTensor, "__bool__", lambda self: True, raising=False)
    kept = (transformer.rope_frequencies, transformer._copy_of_frequencies)
    for made_once in kept:
        made_once.cache_clear()
    with FakeTensorMode(allow_non_fake_inputs=True):

        def build(attention=None):
            torch.set_default_dtype(torch.bfloat16)
            try:
                with torch.device("cuda"):
                    return Engine(Transformer(CONFIG).requires_grad_(False), attention=attention)
            finally:
                torch.set_default_dtype(torch.float32)

        yield build
    for made_once in kept:
        made_once.cache_clear()  # of tensors without numbers


@pytest.mark.parametrize("attention", [None, "triton", "varlen", "gather"])
def test_a_step_on_a_gpu_stays_on_it(on_fake_gpu, attention):
    engine = on_fake_gpu(attention)
    expected = {None: ("triton", "varlen"), "triton": ("triton", None), "varlen": ("varlen", "varlen")}
    assert (engine.cache.ways.few, engine.cache.ways.many) == expected.get(attention, (None, None))
    sampling = Sampling(8, temperature=0.7, top_k=5, top_p=0.9, n=2, top_logps=3, logit_bias=((3, 1.0), (4, -1.0)))
    engine._queue([Request(np.array(prompt, np.uint32), sampling) for prompt in PROMPTS])
    with torch.inference_mode(), Watched() as prefill:
        prefills = engine._admit(taken=0)
        engine.decoder.launch([], [], prefills)
        logits_BV, _ = engine.forwards.collect()
    assert (logits_BV.device.type, logits_BV.shape) == ("cuda", (6, 61))
    assert "aten.index_copy_.default" in prefill.ops
    assert not prefill.waits
    assert ("torch_attn._varlen_attn.default" in prefill.ops) == (engine.cache.ways.many == "varlen")

    engine._running = [answer for prefill in prefills for answer in prefill.answers]
    for answer in engine._running:
        answer.ids.append(1)
    if engine.forwards.graphs is not None:
        engine.forwards.graphs._capture = lambda compute: compute
    with torch.inference_mode(), Watched() as decode:
        engine.decoder.launch(engine._running, [[] for _ in engine._running], [])
        logits_BV, _ = engine.forwards.collect()
    assert (logits_BV.device.type, logits_BV.shape) == ("cuda", (6, 61))
    assert set(decode.devices) == {"cuda"}, decode.devices
    assert not decode.waits
    assert ("llama3.paged_attention.default" in decode.ops) == (engine.cache.ways.few == "triton")

    draws = Draws.of([sampling, Sampling(1, temperature=0)] * 3, np.full(6, 0.5))
    allowed = [np.ones(61, np.bool_), *[None] * 5]
    with torch.inference_mode():
        scores_BV = scores_of(logits_BV, [sampling] * 6, allowed)
        ids_B, logps_B = draw(logits_BV, draws, scores_BV)
    assert {scores_BV.device.type, ids_B.device.type, logps_B.device.type} == {"cuda"}
