"""The transformer against transformers' LlamaForCausalLM, the dense attention oracle, and its own invariances."""

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import LlamaConfig, LlamaForCausalLM

from llama3.checkpoints.load import load_model
from llama3.checkpoints.weights import save_model
from llama3.model.attention import ForestAttention, forest_attention, forest_mask
from llama3.model.batch import Batch, Segment, Tree
from llama3.model.build import init_weights
from llama3.model.config import ModelConfig, RopeScaling
from llama3.model.score import score
from llama3.model.transformer import Transformer

SMALL = ModelConfig(48, 2, 6, 2, 80, 97, head_dim=8)
KINDS = {
    "3.0": SMALL,
    "3.0-wide-heads": dataclasses.replace(SMALL, head_dim=16),
    "3.1": dataclasses.replace(
        SMALL, rope_scaling=RopeScaling(8.0, 1.0, 4.0, 64), max_seq_len=512, rope_theta=1000.0, head_dim=16
    ),
    "3.2": dataclasses.replace(SMALL, rope_scaling=RopeScaling(32.0, 1.0, 4.0, 32), tied=True, max_seq_len=1024),
    "mha": dataclasses.replace(SMALL, n_kv_heads=6),
    "mqa": dataclasses.replace(SMALL, n_kv_heads=1),
}


def make(config: ModelConfig, seed: int = 0) -> Transformer:
    return init_weights(Transformer(config), seed)


def ids(count: int, seed: int = 0, vocab: int = 97) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, vocab, count)


def logits(model: Transformer, batch: Batch) -> torch.Tensor:
    with torch.no_grad():
        return model.logits(model.hidden(batch))


@pytest.mark.parametrize("kind", KINDS)
def test_logits_equal_transformers_both_ways(kind: str, tmp_path) -> None:
    config = KINDS[kind]
    ours = make(config)
    save_model(ours, tmp_path / "ours")
    theirs = LlamaForCausalLM.from_pretrained(tmp_path / "ours", dtype=torch.float32).eval()
    tokens = torch.from_numpy(ids(150))
    with torch.no_grad():
        expected = theirs(tokens[None]).logits[0]
    torch.testing.assert_close(logits(ours, Batch.of_documents(tokens)), expected, atol=1e-5, rtol=1e-5)

    # And a checkpoint that transformers wrote, with weights of its own drawing.
    hf = LlamaForCausalLM(LlamaConfig(**{**config.to_hf(), "architectures": None})).eval()
    hf.save_pretrained(tmp_path / "theirs")
    with torch.no_grad():
        expected = hf(tokens[None]).logits[0]
    loaded = load_model(tmp_path / "theirs")
    assert loaded.config == config
    torch.testing.assert_close(logits(loaded, Batch.of_documents(tokens)), expected, atol=1e-5, rtol=1e-5)


def dense_attention(batch: Batch):
    """The oracle: T x T mask built token by token from the definition, plain softmax, autograd's own backward."""
    parents, segment_T, starts = batch.parents_S.tolist(), batch.segment_T.tolist(), batch.starts_S1.tolist()
    sees = torch.zeros(batch.num_tokens, batch.num_tokens, dtype=torch.bool)
    for i, segment in enumerate(segment_T):
        sees[i, starts[segment] : i + 1] = True
        while (segment := parents[segment]) >= 0:
            sees[i, starts[segment] : starts[segment + 1]] = True

    class Dense:
        def attend(self, layer, q_TKGC, k_TKC, v_TKC):
            group = q_TKGC.shape[2]
            q, k, v = (
                q_TKGC.flatten(1, 2),
                k_TKC.repeat_interleave(group, 1),
                v_TKC.repeat_interleave(group, 1),
            )
            scores = torch.einsum("ihc,jhc->hij", q, k) * q.shape[-1] ** -0.5
            p = scores.masked_fill(~sees, float("-inf")).softmax(-1)
            return torch.einsum("hij,jhc->ihc", p, v).unflatten(1, q_TKGC.shape[1:3])

    return Dense(), sees


