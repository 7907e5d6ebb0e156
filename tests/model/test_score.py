"""`score` against plain log-softmax and autograd."""

import pytest
import torch

from llama3.errors import ConfigError, DataError
from llama3.model.batch import Batch, Segment, Tree
from llama3.model.build import init_weights
from llama3.model.config import ModelConfig
from llama3.model.score import log_probs, score, top
from llama3.model.transformer import Transformer

CONFIG = ModelConfig(32, 2, 4, 2, 48, 61)
EVERYTHING = frozenset({"logps", "entropy", "collision", "values", "score", "soft", "soft_logps"})


def forest() -> Batch:
    generator = torch.Generator().manual_seed(0)

    def draw(n: int) -> list[int]:
        return torch.randint(0, 61, (n,), generator=generator).tolist()

    trees = [
        Tree([Segment(draw(7)), Segment(draw(5), 0, True), Segment(draw(3), 0, [False, True, True])]) for _ in range(3)
    ]
    return Batch.of_trees([*trees, Tree([Segment(draw(9), -1, [False] + [True] * 8)])])


@pytest.mark.parametrize("chunk", [1, 1 << 21])
@pytest.mark.parametrize("kept", [0, 1 << 26])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probs_and_gradients_equal_plain_torch(chunk, kept, temperature, monkeypatch) -> None:
    monkeypatch.setattr("llama3.model.score.CHUNK_LOGITS", chunk)
    monkeypatch.setattr("llama3.model.score.CHUNK_ROWS", 64)
    monkeypatch.setattr("llama3.model.score.KEPT_LOGITS", kept)
    torch.manual_seed(0)
    h_MD = torch.randn(150, 16, requires_grad=True)
    weight_VD = torch.randn(61, 16, requires_grad=True)
    ids_M, a_M, b_M = torch.randint(0, 61, (150,)), torch.randn(150), torch.randn(150)

    log_p = torch.log_softmax(h_MD @ weight_VD.t() / temperature, -1)
    plain = log_p.gather(1, ids_M[:, None])[:, 0], -(log_p.exp() * log_p).sum(-1)
    ours = log_probs(h_MD, weight_VD, ids_M, temperature, with_entropy=True)[:2]
    for got, expected in zip(ours, plain, strict=True):
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
    gradients = [
        torch.autograd.grad((logps * a_M + entropy * b_M).sum(), [h_MD, weight_VD]) for logps, entropy in (ours, plain)
    ]
    for got, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)

    collision_M = log_probs(h_MD, weight_VD, ids_M, temperature, with_collision=True)[2]
    torch.testing.assert_close(collision_M, torch.logsumexp(2 * log_p, -1), atol=1e-5, rtol=1e-5)
    assert not collision_M.requires_grad

    only = log_probs(h_MD, weight_VD, ids_M, temperature)[0]
    got = torch.autograd.grad((only * a_M).sum(), [h_MD, weight_VD])
    expected = torch.autograd.grad(
        (torch.log_softmax(h_MD @ weight_VD.t() / temperature, -1).gather(1, ids_M[:, None])[:, 0] * a_M).sum(),
        [h_MD, weight_VD],
    )
    for x, y in zip(got, expected, strict=True):
        torch.testing.assert_close(x, y, atol=1e-4, rtol=1e-4)


def test_score_reads_the_hidden_state_before_each_target() -> None:
    model, batch = init_weights(Transformer(CONFIG, value_head=True, score_head=True), 0), forest()
    scored = score(model, batch, {"logps", "entropy", "values", "score"})
    h_TD = model.hidden(batch)
    log_p_TV = model.logits(h_TD).log_softmax(-1)
    logps, values = scored.logps_M.tolist(), scored.values_M.tolist()
    sources, targets = batch.source_M.tolist(), batch.targets_M.tolist()
    for m, (source, target) in enumerate(zip(sources, targets, strict=True)):
        assert logps[m] == pytest.approx(log_p_TV[source, batch.tokens_T[target]].item(), abs=1e-5)
        assert values[m] == pytest.approx(model.value_head(h_TD[source]).item(), abs=1e-5)
    ends = batch.starts_S1[1:] - 1
    torch.testing.assert_close(scored.score_S, model.score_head(h_TD[ends]).squeeze(-1))
    assert [name for name, value in vars(score(model, batch)).items() if value is not None] == ["logps_M"]


def test_gradients_reach_every_parameter() -> None:
    model = init_weights(Transformer(CONFIG, value_head=True, score_head=True), 0)
    scored = score(model, with_soft_targets(forest(), 3), EVERYTHING)
    sum(value.sum() for value in vars(scored).values()).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_everything_is_float32_under_autocast() -> None:
    model = init_weights(Transformer(CONFIG, value_head=True, score_head=True), 0)
    with torch.autocast("cpu", torch.bfloat16):
        scored = score(model, with_soft_targets(forest(), 3), EVERYTHING)
    assert {value.dtype for value in vars(scored).values()} == {torch.float32}
    # The head itself is not rounded: its sums have more digits than bfloat16 holds.
    assert not torch.equal(scored.values_M, scored.values_M.bfloat16().float())


