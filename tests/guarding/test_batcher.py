"""Questions that come one by one are answered several at once."""

from __future__ import annotations

import asyncio

import pytest

from llama3.errors import PluginError
from llama3.guards import Batcher, GuardInput, Verdict
from llama3.safety.engine import PolicyEngine, guard_input
from llama3.safety.worker import AT_ONCE


class Doubling:
    """Answers numbers, and remembers how many it was asked at once."""

    def __init__(self) -> None:
        self.sizes = list[int]()

    def __call__(self, numbers):
        self.sizes.append(len(numbers))
        return [2 * number for number in numbers]


def test_what_is_asked_in_one_turn_is_answered_at_once_and_in_order():
    answer = Doubling()

    async def asked():
        batcher = Batcher(answer)
        first = await asyncio.gather(*map(batcher.ask, range(9)))
        return first, await batcher.ask(50)

    assert asyncio.run(asked()) == ([0, 2, 4, 6, 8, 10, 12, 14, 16], 100)
    assert answer.sizes == [9, 1]


def test_one_that_cannot_be_answered_spoils_no_other():
    def answer(numbers):
        return [12 // number for number in numbers]

    async def asked():
        batcher = Batcher(answer)
        return await asyncio.gather(*map(batcher.ask, (1, 2, 0, 4)), return_exceptions=True)

    *others, nothing, last = asyncio.run(asked())
    assert (others, last) == ([12, 6], 3)
    assert isinstance(nothing, ZeroDivisionError)


def test_one_that_nobody_waits_for_is_not_answered():
    answer = Doubling()

    async def asked():
        batcher = Batcher(answer)
        left = asyncio.ensure_future(batcher.ask(1))
        kept = asyncio.ensure_future(batcher.ask(2))
        await asyncio.sleep(0)
        left.cancel()
        return await kept

    assert asyncio.run(asked()) == 4
    assert answer.sizes == [1]


def test_too_few_answers_are_told_and_keep_nobody_waiting():
    async def asked():
        batcher = Batcher(lambda numbers: [])
        return await asyncio.wait_for(asyncio.gather(*map(batcher.ask, (1, 2)), return_exceptions=True), 5)

    assert all(isinstance(found, ValueError) for found in asyncio.run(asked()))


@pytest.mark.parametrize(("count", "at_once", "sizes"), [(1, 32, [1]), (40, 32, [32, 8]), (40, 15, [15, 15, 10])])
def test_a_guard_of_a_third_party_is_asked_about_as_many_texts_as_it_says(count, at_once, sizes):
    asked = list[int]()

    class Guard:
        def open(self):
            self.batcher = Batcher(self.answer)

        def close(self): ...

        def answer(self, texts):
            asked.append(len(texts))
            return ["block" if "bad" in text else "allow" for text in texts]

        async def check(self, x: GuardInput) -> Verdict:
            return Verdict(action=await self.batcher.ask(x.text))

    if at_once != AT_ONCE:
        Guard.at_once = at_once
    texts = [f"{'bad' if n % 3 else 'good'} {n}" for n in range(count)]
    with PolicyEngine({"input": "many"}, lambda name, options: Guard()) as engine:
        for _ in range(20):
            found = engine.judge_all(guard_input("input", text) for text in texts)
            assert [decision.blocked for decision in found] == ["bad" in text for text in texts]
    assert asked == sizes * 20, "always the same, so that what depends on it is always the same"


@pytest.mark.parametrize("at_once", [0, -1, "8", 2.5, True, None])
def test_a_number_of_texts_that_is_none_is_refused(at_once):
    class Guard:
        def open(self): ...

        def close(self): ...

        def check(self, x): ...

    Guard.at_once = at_once
    with pytest.raises(PluginError, match="L3-SAF-025"):
        PolicyEngine({"input": "many"}, lambda name, options: Guard()).open()
