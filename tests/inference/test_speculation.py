"""Prompt-lookup speculation: answers are those of an engine that does not speculate, and the pool is sound after each
step, whatever was guessed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llama3 import _core
from llama3.errors import ConfigError
from llama3.inference import Completion, Engine, FinishReason, Sampling
from llama3.inference.request import Request
from llama3.inference.speculation import LONGEST_MATCH, SHORTEST_MATCH, continuation
from llama3.model.build import init_weights
from llama3.model.config import ModelConfig
from llama3.model.transformer import Transformer

VOCAB = 29
GREEDY = Sampling(40, temperature=0)
TOKEN = st.integers(0, VOCAB - 1)


def make_model(seed: int, attention: float) -> Transformer:
    """The less it attends, the more depends on the last token alone, and greedy answers go round in loops, which a
    lookup finds."""
    model = init_weights(Transformer(ModelConfig(32, 2, 4, 2, 64, VOCAB, max_seq_len=192)), seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.mul_(2.5 * (attention if "attention" in name else 1.0))
    return model


LOOPING = make_model(1, 0.2)
MODELS = [make_model(0, 1.0), make_model(1, 0.5), LOOPING]


def assert_clean(engine: Engine) -> None:
    stats = engine.pool.stats()
    assert engine.pool.check() == []
    assert (stats["free"], stats["rows"], stats["promised"]) == (stats["blocks"], 0, 0)


def stepped(engine: Engine, requests: list[Request]) -> list[list[Completion]]:
    """All answers, the pool audited after every step."""
    while not all(request.is_over for request in requests):
        engine.step()
        assert engine.pool.check() == []
    assert_clean(engine)
    return [request.result() for request in requests]


def same(found: list[list[Completion]], expected: list[list[Completion]]) -> None:
    """The same ids and reasons; log-probs with the same bits where the core computes, else as near as rounding lets
    them be."""
    for mine, others in zip(found, expected, strict=True):
        assert [(a.ids, a.finish_reason) for a in mine] == [(b.ids, b.finish_reason) for b in others]
        for a, b in zip(mine, others, strict=True):
            np.testing.assert_allclose(a.logps, b.logps, atol=2e-5, rtol=1e-5)


PROMPT = st.lists(TOKEN, min_size=1, max_size=12).flatmap(
    lambda head: st.lists(st.sampled_from([head, head[:3], head[-2:]]), min_size=1, max_size=4).map(
        lambda parts: [token for part in parts for token in part]
    )
)
SAMPLING = st.builds(
    Sampling,
    st.integers(1, 60),
    temperature=st.sampled_from([0.0, 0.3, 1.0]),
    top_p=st.sampled_from([1.0, 0.9]),
    top_k=st.sampled_from([0, 4]),
    n=st.integers(1, 3),
    seed=st.integers(0, 5),
    stop_ids=st.frozensets(TOKEN, max_size=2),
    top_logps=st.sampled_from([0, 2]),
    logit_bias=st.sampled_from([(), ((3, 2.5),)]),
)


@settings(max_examples=15, deadline=None)
@given(
    model=st.sampled_from(MODELS),
    asked=st.lists(st.tuples(PROMPT, SAMPLING), min_size=1, max_size=4),
    block_size=st.sampled_from([1, 3, 16]),
    max_batch=st.integers(1, 6),
    prefill_tokens=st.sampled_from([5, 2048]),
)
def test_answers_are_the_same_with_and_without(
    model: Transformer, asked: list[tuple[list[int], Sampling]], block_size: int, max_batch: int, prefill_tokens: int
) -> None:
    room = {"block_size": block_size, "max_batch": max_batch, "prefill_tokens": prefill_tokens}
    plain, guessing = Engine(model, **room), Engine(model, speculative="prompt_lookup", **room)
    found, expected = (
        stepped(engine, [engine.submit(prompt, sampling) for prompt, sampling in asked]) for engine in (guessing, plain)
    )
    same(found, expected)
    same([engine_tops(guessing, *one) for one in asked], [engine_tops(plain, *one) for one in asked])


def engine_tops(engine: Engine, prompt: list[int], sampling: Sampling) -> list[Completion]:
    """Once more with what was published by drafts found in the cache; the likeliest tokens stand for ids."""
    request = engine.submit(prompt, sampling)
    engine.wait(request)
    return [
        Completion([id for top in a.tops for id, _ in top], [p for top in a.tops for _, p in top], FinishReason.STOP)
        for a in request.answers.values()
    ]


@pytest.mark.skipif(not _core.HAS_SIMD, reason="torch's products depend on the number of rows")
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
@pytest.mark.parametrize("sampling", [GREEDY, Sampling(40, temperature=0.2, seed=1)])
def test_what_is_guessed_right_saves_steps_and_no_bit_differs(dtype: torch.dtype | None, sampling: Sampling) -> None:
    model = LOOPING
    prompts = [[token] for token in range(12)]
    plain, guessing = Engine(model, dtype=dtype), Engine(model, dtype=dtype, speculative="prompt_lookup")
    steps: list[int] = []
    plan = guessing.cache.plan
    guessing.cache.plan = lambda *args: (steps.append(1), plan(*args))[1]  # type: ignore[method-assign]
    for prompt in prompts:
        assert guessing.generate([prompt], sampling) == plain.generate([prompt], sampling)
    drafted, accepted = guessing.decoder.drafted, guessing.decoder.accepted
    assert 0 < accepted <= drafted
    assert len(steps) <= len(prompts) * sampling.max_tokens - accepted
    if sampling is GREEDY:
        assert len(steps) < 0.5 * len(prompts) * sampling.max_tokens
    assert plain.decoder.drafted == 0
    assert_clean(guessing)


def looping(sampling: Sampling) -> tuple[list[int], list[int]]:
    """A prompt and its answer, in which the model goes round."""
    for start in range(VOCAB):
        ids = Engine(LOOPING).generate([[start]], sampling)[0][0].ids
        if len(set(ids[20:])) in (3, 4, 5, 6):
            return [start], ids
    raise AssertionError("no answer goes round")


def test_a_stop_in_the_middle_of_a_draft_ends_the_answer_there() -> None:
    prompt, whole = looping(GREEDY)
    endings = set()
    for stop in set(whole):
        engine = Engine(LOOPING, speculative="prompt_lookup", block_size=4)
        # The stop is drawn inside a loop that began before it: what follows it was guessed and is dropped.
        (answer,) = engine.generate([prompt + whole[:30]], replace(GREEDY, stop_ids=frozenset({stop})))[0]
        (plain,) = Engine(LOOPING).generate([prompt + whole[:30]], replace(GREEDY, stop_ids=frozenset({stop})))[0]
        assert (answer.ids, answer.finish_reason) == (plain.ids, plain.finish_reason)
        assert len(answer.logps) == len(answer.ids)
        endings.add((engine.decoder.drafted > engine.decoder.accepted, answer.finish_reason))
        assert_clean(engine)
        # Nothing but what the answer consists of can be found in the cache.
        kept = np.array([*prompt, *whole[:30], *answer.ids], np.uint32)
        assert engine.pool.stats()["cached"] == (len(kept) - 1) // 4
        assert engine.pool.match_len(kept) == (len(kept) - 1) // 4 * 4
    assert (True, FinishReason.STOP) in endings


@pytest.mark.parametrize("after", range(1, 12))
def test_leaving_an_answer_while_it_is_guessed_gives_everything_back(after: int) -> None:
    prompt, whole = looping(GREEDY)
    engine = Engine(LOOPING, speculative="prompt_lookup", block_size=2)
    request = engine.submit(prompt, replace(GREEDY, max_tokens=150, n=2))
    stream: Iterator[int] = engine.stream(prompt, GREEDY)
    assert [next(stream) for _ in range(after)] == whole[:after]
    engine.cancel(request)
    stream.close()
    assert_clean(engine)
    assert engine.generate([prompt], GREEDY)[0][0].ids == whole


def test_what_is_constrained_is_not_guessed() -> None:
    class Even:
        def allowed(self) -> np.ndarray:
            return np.arange(VOCAB) % 2 == 0

        def push(self, token: int) -> None:
            assert token % 2 == 0

    engine = Engine(LOOPING, speculative="prompt_lookup")
    held = engine.submit([1, 2, 1, 2, 1, 2], GREEDY, constrain=Even)
    free = engine.submit(*(looping(GREEDY)[0], GREEDY))
    assert all(token % 2 == 0 for token in engine.wait(held)[0].ids)
    assert engine.decoder.accepted > 0
    assert engine.wait(free)[0].ids == looping(GREEDY)[1]
    engine = Engine(LOOPING, speculative="prompt_lookup")
    engine.wait(engine.submit([1, 2, 1, 2, 1, 2], GREEDY, constrain=Even))
    assert engine.decoder.drafted == 0


@given(st.lists(st.integers(0, 3), min_size=1, max_size=30), st.integers(1, 9))
def test_a_draft_is_what_followed_the_longest_match(tokens: list[int], count: int) -> None:
    def slowly() -> list[int]:
        for length in range(LONGEST_MATCH, SHORTEST_MATCH - 1, -1):
            for end in range(len(tokens) - 1, length - 1, -1):
                if length < len(tokens) and tokens[end - length : end] == tokens[-length:]:
                    return ((tokens[end:]) * count)[:count]
        return []

    assert continuation(np.array(tokens, np.uint32), count) == slowly()


def test_other_ways_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"'medusa' is no way to speculate.*off, prompt_lookup.*L3-GEN-020"):
        Engine(LOOPING, speculative="medusa")  # type: ignore[arg-type]
