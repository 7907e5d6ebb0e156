"""Sampling against transformers' own filters, and its random numbers against SplitMix64's published outputs."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from llama3.errors import ConfigError, LlamaError
from llama3.inference.sampling import Draws, Sampling, draw, keep_likeliest, stream_seed, uniforms


def draws(count: int, *, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0) -> Draws:
    """The same settings for `count` rows, random numbers evenly over [0, 1)."""
    sampling = Sampling(1, temperature=temperature, top_k=top_k, top_p=top_p)
    return Draws.of([sampling] * count, (np.arange(count) + 0.5) / count)


@pytest.mark.parametrize(("top_k", "top_p"), [(0, 1.0), (1, 1.0), (5, 1.0), (200, 1.0), (0, 0.5), (0, 0.01), (7, 0.8)])
def test_filters_equal_those_of_transformers(top_k: int, top_p: float) -> None:
    from transformers import TopKLogitsWarper, TopPLogitsWarper

    logits_BV = torch.randn(16, 97, generator=torch.Generator().manual_seed(0)) * 3
    expected = logits_BV.clone()
    if top_k:
        expected = TopKLogitsWarper(top_k)(None, expected)
    if top_p < 1:
        expected = TopPLogitsWarper(top_p)(None, expected)
    found = keep_likeliest(logits_BV, np.full(16, top_k), np.full(16, top_p, np.float32))
    assert torch.equal(found, expected)


def test_rows_keep_their_own_filters() -> None:
    logits_BV = torch.randn(4, 50, generator=torch.Generator().manual_seed(1))
    top_k, top_p = np.array([0, 3, 0, 10]), np.array([1.0, 1.0, 0.3, 0.5], np.float32)
    together = keep_likeliest(logits_BV, top_k, top_p)
    alone = [keep_likeliest(logits_BV[i : i + 1], top_k[i : i + 1], top_p[i : i + 1]) for i in range(4)]
    assert torch.equal(together, torch.cat(alone))
    assert torch.equal(together[0], logits_BV[0])


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_come_in_proportion_to_their_probability(temperature: float) -> None:
    count = 10_000
    logits_V = torch.randn(20, generator=torch.Generator().manual_seed(2))
    ids, logps = draw(logits_V.expand(count, -1), draws(count, temperature=temperature))
    frequency_V = torch.bincount(ids, minlength=20) / count
    # Evenly spaced random numbers meet each probability to within one of them.
    torch.testing.assert_close(frequency_V, (logits_V / temperature).softmax(-1), atol=1.1 / count, rtol=0)
    torch.testing.assert_close(
        logps, logits_V.log_softmax(-1)[ids], msg="log-probs are the model's own, at temperature 1"
    )


def test_answers_per_prompt_have_a_bound() -> None:
    assert Sampling(1, n=65_536).n == 65_536
    for n in (0, 65_537, 10**30):
        with pytest.raises(ConfigError, match=r"n: is \d+\. it must be from 1 to 65,536.*L3-GEN-001"):
            Sampling(1, n=n)


def test_what_is_filtered_out_is_never_drawn() -> None:
    logits_V = torch.randn(100, generator=torch.Generator().manual_seed(3))
    ids, _ = draw(logits_V.expand(2000, -1), draws(2000, top_k=3))
    assert set(ids.tolist()) == set(logits_V.topk(3).indices.tolist())


def test_temperature_0_takes_the_likeliest_beside_rows_that_sample() -> None:
    logits_BV = torch.randn(6, 50, generator=torch.Generator().manual_seed(4))
    mixed = Draws.of([Sampling(1, temperature=t) for t in (0, 1, 0, 1, 0, 1)], np.full(6, 0.9999))
    ids, logps = draw(logits_BV, mixed)
    assert ids[::2].tolist() == logits_BV.argmax(-1)[::2].tolist()
    assert ids[1::2].tolist() != logits_BV.argmax(-1)[1::2].tolist()
    torch.testing.assert_close(logps, logits_BV.log_softmax(-1).gather(1, ids[:, None]).squeeze(1))


def test_the_extreme_random_numbers_draw_possible_tokens() -> None:
    logits_BV = torch.tensor([[float("-inf"), 0.0, 0.0, float("-inf")]] * 2)
    extremes = Draws.of([Sampling(1)] * 2, np.array([0.0, np.nextafter(1.0, 0.0)]))
    assert draw(logits_BV, extremes)[0].tolist() == [1, 2]


def test_scores_that_are_no_numbers_are_refused() -> None:
    for value in (float("nan"), float("inf")):
        logits_BV = torch.zeros(2, 5)
        logits_BV[1, 3] = value
        with pytest.raises(LlamaError, match="L3-GEN-002"):
            draw(logits_BV, draws(2))


def test_random_numbers_are_splitmix64() -> None:
    # The generator's reference outputs for the seed 1234567.
    reference = np.array([6457827717110365317, 3203168211198807973, 9817491932198370423], np.uint64)
    found = uniforms(np.full(3, 1234567, np.uint64), np.arange(3))
    assert (found == (reference >> np.uint64(11)) * 2.0**-53).all()
    many = uniforms(np.arange(10_000, dtype=np.uint64), np.zeros(10_000, np.int64))
    assert 0 <= many.min() < 0.001 < 0.999 < many.max() < 1
    assert abs(many.mean() - 0.5) < 0.01


def test_the_seed_of_an_answer_depends_on_seed_prompt_and_fork_only() -> None:
    prompt = np.array([1, 2, 3], np.uint32)
    seeds = [
        stream_seed(0, prompt, 0),
        stream_seed(1, prompt, 0),
        stream_seed(0, prompt, 1),
        stream_seed(0, prompt[:2], 0),
    ]
    assert len(set(seeds)) == 4
    assert seeds[0] == stream_seed(0, prompt.copy(), 0)


def test_impossible_settings_are_reported_together() -> None:
    with pytest.raises(ConfigError) as error:
        Sampling(0, temperature=-1, top_p=0, top_k=-1, n=0, seed=-1)
    assert [problem.where for problem in error.value.problems] == [
        "max_tokens", "temperature", "top_p", "top_k", "n", "seed",
    ]  # fmt: skip
    with pytest.raises(ConfigError):
        Sampling(1, temperature=float("nan"))
