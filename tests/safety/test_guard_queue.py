"""What waits for a guard: every check gets its own answer, and those that are left leave nothing behind."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from concurrent.futures import Future

import pytest

from llama3.errors import LlamaError
from llama3.safety.engine import PolicyEngine
from llama3.safety.guard import Verdict
from llama3.safety.worker import MOST_ABANDONED, Worker

FOREVER = 60.0


class Echo:
    """Answers with the text itself, after a while that the text tells."""

    def __init__(self, plain):
        self.plain = plain

    def open(self): ...

    def close(self): ...

    def check(self, seconds, text):
        return self.plain_check(seconds, text) if self.plain else self.async_check(seconds, text)

    def plain_check(self, seconds, text):
        time.sleep(seconds)
        return text

    async def async_check(self, seconds, text):
        await asyncio.sleep(seconds)
        return text


@pytest.mark.parametrize("plain", [True, False])
def test_every_check_gets_its_own_answer_and_those_that_are_left_leave_nothing(plain):
    rng, worker = random.Random(0), Worker("echo", lambda: Echo(plain))

    async def ask(number):
        seconds, tenant = rng.random() / 500, rng.choice("abc")
        check = worker.check(lambda guard, began: guard.check(seconds, number), tenant, FOREVER, None)
        try:
            async with asyncio.timeout(rng.choice([None, None, rng.random() / 5])):
                return await check == number
        except TimeoutError:
            return None

    async def all_of_them():
        return await asyncio.gather(*map(ask, range(600)))

    worker.open(FOREVER)
    found = asyncio.run(all_of_them())
    assert set(found) == {True, None}
    assert asyncio.run(worker.check(lambda guard, began: guard.check(0, "last"), "d", FOREVER, 1)) == "last"
    assert not worker._queue
    assert not worker._under_way
    assert not worker._thread.overdue
    assert not worker.is_down


def test_whoever_has_an_answer_finds_the_check_gone(monkeypatch):
    """However long the guard's thread takes from the answer on."""
    worker = Worker("echo", lambda: Echo(True))
    worker.open(FOREVER)
    told = Future.set_result

    def slowly(future, result):
        told(future, result)
        if isinstance(result, tuple):
            time.sleep(0.2)

    monkeypatch.setattr(Future, "set_result", slowly)
    assert asyncio.run(worker.check(lambda guard, began: guard.check(0, "a"), "a", FOREVER, None)) == "a"
    assert not worker._under_way
    assert not worker._thread.overdue


def test_what_a_model_wrote_is_judged_however_much_waits():
    gate, began = threading.Event(), threading.Event()

    class Held:
        def open(self): ...

        def close(self): ...

        def check(self, x):
            began.set()
            assert gate.wait(30)
            return Verdict(action="allow")

    async def all_of_them(engine, stage):
        first = asyncio.ensure_future(engine.adecide(stage, "first"))
        await asyncio.to_thread(began.wait, 30)
        rest = [asyncio.ensure_future(engine.adecide(stage, "more", tenant="")) for _ in range(4)]
        await asyncio.sleep(0)
        gate.set()
        return await asyncio.gather(first, *rest, return_exceptions=True)

    for stage, refused in (("input", 2), ("tool_result", 2), ("output", 0), ("tool_call", 0)):
        gate.clear()
        began.clear()
        with PolicyEngine({stage: "held"}, lambda name, options: Held()) as engine:
            engine.most_waiting = 2
            found = asyncio.run(all_of_them(engine, stage))
        busy = [one for one in found if isinstance(one, LlamaError)]
        assert [one.problems[0].code for one in busy] == ["L3-SAF-030"] * refused
        assert all(not one.blocked for one in found if one not in busy)


def test_a_guard_that_cannot_be_opened_again_refuses_and_is_told_of():
    opened, gate = [], threading.Event()

    class Once:
        def open(self):
            opened.append(self)
            if len(opened) > 1:
                raise OSError("the weights are gone")

        def close(self): ...

        def check(self, x):
            gate.wait(30)
            return Verdict(action="allow")

    with PolicyEngine({"input": {"guard": "once", "timeout_ms": 50}}, lambda name, options: Once()) as engine:
        assert engine.decide("input", "a").verdicts[0].status == "timeout"
        while not engine.down():
            time.sleep(0.01)
        assert engine.down() == ["once"]
        decision = engine.decide("input", "a")
        assert (decision.action, decision.verdicts[0].reason) == ("block", "the guard could not be opened again")
        gate.set()
    assert len(opened) <= 2 + MOST_ABANDONED