def forest(seed: int = 0) -> Batch:
    """Trees of many shapes: lone documents, answers of equal and unequal lengths, a path three deep, long ones."""
    rng = np.random.default_rng(seed)
    lengths = [
        [(70, -1)],
        [(70, -1)],
        [(5, -1)],
        [(30, -1), (9, 0), (9, 0), (1, 0)],
        [(3, -1), (140, 0), (17, 1), (4, 2), (8, 0)],
        [(1, -1)],
        [(131, -1), (64, 0), (65, 0)],
    ]
    return Batch.of_trees(
        [Tree([Segment(rng.integers(0, 97, n), parent, parent >= 0) for n, parent in tree]) for tree in lengths]
    )


@pytest.mark.parametrize("kept", [True, False])
def test_forest_attention_equals_dense_oracle(kept: bool, monkeypatch) -> None:
    if not kept:
        monkeypatch.setattr("llama3.model.attention.KEPT_PROBABILITIES", 0)
    batch = forest()
    dense, _ = dense_attention(batch)
    torch.manual_seed(0)
    shapes = [(batch.num_tokens, 2, 3, 8), (batch.num_tokens, 2, 8), (batch.num_tokens, 2, 8)]
    inputs = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    weight = torch.randn(shapes[0], dtype=torch.float64)
    results = []
    for attention in (ForestAttention(batch), dense):
        out = attention.attend(0, *inputs)
        results.append([out, *torch.autograd.grad((out * weight).sum(), inputs)])
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected, atol=1e-10, rtol=1e-8)


@pytest.mark.parametrize("runs", [[(0, 7)], [(3, 40), (61, 90)], [(0, 1), (2, 3), (100, 300)], [(130, 200)]])
def test_attention_of_some_queries_is_that_of_all(runs) -> None:
    batch = forest()
    queries_t = torch.cat([torch.arange(first, min(end, batch.num_tokens)) for first, end in runs])
    torch.manual_seed(0)
    shapes = [(batch.num_tokens, 2, 3, 8), (batch.num_tokens, 2, 8), (batch.num_tokens, 2, 8)]
    q, k, v = (torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes)
    some = forest_attention(batch, queries_t).attend(0, q[queries_t], k, v)
    among_all = ForestAttention(batch).attend(0, q, k, v)[queries_t]
    torch.testing.assert_close(some, among_all, atol=1e-12, rtol=0)
    for ours, expected in zip(*(torch.autograd.grad(x.sin().sum(), (q, k, v)) for x in (some, among_all)), strict=True):
        torch.testing.assert_close(ours, expected, atol=1e-12, rtol=0)


def test_whole_model_gradients_equal_dense_oracle(monkeypatch) -> None:
    batch, model = forest(1), make(SMALL)
    gradients = []
    for attention in (ForestAttention(batch), dense_attention(batch)[0]):
        monkeypatch.setattr("llama3.model.transformer.forest_attention", lambda _, a=attention: a)
        model.zero_grad()
        F.cross_entropy(model.logits(model.hidden(batch)), batch.tokens_T.roll(-1)).backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters()})
    for name, grad in gradients[0].items():
        torch.testing.assert_close(grad, gradients[1][name], atol=2e-6, rtol=1e-4, msg=name)


def test_flex_mask_equals_dense_mask() -> None:
    batch = forest()
    _, sees = dense_attention(batch)
    i = torch.arange(batch.num_tokens)
    zero = torch.tensor(0)
    assert torch.equal(forest_mask(batch)(zero, zero, i[:, None], i[None, :]), sees)


def test_changing_one_document_leaves_the_others_bit_equal() -> None:
    model = make(SMALL)
    starts = [0, 64, 128, 199, 203]
    tokens = ids(260)
    changed = tokens.copy()
    changed[64:128] = ids(64, seed=1)
    with torch.autocast("cpu", torch.bfloat16):
        before, after = (logits(model, Batch.of_documents(t, starts)) for t in (tokens, changed))
    same = torch.ones(260, dtype=torch.bool)
    same[64:128] = False
    assert torch.equal(before[same], after[same])
    assert not torch.equal(before[~same], after[~same])


def test_nan_in_one_document_does_not_reach_the_others() -> None:
    model = make(SMALL)
    model.embed.weight.data[7] = float("nan")
    tokens = np.full(50, 3)
    tokens[10] = 7
    out = logits(model, Batch.of_documents(tokens, [0, 8, 20, 29, 31]))
    bad = out.isnan().any(-1)
    assert bad[10:20].all()
    assert not bad[:8].any()
    assert not bad[20:].any()


