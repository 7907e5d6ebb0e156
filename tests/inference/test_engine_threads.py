"""Threads that share an engine: each gets what it would get alone, and a failure reaches everyone who waits."""

from __future__ import annotations

import threading
from concurrent.futures import CancelledError
from dataclasses import replace

import pytest
from engines import CONFIGS, GREEDY, Failing, assert_clean, dense, failure_of, in_threads, make_model, random_prompts

from llama3.inference import Engine, Sampling
from llama3.model.transformer import Transformer


@pytest.fixture(scope="module")
def model() -> Transformer:
    return make_model()


def test_threads_that_share_an_engine_get_what_they_would_alone(model: Transformer) -> None:
    prompts = random_prompts(12, 30, seed=5)
    samplings = [Sampling(5 + 3 * i, seed=i, n=1 + i % 3) for i in range(4)]
    alone = Engine(model)
    streams = [list(alone.stream(prompt, replace(samplings[i % 4], n=1))) for i, prompt in enumerate(prompts[:6])]
    groups = [alone.generate(prompts, sampling) for sampling in samplings]

    engine = Engine(model, num_blocks=60, block_size=4, max_batch=5)
    readers = [
        lambda prompt=prompt, i=i: list(engine.stream(prompt, replace(samplings[i % 4], n=1)))
        for i, prompt in enumerate(prompts[:6])
    ]
    callers = [lambda sampling=sampling: engine.generate(prompts, sampling) for sampling in samplings]
    found = in_threads(*readers, *callers)
    assert found[:6] == streams
    for mine, expected in zip(found[6:], groups, strict=True):
        ids = [[answer.ids for answer in answers] for answers in mine]  # type: ignore[attr-defined]
        assert ids == [[answer.ids for answer in answers] for answers in expected]
    assert_clean(engine)


def test_a_reader_that_leaves_disturbs_nobody(model: Transformer) -> None:
    engine = Engine(model, max_batch=3)
    prompts = random_prompts(6, 20, seed=7)
    expected = [dense(model, prompt, 12) for prompt in prompts]

    def leave() -> list[int]:
        stream = engine.stream([1, 2, 3], Sampling(80, temperature=0))
        drawn = [next(stream) for _ in range(3)]
        stream.close()
        return drawn

    found = in_threads(*[lambda prompt=prompt: list(engine.stream(prompt, GREEDY)) for prompt in prompts], *[leave] * 4)
    assert found[:6] == expected
    assert found[6:] == [dense(model, [1, 2, 3], 3)] * 4
    assert_clean(engine)


def test_a_cancelled_request_ends_in_the_thread_that_reads_it(model: Transformer) -> None:
    engine = Engine(model)
    request = engine.submit([1, 2, 3], Sampling(120, temperature=0))
    begun = threading.Event()

    def read() -> None:
        for _ in engine.tokens(request):
            begun.set()

    def cancel() -> None:
        begun.wait()
        engine.cancel(request)

    error, _ = in_threads(lambda: failure_of(read), cancel)
    assert isinstance(error, CancelledError) or len(request.ids(0)) == 120
    assert_clean(engine)


@pytest.mark.parametrize("countdown", [1, 3, 9])
def test_a_failing_model_reaches_everyone_who_waits(countdown: int) -> None:
    model = Failing(CONFIGS["grouped"])
    model.load_state_dict(make_model().state_dict())
    engine = Engine(model, max_batch=3)
    prompts = random_prompts(4, 15)
    requests = [engine.submit(prompt, GREEDY) for prompt in prompts]
    model.error, model.countdown = RuntimeError("out of memory"), countdown
    errors = in_threads(
        *[lambda request=request: failure_of(lambda: engine.wait(request)) for request in requests[:2]],
        *[lambda request=request: failure_of(lambda: list(engine.tokens(request))) for request in requests[2:]],
    )
    assert errors == [model.error] * 4
    assert_clean(engine)
    assert [answer.ids for (answer,) in engine.generate(prompts, GREEDY)] == [dense(model, p, 12) for p in prompts]


@pytest.mark.parametrize("countdown", [1, 3, 9])
def test_an_interrupt_ends_one_reader_and_the_others_go_on(countdown: int) -> None:
    model = Failing(CONFIGS["grouped"])
    model.load_state_dict(make_model().state_dict())
    engine = Engine(model)
    prompts = random_prompts(4, 15)
    model.error, model.countdown = KeyboardInterrupt(), countdown
    answers: dict[int, list[int]] = {}

    def read(index: int) -> None:
        answers[index] = list(engine.stream(prompts[index], GREEDY))

    errors = in_threads(*[lambda index=index: failure_of(lambda: read(index)) for index in range(4)])
    assert [error for error in errors if error is not None] == [model.error]
    assert answers == {i: dense(model, prompts[i], 12) for i in range(4) if errors[i] is None}
    assert_clean(engine)
