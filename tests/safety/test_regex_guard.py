"""The guard of a user's own patterns: what they match, that one without end holds nobody up, that bad ones are told."""

from __future__ import annotations

import asyncio
import json
import os
import threading

import pytest
from guarding import Asked, cut, engine, outcome, severity, streamed
from hypothesis import given
from hypothesis import strategies as st

from llama3.errors import ConfigError
from llama3.preflight import load_config
from llama3.safety.guard import GuardInput
from llama3.safety.redaction import REDACTED

WORDS = {"patterns": [
    {"category": "project", "pattern": r"\bproject [A-Z]\w+", "action": "redact"},
    {"category": "word", "pattern": r"\bxyzzy\b", "ignore_case": True},
    {"category": "number", "pattern": r"\bEMP-\d{4}(?!\d)", "action": "flag"},
]}  # fmt: skip
ENDLESS = {"patterns": [{"category": "endless", "pattern": r"(a?){40}(a*)*b"}]}
HOSTILE = "a" * 60


@pytest.fixture(scope="module")
def words():
    with engine("regex", WORDS) as guards:
        yield guards


def test_patterns_have_categories_actions_and_cases(words):
    assert words.decide("output", "say XyZZy").blocked
    assert outcome(words, "project Orion is on, Project Orion too") == f"{REDACTED} is on, Project Orion too"
    decision = words.decide("output", "ask EMP-1234")
    assert (decision.action, decision.text) == ("flag", "ask EMP-1234")
    assert decision.verdicts[0].categories == {"number": 1.0, "project": 0.0, "word": 0.0}
    assert words.decide("output", "ask EMP-12345, xyzzyx").action == "allow"
    assert outcome(words, "EMP-1234 knows project Orion") == f"EMP-1234 knows {REDACTED}"


def test_disguises_are_seen_through_on_request():
    hidden = "say x\u200byz\u200bzy and pr\u043eject Orion"
    plain, seeing = Asked("regex", WORDS), Asked("regex", {**WORDS, "undisguised": True})
    assert plain(hidden).action == "allow"
    verdict = seeing(hidden)
    assert verdict.action == "block"
    assert {hidden[span.start : span.end] for span in verdict.spans} == {"x\u200byz\u200bzy", "pr\u043eject Orion"}
    plain.close()
    seeing.close()


def test_bad_patterns_are_refused_before_work_starts_all_at_once():
    patterns = [
        {"category": "a", "pattern": "("},
        {"category": "b", "pattern": "*"},
        {"category": "", "pattern": "x"},
        {"category": "d", "pattern": "x", "action": "drop"},
        {"category": "e", "pattern": "(?P<n>x)(?P<n>y)"},
    ]
    with pytest.raises(ConfigError) as wrong:
        load_config(
            "quickstart",
            [f"safety.policy={json.dumps({'output': {'guard': {'name': 'regex', 'patterns': patterns}}})}"],
        )
    told = str(wrong.value)
    assert len(wrong.value.problems) == 5
    assert all(f"patterns.{number}" in told for number in range(5))
    with pytest.raises(ConfigError):
        load_config("quickstart", ["safety.policy={output: regex}"])


def test_a_pattern_without_end_blocks_its_text_and_holds_up_nobody():
    with engine("regex", ENDLESS, timeout_ms=600) as guards:
        ticks = []

        async def judge():
            async def tick():
                while True:
                    ticks.append(1)
                    await asyncio.sleep(0.01)

            ticking = asyncio.create_task(tick())
            decision = await guards.adecide("output", HOSTILE)
            ticking.cancel()
            return decision

        decision = asyncio.run(judge())
        assert decision.blocked
        assert decision.verdicts[0].status in ("error", "timeout")
        assert len(ticks) > 10, "the interpreter was held"
        for _ in range(5):  # more than the threads that a guard may lose
            assert guards.decide("output", HOSTILE).blocked
        assert guards.down() == []
        assert guards.decide("output", "fine").action == "allow"


def test_the_process_of_a_pattern_without_end_is_gone():
    asked = Asked("regex", ENDLESS)
    process = asked.guard._process._process
    import time

    with pytest.raises(TimeoutError):
        asked(HOSTILE, deadline=time.monotonic() + 0.3)
    assert process.poll() is not None
    assert asked("fine").action == "allow"
    process = asked.guard._process._process
    asked.close()
    assert process.poll() is not None


def test_a_process_that_was_killed_is_started_anew():
    asked = Asked("regex", WORDS)
    asked.guard._process._process.kill()
    asked.guard._process._process.wait()
    assert asked("xyzzy").action == "block"
    asked.close()


def test_guards_leave_no_process_and_no_thread():
    before = threading.active_count(), len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with engine("regex", WORDS) as guards:
            guards.decide("output", "x")
    assert len(os.listdir("/proc/self/fd")) <= before[1] + 3


@pytest.mark.parametrize("text", ["", "\x00", "\ud800 xyzzy", "x" * 200_000 + " xyzzy", "project O\u0301rion \n xyzzy"])
def test_odd_texts_go_there_and_back(words, text):
    assert words.decide("output", text).blocked == ("xyzzy" in text)


SIGNS = st.text(
    st.sampled_from(["\ud83d", "\ude00", "\U0001f600", "\u2028", "\x85", "\n", "\\", '"', "\u00e9", "x", " "]),
    max_size=30,
)


@given(SIGNS, SIGNS)
def test_surrogates_move_no_place(words, before, after):
    text = f"{before} project Orion {after}"
    (span,) = words._workers[next(iter(words._workers))].guard.check(GuardInput(stage="output", text=text)).spans
    assert text[span.start : span.end] == "project Orion"
    assert outcome(words, text) == f"{before} {REDACTED} {after}"


PIECES = st.lists(
    st.sampled_from(["xyzzy", "project Orion", "EMP-1234", "5", "x", " ", "\n", "word " * 30, "projec", "t Z"]),
    max_size=20,
).map("".join)


@given(PIECES, st.lists(st.integers(1, 300), min_size=1, max_size=4))
def test_a_stream_ends_as_the_whole_text_does(words, text, sizes):
    assert streamed(words, cut(text, sizes)) == outcome(words, text)


@given(PIECES, st.data())
def test_no_window_blocks_what_the_whole_does_not(words, text, data):
    guard = words._workers[next(iter(words._workers))].guard
    begin = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(begin, len(text)))
    part = guard.check(GuardInput(stage="output", text=text[begin:end], begins=not begin, ends=False))
    whole = guard.check(GuardInput(stage="output", text=text))
    if part.action != "redact":
        assert severity(part) <= severity(whole)
    assert all(0 <= span.start < span.end <= len(text) for span in whole.spans)