def with_soft_targets(batch: Batch, k: int) -> Batch:
    """Each target with a random distribution over k tokens that leaves some mass to the others."""
    generator = torch.Generator().manual_seed(1)
    ids_Mk = torch.rand(batch.num_targets, 61, generator=generator).topk(k).indices
    probs_Mk = torch.rand(batch.num_targets, k + 1, generator=generator).softmax(-1)[:, :k]
    return batch.with_(per_target={"soft_ids": ids_Mk, "soft_probs": probs_Mk})


@pytest.mark.parametrize("chunk", [2, 1 << 21])
@pytest.mark.parametrize("kept", [0, 1 << 26])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_soft_cross_entropy_equals_the_dense_one_in_value_and_gradient(monkeypatch, chunk, kept, temperature) -> None:
    monkeypatch.setattr("llama3.model.score.CHUNK_LOGITS", chunk * 61)
    monkeypatch.setattr("llama3.model.score.CHUNK_ROWS", min(chunk, 256))
    monkeypatch.setattr("llama3.model.score.KEPT_LOGITS", kept)
    batch = with_soft_targets(forest(), 5)
    weight_M = torch.randn(batch.num_targets, generator=torch.Generator().manual_seed(2))

    def dense(model) -> tuple[torch.Tensor, ...]:
        log_p_MV = (model.logits(model.hidden(batch))[batch.source_M] / temperature).log_softmax(-1)
        probs_MV = torch.zeros_like(log_p_MV).scatter(1, batch.per_target["soft_ids"], batch.per_target["soft_probs"])
        soft_logps_Mk = log_p_MV.gather(1, batch.per_target["soft_ids"])
        logps_M = log_p_MV.gather(1, batch.target_ids_M[:, None]).squeeze(1)
        return -(probs_MV * log_p_MV).sum(-1), logps_M, soft_logps_Mk

    def ours(model) -> tuple[torch.Tensor, ...]:
        scored = score(model, batch, {"soft", "logps", "soft_logps"}, temperature)
        return scored.soft_M, scored.logps_M, scored.soft_logps_Mk

    models = [init_weights(Transformer(CONFIG), 0) for _ in range(2)]
    found, expected = ours(models[0]), dense(models[1])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    for soft, logps, soft_logps_Mk in (found, expected):
        (weight_M * soft + 0.3 * logps + (weight_M[:, None] * soft_logps_Mk.exp()).sum(1)).sum().backward()
    for one, other in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, atol=1e-5, rtol=1e-4)


def test_no_logits_are_kept_for_a_large_vocabulary(monkeypatch) -> None:
    """What the backward pass holds is as large as the targets and the matrix, not their product."""
    monkeypatch.setattr("llama3.model.score.KEPT_LOGITS", 0)
    sizes: list[int] = []

    def seen(x: torch.Tensor) -> torch.Tensor:
        sizes.append(x.numel())
        return x

    h_MD, weight_VD = torch.randn(64, 4).requires_grad_(), torch.randn(5000, 4).requires_grad_()
    soft_ids_Mk = torch.zeros(64, 3, dtype=torch.int64)
    with torch.autograd.graph.saved_tensors_hooks(seen, lambda x: x):
        log_probs(h_MD, weight_VD, torch.zeros(64, dtype=torch.int64), soft_ids_Mk=soft_ids_Mk)[3].sum().backward()
    assert max(sizes) == weight_VD.numel() < 64 * 5000


@pytest.mark.parametrize("chunk", [2, 1 << 21])
def test_top_gives_the_likeliest_tokens(monkeypatch, chunk) -> None:
    monkeypatch.setattr("llama3.model.score.CHUNK_LOGITS", chunk * 61)
    monkeypatch.setattr("llama3.model.score.CHUNK_ROWS", min(chunk, 256))
    model, batch = init_weights(Transformer(CONFIG), 0), forest()
    ids_Mk, logps_Mk = top(model, batch, 4, temperature=0.5)
    with torch.no_grad():
        expected = (model.logits(model.hidden(batch))[batch.source_M] / 0.5).log_softmax(-1).topk(4)
    assert torch.equal(ids_Mk, expected.indices)
    torch.testing.assert_close(logps_Mk, expected.values, atol=1e-5, rtol=0)
    assert [x.shape for x in top(model, batch.select([]), 4)] == [(0, 4), (0, 4)]
    with pytest.raises(ConfigError, match=r"cannot give 62 tokens.*L3-MDL-024"):
        top(model, batch, 62)


def test_no_targets_give_empty_log_probs() -> None:
    batch = Batch.of_trees([Tree([Segment([1, 2])])])
    assert score(init_weights(Transformer(CONFIG), 0), batch).logps_M.shape == (0,)


def test_an_empty_batch_has_zero_gradients() -> None:
    # A rank that was dealt no tree still takes part in the step.
    model = init_weights(Transformer(CONFIG), 0)
    score(model, forest().keep([])).logps_M.sum().backward()
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())


def test_wrong_requests_are_refused() -> None:
    model = Transformer(CONFIG)
    with pytest.raises(ConfigError, match="L3-MDL-020"):
        score(model, forest(), {"logits"})
    with pytest.raises(ConfigError, match="L3-MDL-021"):
        score(model, forest(), temperature=0.0)
    with pytest.raises(DataError, match="L3-MDL-023"):
        score(model, forest(), {"soft"})
    with pytest.raises(ConfigError, match="value_head=True"):
        score(model, forest(), {"values"})
