"""What a guard marks is replaced before anybody sees it, in whole texts and in streams, however they are cut."""

from __future__ import annotations

import asyncio
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama3.errors import GuardBlocked
from llama3.safety.answers import HOLD_BACK
from llama3.safety.engine import PolicyEngine
from llama3.safety.guard import Span, Verdict
from llama3.safety.redaction import REDACTED

CARD = re.compile(r"[0-9]+")


class Redacting:
    """Marks every run of digits; says no more than `redact` of a text with a "!"."""

    async def open(self): ...

    async def close(self): ...

    async def check(self, x):
        spans = tuple(Span(start=m.start(), end=m.end()) for m in CARD.finditer(x.text))
        if "!" in x.text:
            return Verdict(action="redact")
        return Verdict(action="redact" if spans else "allow", spans=spans, reason="digits")


def engine(tree="g"):
    return PolicyEngine({"output": tree, "input": tree}, lambda name, options: Redacting())


def streamed(text, size, tree="g"):
    return "".join(engine(tree).guard_stream(text[i : i + size] for i in range(0, len(text), size)))


def test_a_text_is_redacted_and_passes():
    decision = engine().decide("input", "call 4711 or 12")
    assert (decision.action, decision.blocked) == ("redact", False)
    assert decision.text == f"call {REDACTED} or {REDACTED}"
    decision.raise_if_blocked()
    assert engine().decide("input", "no digits").text == "no digits"


def test_who_does_not_say_what_to_redact_redacts_all():
    assert engine().decide("input", "help!").text == REDACTED
    assert engine().decide("input", "").text == ""


@given(st.lists(st.sampled_from(["a", " ", "b c", "7", "42" * 40, "x" * 90]), max_size=30), st.integers(1, 300))
def test_a_stream_is_redacted_as_the_whole_text_is(parts, size):
    text = "".join(parts)
    # A run of digits that is longer than what is held back is kept until it has ended.
    assert streamed(text, size) == engine().decide("output", text).text


def test_marks_that_cross_what_is_held_back_are_never_seen_in_part():
    text = "x" * (HOLD_BACK + 50) + "1" * 30 + "y" * (2 * HOLD_BACK)
    for size in (1, 7, HOLD_BACK, 1000):
        released = streamed(text, size)
        assert not any(digit in released for digit in "0123456789")
        assert released.count(REDACTED) == 1


def test_what_was_passed_on_cannot_be_taken_back():
    passed = []
    text = "x" * (3 * HOLD_BACK) + "!"  # only the end says that all of it was to be redacted
    with pytest.raises(GuardBlocked, match="L3-SAF-021"):
        passed.extend(engine().guard_stream(text[i : i + 50] for i in range(0, len(text), 50)))
    assert "!" not in "".join(passed)


def test_only_the_composed_action_redacts():
    class Allowing(Redacting):
        async def check(self, x):
            return Verdict(action="allow")

    built = {"g": Redacting, "fine": Allowing}
    make = lambda tree: PolicyEngine({"input": tree}, lambda name, options: built[name]())
    assert make({"all": ["g", "fine"]}).decide("input", "a 1").text == "a 1"
    assert make({"any": ["g", "fine"]}).decide("input", "a 1").text == f"a {REDACTED}"


def test_a_guard_is_told_which_window_of_a_stream_it_sees():
    seen = []

    class Watching(Redacting):
        async def check(self, x):
            seen.append((x.begins, x.ends, x.text))
            return Verdict(action="allow")

    text = "".join(f"{n:04d}" for n in range(2500))
    guards = PolicyEngine({"output": "g"}, lambda name, options: Watching())
    for streamed_by in ("sync", "async"):
        seen.clear()
        pieces = [text[i : i + 500] for i in range(0, len(text), 500)]
        if streamed_by == "sync":
            assert "".join(guards.guard_stream(pieces)) == text
        else:
            assert asyncio.run(collected(guards.aguard_stream(each(pieces)))) == text
        *windows, last = seen
        assert last == (True, True, text)
        assert {begins for begins, _, _ in windows} == {True, False}
        assert all(not ends and begins == text.startswith(window) for begins, ends, window in windows)
    seen.clear()
    guards.decide("output", "whole")
    assert seen == [(True, True, "whole")]


async def each(pieces):
    for piece in pieces:
        yield piece


async def collected(stream):
    return "".join([piece async for piece in stream])
