"""Questions that come one by one are answered several at once."""

from __future__ import annotations

import asyncio

import pytest

from llama3.guards import GuardInput, Together, Verdict
from llama3.safety.engine import PolicyEngine, guard_input


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
        together = Together(answer)
        first = await asyncio.gather(*map(together.ask, range(9)))
        return first, await together.ask(50)

    assert asyncio.run(asked()) == ([0, 2, 4, 6, 8, 10, 12, 14, 16], 100)
    assert answer.sizes == [9, 1]


def test_one_that_cannot_be_answered_spoils_no_other():
    def answer(numbers):
        return [12 // number for number in numbers]

    async def asked():
        together = Together(answer)
        return await asyncio.gather(*map(together.ask, (1, 2, 0, 4)), return_exceptions=True)

    *others, nothing, last = asyncio.run(asked())
    assert (others, last) == ([12, 6], 3)
    assert isinstance(nothing, ZeroDivisionError)


def test_one_that_nobody_waits_for_is_not_answered():
    answer = Doubling()

    async def asked():
        together = Together(answer)
        left = asyncio.ensure_future(together.ask(1))
        kept = asyncio.ensure_future(together.ask(2))
        await asyncio.sleep(0)
        left.cancel()
        return await kept

    assert asyncio.run(asked()) == 4
    assert answer.sizes == [1]


def test_too_few_answers_are_told_and_keep_nobody_waiting():
    async def asked():
        together = Together(lambda numbers: [])
        return await asyncio.wait_for(asyncio.gather(*map(together.ask, (1, 2)), return_exceptions=True), 5)

    assert all(isinstance(found, ValueError) for found in asyncio.run(asked()))


@pytest.mark.parametrize("count", [1, 40])
def test_a_guard_of_a_third_party_is_asked_about_several_texts_at_once(count):
    sizes = list[int]()

    class Guard:
        def open(self):
            self.together = Together(self.answer)

        def close(self): ...

        def answer(self, texts):
            sizes.append(len(texts))
            return ["block" if "bad" in text else "allow" for text in texts]

        async def check(self, x: GuardInput) -> Verdict:
            return Verdict(action=await self.together.ask(x.text))

    texts = [f"{'bad' if n % 3 else 'good'} {n}" for n in range(count)]
    with PolicyEngine({"input": "many"}, lambda name, options: Guard()) as engine:
        found = engine.judge_all(guard_input("input", text) for text in texts)
    assert [decision.blocked for decision in found] == ["bad" in text for text in texts]
    assert sum(sizes) == count
    assert len(sizes) <= max(1, count // 4)
