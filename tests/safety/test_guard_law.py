"""The law of the engine, for any guard: what is no sound answer in time is `on_error`, and nothing holds it up."""

from __future__ import annotations

import asyncio
import math
import threading
import time

import pytest

from llama3.errors import ConfigError, PluginError
from llama3.safety.engine import PolicyEngine
from llama3.safety.guard import Span, Verdict
from llama3.safety.policy import parse_policy


class Doing:
    """A guard whose check does what it is given."""

    def __init__(self, check):
        self.check = check

    async def open(self): ...

    async def close(self): ...


def engine(check, **leaf):
    return PolicyEngine({"input": {"guard": "g", **leaf}}, lambda name, options: Doing(check))


def decide(check, **leaf):
    return engine(check, **leaf).decide("input", "text")


release = threading.Event()


async def blocks_its_thread(x):
    release.wait(20)
    return Verdict(action="allow")


def blocks_its_thread_and_is_plain(x):
    release.wait(20)
    return Verdict(action="allow")


async def swallows_cancellation(x):
    while not release.is_set():
        try:
            await asyncio.sleep(0.05)
        except asyncio.CancelledError:
            continue
    return Verdict(action="allow")


@pytest.mark.parametrize("check", [blocks_its_thread, blocks_its_thread_and_is_plain, swallows_cancellation])
def test_a_guard_that_does_not_answer_in_time_is_on_error(check):
    release.clear()
    with engine(check, timeout_ms=50) as guarded:
        decisions = [guarded.decide("input", "text") for _ in range(2)]
        assert not release.is_set(), "nobody waited for the guard"
        assert [(d.action, d.verdicts[0].status) for d in decisions] == [("block", "timeout")] * 2
        release.set()


def test_a_guard_that_hangs_does_not_hold_up_the_end(monkeypatch, caplog):
    """And is closed when it comes back."""
    monkeypatch.setattr("llama3.safety.engine.CLOSING_SECONDS", 60)
    closed, done = [], threading.Event()

    class Closing(Doing):
        async def close(self):
            closed.append(self)
            done.set()

    release.clear()
    policy = {"input": {"guard": "g", "timeout_ms": 50}}
    with PolicyEngine(policy, lambda name, options: Closing(blocks_its_thread)) as guarded:
        assert guarded.decide("input", "text").blocked
    assert not closed, "nobody waited for the guard"
    assert "guard g failed to close: TimeoutError: it hangs" in caplog.text
    release.set()
    assert done.wait(20)


def test_one_hanging_guard_holds_up_no_other():
    release.clear()
    checks = {"slow": blocks_its_thread, "fast": lambda x: Verdict(action="flag")}
    policy = {"input": {"any": [{"guard": "slow", "timeout_ms": 50, "on_error": "review"}, "fast"]}}
    decision = PolicyEngine(policy, lambda name, options: Doing(checks[name])).decide("input", "text")
    assert [(v.guard, v.status) for v in decision.verdicts] == [("slow", "timeout"), ("fast", "ok")]
    assert decision.action == "review"
    release.set()


def test_an_answer_after_the_deadline_is_none(monkeypatch):
    """Even where it is there before anybody looks, as beside a thread that lets no other run."""
    clock = [0.0]
    monkeypatch.setattr("llama3.safety.worker.time", type("Clock", (), {"monotonic": staticmethod(lambda: clock[0])}))

    def late(x):
        clock[0] += 60
        return Verdict(action="allow")

    decision = decide(late)
    assert (decision.action, decision.verdicts[0].status) == ("block", "timeout")


@pytest.mark.parametrize("error", [SystemExit(0), KeyboardInterrupt(), GeneratorExit(), asyncio.CancelledError()])
@pytest.mark.parametrize("plain", [True, False])
def test_whatever_a_guard_raises_is_its_failure(error, plain):
    def raising(x):
        raise error

    async def raising_later(x):
        raise error

    guarded = engine(raising if plain else raising_later)
    for _ in range(2):
        decision = guarded.decide("input", "text")
        assert (decision.action, decision.verdicts[0].status) == ("block", "error")


