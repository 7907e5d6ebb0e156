"""Answers and requests that nobody wants any more: they end, and what is beside them goes on."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest
from engines import GREEDY, assert_clean, dense, in_threads, make_model, random_prompts
from torch import Tensor

from llama3.inference import Engine, FinishReason, Sampling
from llama3.model.transformer import Transformer


@pytest.fixture(scope="module")
def model() -> Transformer:
    return make_model()


@pytest.mark.parametrize("gone", [0, 2])
@pytest.mark.parametrize("speculative", ["off", "prompt_lookup"])
def test_one_answer_of_a_request_is_dropped_and_its_siblings_go_on(
    model: Transformer, gone: int, speculative: str
) -> None:
    engine = Engine(model, block_size=2, speculative=speculative)  # type: ignore[arg-type]
    sampling = Sampling(30, n=3, seed=5, temperature=0.5)
    (expected,) = Engine(model).generate([[1, 2, 3]], sampling)
    request = engine.submit([1, 2, 3], sampling)
    while len(request.ids(gone)) < 4:
        engine.step()
    before = engine.pool.stats()
    engine.cancel(request, gone)
    engine.cancel(request, gone)
    now = engine.pool.stats()
    assert (now["rows"], engine.pool.check()) == (2, [])
    assert now["free"] - now["promised"] > before["free"] - before["promised"] + 10, "nobody needs its blocks any more"
    answers = engine.wait(request)
    assert [answer.ids for answer in answers if answer is not answers[gone]] == [
        answer.ids for answer in expected if answer is not expected[gone]
    ]
    assert answers[gone].finish_reason is FinishReason.CANCELLED
    assert answers[gone].ids == expected[gone].ids[: len(answers[gone].ids)]
    assert 4 <= len(answers[gone].ids) == len(answers[gone].logps) < 30
    assert list(engine.tokens(request, gone)) == answers[gone].ids
    assert_clean(engine)


def test_an_answer_that_is_dropped_before_it_starts_never_does(model: Transformer) -> None:
    engine = Engine(model, block_size=2, max_batch=2)
    sampling = Sampling(6, n=6, seed=5)
    (expected,) = Engine(model).generate([[1, 2, 3]], sampling)
    request = engine.submit([1, 2, 3], sampling)
    engine.step()
    for index in (3, 5):
        engine.cancel(request, index)
    answers = engine.wait(request)
    assert [len(answer.ids) for answer in answers] == [6, 6, 6, 0, 6, 0]
    assert [answers[index].ids for index in (0, 1, 2, 4)] == [expected[index].ids for index in (0, 1, 2, 4)]
    assert_clean(engine)


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_a_request_is_over_when_all_of_its_answers_are_dropped(model: Transformer, steps: int) -> None:
    """Before its prompt is computed, in the middle of that, and after."""
    engine = Engine(model, block_size=2, prefill_tokens=6, max_batch=4)
    prompt = [1, 2, 3] * 3
    request, other = engine.submit(prompt, replace(GREEDY, n=3)), engine.submit([4, 5], GREEDY)
    for _ in range(steps):
        engine.step()
    for index in range(3):
        assert not request.is_over
        engine.cancel(request, index)
    assert [answer.finish_reason for answer in engine.wait(request)] == [FinishReason.CANCELLED] * 3
    assert engine.pool.check() == []
    assert engine.wait(other)[0].ids == dense(model, [4, 5], 12)
    assert engine.wait(engine.submit(prompt, GREEDY))[0].ids == dense(model, prompt, 12)
    assert_clean(engine)


def test_what_was_dropped_stays_so_when_an_interrupt_makes_requests_begin_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = make_model()
    engine, step = Engine(model), model.step
    gone, part = engine.submit([1, 2, 3], replace(GREEDY, n=2)), engine.submit([4, 5], replace(GREEDY, n=2))
    engine.step()

    def interrupted(*args: object) -> Tensor:
        for request, index in ((gone, 0), (gone, 1), (part, 1)):
            engine.cancel(request, index)
        raise KeyboardInterrupt

    monkeypatch.setattr(model, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        engine.step()
    monkeypatch.setattr(model, "step", step)
    assert_clean(engine)
    assert [len(answer.ids) for answer in engine.wait(gone)] == [1, 1]
    assert [answer.ids for answer in engine.wait(part)] == [dense(model, [4, 5], 12), dense(model, [4, 5], 1)]
    assert_clean(engine)


def test_an_answer_is_dropped_while_its_prompt_is_half_computed(model: Transformer) -> None:
    engine = Engine(model, block_size=2, prefill_tokens=6)
    prompt = random_prompts(1, 1, seed=3)[0] * 40
    request = engine.submit(prompt, replace(GREEDY, n=3))
    engine.step()
    engine.cancel(request, 0)
    answers = engine.wait(request)
    assert [len(answer.ids) for answer in answers] == [0, 12, 12]
    assert answers[1].ids == answers[2].ids == dense(model, prompt, 12)
    assert_clean(engine)


def test_what_another_thread_drops_ends_for_those_who_read_it(model: Transformer) -> None:
    engine = Engine(model)
    request = engine.submit([1, 2, 3], Sampling(120, n=2, temperature=0))
    begun = threading.Event()

    def read(index: int) -> list[int]:
        found = []
        for token in engine.tokens(request, index):
            found.append(token)
            begun.set()
        return found

    def drop() -> None:
        begun.wait()
        engine.cancel(request, 1)

    whole, part, _ = in_threads(lambda: read(0), lambda: read(1), drop)
    assert whole == dense(model, [1, 2, 3], 120)
    assert part == whole[: len(part)] == engine.wait(request)[1].ids  # type: ignore[arg-type, index]
    assert_clean(engine)
