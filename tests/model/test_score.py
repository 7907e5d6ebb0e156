"""`score` against plain log-softmax and autograd."""

import pytest
import torch

from llama3.errors import ConfigError
from llama3.model.batch import Batch, Segment, Tree
from llama3.model.build import init_weights
from llama3.model.config import ModelConfig
from llama3.model.score import log_probs, score
from llama3.model.transformer import Transformer

CONFIG = ModelConfig(32, 2, 4, 2, 48, 61)


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
    ours = log_probs(h_MD, weight_VD, ids_M, temperature, with_entropy=True)
    for got, expected in zip(ours, plain, strict=True):
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
    gradients = [
        torch.autograd.grad((logps * a_M + entropy * b_M).sum(), [h_MD, weight_VD]) for logps, entropy in (ours, plain)
    ]
    for got, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)

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
    scored = score(model, forest(), {"logps", "entropy", "values", "score"})
    sum(value.sum() for value in vars(scored).values()).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_everything_is_float32_under_autocast() -> None:
    model = init_weights(Transformer(CONFIG, value_head=True, score_head=True), 0)
    with torch.autocast("cpu", torch.bfloat16):
        scored = score(model, forest(), {"logps", "entropy", "values", "score"})
    assert {value.dtype for value in vars(scored).values()} == {torch.float32}
    # The head itself is not rounded: its sums have more digits than bfloat16 holds.
    assert not torch.equal(scored.values_M, scored.values_M.bfloat16().float())


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
    with pytest.raises(ConfigError, match="value_head=True"):
        score(model, forest(), {"values"})