@pytest.mark.parametrize(
    "verdict",
    [
        Verdict(action="allow", p="high"),
        Verdict(action="allow", p=True),
        Verdict(action="allow", p=-0.1),
        Verdict(action="allow", p=1.5),
        Verdict(action="allow", p=math.nan),
        Verdict(action="allow", categories={"hate": None}),
        Verdict(action="allow", categories={"hate": 10**400}),
        Verdict(action="allow", categories={"hate": math.inf}),
        Verdict(action="allow", categories=None),
        Verdict(action="allow", spans=None),
        Verdict(action=["allow"]),
        Verdict(action="redact", spans=(Span(start=2, end=9),)),
        Verdict(action="redact", spans=(Span(start=-1, end=2),)),
        Verdict(action="redact", spans=(Span(start=0.0, end=2),)),
        Verdict(action="redact", spans=(Span(start=2, end=2),)),
        None,
    ],
)
def test_what_a_sound_guard_cannot_say_blocks(verdict):
    decision = decide(lambda x: verdict)
    assert (decision.action, decision.verdicts[0].status) == ("block", "error")


def test_a_verdict_is_read_once():
    class Turncoat(Verdict):
        asked = 0

        def __getattribute__(self, name):
            if name == "action":
                Turncoat.asked += 1
                return "block" if Turncoat.asked == 1 else "allow"
            return super().__getattribute__(name)

    decision = decide(lambda x: Turncoat(action="block"))
    assert decision.blocked


def test_a_guard_is_opened_asked_and_closed_in_one_thread():
    seen = []

    class Owning:
        async def open(self):
            seen.append((threading.get_ident(), asyncio.get_running_loop()))

        async def check(self, x):
            seen.append((threading.get_ident(), asyncio.get_running_loop()))
            return Verdict(action="allow")

        close = open

    with PolicyEngine({"input": "g"}, lambda name, options: Owning()) as guarded:
        guarded.decide("input", "a")
        guarded.decide("input", "b")
    assert len(seen) == 4
    assert len(set(seen)) == 1
    assert seen[0][0] != threading.get_ident()


def test_a_guard_that_ends_the_program_when_it_is_opened_is_a_plugins_failure():
    class Leaving(Doing):
        async def open(self):
            raise SystemExit(0)

    guarded = PolicyEngine({"input": "g"}, lambda name, options: Leaving(None))
    with pytest.raises(PluginError, match=r"'g' could not be opened.*SystemExit: 0.*L3-SAF-022"):
        guarded.open()


def test_a_guard_that_cannot_be_closed_is_told_of_and_the_others_are_closed(caplog):
    closed = []

    class Closing(Doing):
        async def close(self):
            closed.append(self)
            raise RuntimeError("stuck")

    with PolicyEngine({"input": {"any": ["a", "b"]}}, lambda name, options: Closing(None)):
        pass
    assert len(closed) == 2
    assert "guard a failed to close: RuntimeError: stuck" in caplog.text


def test_no_thread_outlives_its_engine():
    before = threading.active_count()
    for _ in range(20):
        decide(lambda x: Verdict(action="allow"))
    deadline = time.monotonic() + 20
    while threading.active_count() > before + 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() <= before + 2


@pytest.mark.parametrize(
    ("tree", "code"),
    [
        ({"guard": "a", "timeout_ms": "fast"}, "L3-SAF-012"),
        ({"guard": "a", "timeout_ms": math.nan}, "L3-SAF-012"),
        ({"guard": "a", "timeout_ms": math.inf}, "L3-SAF-012"),
        ({"guard": "a", "timeout_ms": 10**400}, "L3-SAF-012"),
        ({"guard": "a", "timeout_ms": 0}, "L3-SAF-012"),
        ({"guard": "a", "timeout_ms": True}, "L3-SAF-012"),
        ({"guard": "a", "thresholds": [1]}, "L3-SAF-009"),
        ({"guard": "a", "thresholds": {"x": {"block": True}}}, "L3-SAF-009"),
        ({"guard": "a", "thresholds": {"x": {"block": math.nan}}}, "L3-SAF-009"),
        ({"k_of": {"k": True, "of": ["a"]}}, "L3-SAF-005"),
        ({"unguarded": 1}, "L3-SAF-003"),
        ({"guard": "a", 3: 4}, "L3-SAF-006"),
        ({3: "a", "b": 4}, "L3-SAF-003"),
    ],
)
def test_odd_values_of_a_policy_are_refused(tree, code):
    with pytest.raises(ConfigError) as caught:
        parse_policy({"input": tree})
    assert [problem.code for problem in caught.value.problems] == [code]


@pytest.mark.parametrize("raw", [[], "a", None, 3])
def test_what_is_no_policy_is_refused(raw):
    with pytest.raises(ConfigError, match="L3-SAF-011"):
        parse_policy(raw)


def test_a_policy_that_nests_without_end_is_refused():
    tree = "a"
    for _ in range(5000):
        tree = {"any": [tree]}
    with pytest.raises(ConfigError, match="L3-SAF-013"):
        parse_policy({"input": tree})
