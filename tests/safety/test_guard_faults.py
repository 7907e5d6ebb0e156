"""The laws of the engine under injected faults, on policies that a seed draws; `make guard-faults` draws 100,000."""

from __future__ import annotations

import asyncio
import json
import random
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import started
from hypothesis import given, settings
from hypothesis import strategies as st

from llama3.safety.answers import GuardedAnswer
from llama3.safety.engine import PolicyEngine
from llama3.safety.guard import ACTIONS, Verdict, severity
from llama3.testing import guard_faults
from llama3.testing.guard_faults import FAULTS, SLOW_FAULTS, FaultCase, FaultyGuard, MarkedWord, check_case, draw_case

ROOT = Path(__file__).parents[2]
SEEDS = st.integers(0, 10**9)


@settings(max_examples=150, deadline=None)
@given(SEEDS)
def test_no_fault_lowers_an_action(tmp_path_factory, seed):
    case = draw_case(random.Random(seed), slow=0.01)
    assert check_case(case, tmp_path_factory.getbasetemp() / "log.jsonl") == []


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_blocks_alone_and_under_every_node(fault):
    allow, block = (MarkedWord("<w>", action, {"a": 0.0}) for action in ("allow", "block"))
    leaf = {"guard": "g0", "timeout_ms": 8 if fault in SLOW_FAULTS else 60_000}
    for tree in (leaf, {"any": [leaf, "g1"]}, {"all": [leaf, "g1"]}, {"first": [leaf, "g1"]},
                 {"any": [{**leaf, "thresholds": {"a": {"block": 0.5}}}]}):  # fmt: skip
        case = FaultCase("input", tree, {"g0": allow, "g1": block}, {"g0": fault}, "say <w>")
        assert check_case(case) == []


def test_a_guard_is_asked_again_after_every_fault():
    """What one check did to the guard's thread costs the next one at most its time."""
    says = MarkedWord("<w>", "flag", {})
    for fault in SLOW_FAULTS:
        guards = iter([FaultyGuard(says, FAULTS[fault])] + [FaultyGuard(says, None)] * 9)
        policy = {"input": {"guard": "g", "timeout_ms": 300}}
        with PolicyEngine(policy, lambda name, options, guards=guards: next(guards)) as engine:
            assert engine.decide("input", "<w>").verdicts[0].status == "timeout"
            guard_faults.let_go()
            engine._workers[next(iter(engine._workers))].guard._fault = None
            assert engine.decide("input", "<w>").action == "flag"


actions = st.lists(st.sampled_from(ACTIONS), min_size=1, max_size=5)


def decided(tree):
    says = lambda name: MarkedWord("x", name, {})
    return severity(
        PolicyEngine({"input": tree}, lambda name, options: FaultyGuard(says(name), None)).decide("input", "x").action
    )


@settings(max_examples=40, deadline=None)
@given(actions, actions, st.data())
def test_any_is_monotone_commutative_and_associative(first, second, data):
    together = decided({"any": [*first, *second]})
    assert decided({"any": [{"any": first}, {"any": second}]}) == together
    assert decided({"any": data.draw(st.permutations([*first, *second]))}) == together
    assert together >= decided({"any": first})
    worse = [data.draw(st.sampled_from(ACTIONS[severity(action) :])) for action in first]
    assert decided({"any": worse}) >= decided({"any": first})


@settings(max_examples=15, deadline=None)
@given(SEEDS)
def test_what_is_left_changes_nothing_for_the_others(seed):
    rng = random.Random(seed)
    case = replace(draw_case(rng, slow=0), faults={})
    with PolicyEngine({case.stage: case.tree}, lambda name, options: Slow(case.says[name])) as engine:
        expected = engine.decide(case.stage, case.text)

        async def some_are_left():
            tasks = [asyncio.ensure_future(engine.adecide(case.stage, case.text)) for _ in range(6)]
            await asyncio.sleep(rng.random() / 200)
            for task in tasks[::2]:
                task.cancel()
            return await asyncio.gather(*tasks, return_exceptions=True)

        found = asyncio.run(some_are_left())
    assert {(one.action, one.text) for one in found[1::2]} == {(expected.action, expected.text)}


class Slow(FaultyGuard):
    """Takes a while."""

    def __init__(self, says):
        super().__init__(says, self._after_a_while)

    @staticmethod
    async def _after_a_while(x, verdict):
        await asyncio.sleep(0.001)
        return verdict


FAIL_OPEN = {
    "on_error is forgotten": ("_verdict_of", lambda leaf, answer, text: (Verdict(action="allow"), "allow")),
    "a lie is believed": ("_sound", lambda answer, length: replace(answer, spans=(), status="ok")
                          if isinstance(answer, Verdict) and answer.action in ACTIONS else Verdict(action="allow")),
}  # fmt: skip


@pytest.mark.parametrize("planted", FAIL_OPEN)
def test_an_engine_that_fails_open_is_found(planted, monkeypatch):
    """The check itself: a fault that is planted in the engine is told."""
    name, broken = FAIL_OPEN[planted]
    monkeypatch.setattr(f"llama3.safety.engine.{name}", broken)
    found = [wrong for seed in range(60) for wrong in check_case(draw_case(random.Random(seed), slow=0))]
    assert any("fail-open" in wrong for wrong in found)


def test_a_stream_that_is_not_judged_at_its_end_is_found(monkeypatch):
    async def unjudged(self):
        return self._held.release([], whole=True)

    monkeypatch.setattr(GuardedAnswer, "rest", unjudged)
    found = [wrong for seed in range(300) for wrong in check_case(draw_case(random.Random(seed), slow=0))]
    assert any("fail-open: a stream" in wrong for wrong in found)


def test_the_benchmark_counts_and_tells(tmp_path):
    command = [sys.executable, "benchmarks/guard_faults.py", "--cases", "60", "--processes", "1", "--no-results"]
    done = started.run(command, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert re.search(r"cases: 60; .*fail open: 0; other wrongs: 0; seed: 1", done.stdout)


def test_the_results_are_those_of_100_000_cases_without_a_fail_open():
    results = json.loads((ROOT / "benchmarks" / "results" / "guard_faults.json").read_text("utf-8"))
    assert results["cases"] >= 100_000
    assert (results["fail_open"], results["other_wrongs"]) == (0, 0)
    assert set(results["injected"]) == set(FAULTS)
    assert min(results["injected"].values()) > 0