def test_shared_prompt_equals_repeated_prompt() -> None:
    model = make(SMALL)
    prompt, answers = ids(37), [ids(n, seed=n) for n in (5, 12, 12, 70)]
    shared = Batch.of_trees([Tree([Segment(prompt), *(Segment(a, 0, True) for a in answers)])])
    repeated = Batch.of_trees([Tree([Segment(prompt), Segment(a, 0, True)]) for a in answers])
    whole = Batch.of_trees(
        [Tree([Segment(np.concatenate([prompt, a]), -1, np.arange(37 + len(a)) >= 37)]) for a in answers]
    )
    outcomes = []
    for batch in (shared, repeated, whole):
        model.zero_grad()
        logps = score(model, batch).logps_M
        logps.sum().backward()
        outcomes.append((logps, model.layers["0"].attention.qkv.weight.grad.clone()))
    for logps, grad in outcomes[1:]:
        torch.testing.assert_close(logps, outcomes[0][0], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(grad, outcomes[0][1], atol=1e-4, rtol=1e-4)


class DenseCache:
    """A cache of one sequence: everything so far, contiguous."""

    def __init__(self, layers: int) -> None:
        self.past = [(torch.empty(0), torch.empty(0))] * layers

    def attend(self, layer, q_TKGC, k_TKC, v_TKC):
        old_k, old_v = self.past[layer]
        k, v = (torch.cat([old, new]) if len(old) else new for old, new in ((old_k, k_TKC), (old_v, v_TKC)))
        self.past[layer] = (k, v)
        sees = torch.arange(len(k)) <= (len(k) - len(q_TKGC) + torch.arange(len(q_TKGC)))[:, None]
        scores = torch.einsum("tkgc,jkc->kgtj", q_TKGC, k) * q_TKGC.shape[-1] ** -0.5
        return torch.einsum("kgtj,jkc->tkgc", scores.masked_fill(~sees, float("-inf")).softmax(-1), v)


@pytest.mark.parametrize("kind", ["3.1", "3.2"])
def test_cached_steps_equal_the_whole_forest(kind: str) -> None:
    model, tokens = make(KINDS[kind]), torch.from_numpy(ids(40))
    expected = logits(model, Batch.of_documents(tokens))
    cache = DenseCache(model.config.n_layers)
    with torch.no_grad():
        pieces = [tokens[:17], tokens[17:18], tokens[18:19], tokens[19:30], tokens[30:]]
        done, out = 0, []
        for piece in pieces:
            out.append(model.logits(model.step(piece, torch.arange(done, done + len(piece)), cache)))
            done += len(piece)
    torch.testing.assert_close(torch.cat(out), expected, atol=1e-5, rtol=1e-5)


def test_kv_sink_sees_every_layer_and_changes_nothing() -> None:
    model, batch = make(SMALL), Batch.of_documents(ids(20), [0, 12])
    seen = []
    with torch.no_grad():
        h = model.hidden(batch, kv_sink=lambda layer, k, v: seen.append((layer, k.shape, v.shape)))
        assert torch.equal(h, model.hidden(batch))
    assert seen == [(0, (20, 2, 8), (20, 2, 8)), (1, (20, 2, 8), (20, 2, 8))]


def test_grouped_queries_equal_repeated_key_value_heads() -> None:
    grouped = make(KINDS["3.0"])
    config = dataclasses.replace(grouped.config, n_kv_heads=6)
    full = make(config)
    state = grouped.state_dict()
    for index in range(config.n_layers):
        name = f"layers.{index}.attention.qkv.weight"
        by_group = state[name].unflatten(0, (2, 5, 8))
        heads = [torch.stack([by_group[h // 3, h % 3], by_group[h // 3, 3], by_group[h // 3, 4]]) for h in range(6)]
        state[name] = torch.cat(heads).flatten(0, 1)
    full.load_state_dict(state)
    batch = forest()
    torch.testing.assert_close(logits(full, batch), logits(grouped, batch), atol=1e-5, rtol=1e-5)


def test_bfloat16_autocast_stays_near_float32() -> None:
    model, batch = make(SMALL), forest()
    exact = score(model, batch).logps_M
    with torch.autocast("cpu", torch.bfloat16):
        rounded = score(model, batch).logps_M
    assert rounded.dtype == torch.float32
    assert (rounded - exact).abs().max() < 0.05
