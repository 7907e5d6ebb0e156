"""Conformance of guards: sound verdicts on any text, the same one each time, and closed when they fail."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from llama3.plugins.specs import GuardSpec
from llama3.safety.engine import PolicyEngine
from llama3.safety.guard import ACTIONS, GuardInput, Verdict
from llama3.safety.worker import settled
from llama3.testing.conformance import Conformance
from llama3.testing.guard_faults import FAULT_MS, FAULTS, SLOW_FAULTS, Fault, FaultyGuard, let_go

TEXTS = (
    "What is the capital of France?",
    "",
    " ",
    "\u0000\u0001\ufffd",
    "\U0001f999" * 50,
    "e\u0301\u200b\u202e reversed",
    "a" * 20_000,
    "line\nline\r\n\ttab",
)
"""Harmless, empty, control characters, outside the basic plane, combining and invisible, long, many lines."""


TOOLS = {"weather": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}
"""What may be called, wherever a guard is asked."""


def _failing(verdict: Verdict, fault: Fault, name: str, options: object) -> FaultyGuard:
    return FaultyGuard(lambda x: verdict, fault)


@contextmanager
def _untold() -> Iterator[None]:
    """What the engine warns of faults that are injected here, under the plugin's name, is no word about the plugin."""
    log = logging.getLogger(PolicyEngine.__module__)
    none = logging.Filter("none")  # lets records of a logger "none" pass, and no others
    log.addFilter(none)
    try:
        yield
    finally:
        log.removeFilter(none)


class GuardConformance(Conformance):
    """Checks of a guard, whose methods may be plain or `async`. `benign` must pass; texts in `harmful` (if you name
    some) must not. At `tool_call` the calls `benign_calls`, of `TOOLS`, stand in the place of `benign`."""

    family = "guards"
    benign: tuple[str, ...] = ("What is the capital of France?", "Sort the list [3, 1, 2].")
    harmful: tuple[str, ...] = ()
    benign_calls: tuple[str, ...] = ('{"name": "weather", "parameters": {"city": "Oslo"}}',)

    def test_it_declares_its_stages(self) -> None:
        spec = self.spec
        assert isinstance(spec, GuardSpec)
        assert spec.stages, "a guard that stands nowhere"

    def test_verdicts_on_any_text_are_sound(self) -> None:
        for stage in self._stages():
            for text in TEXTS:
                verdict = self._verdict(stage, text)
                assert isinstance(verdict, Verdict)
                assert verdict.action in ACTIONS
                scores = [*verdict.categories.values(), *([] if verdict.p is None else [verdict.p])]
                assert all(math.isfinite(score) and 0 <= score <= 1 for score in scores), scores
                assert all(0 <= span.start <= span.end <= len(text) for span in verdict.spans), (
                    "a span outside the text"
                )

    def test_a_deterministic_guard_says_the_same_again(self) -> None:
        spec = self.spec
        if isinstance(spec, GuardSpec) and spec.deterministic:
            for text in (*TEXTS, *self.harmful):
                first, again = (self._verdict(self._stages()[0], text) for _ in range(2))
                assert (first.action, first.p, first.spans) == (again.action, again.p, again.spans)

    def test_benign_text_passes_and_harmful_text_does_not(self) -> None:
        for stage in self._stages():
            with self._engine(stage) as engine:
                for text in self._benign(stage):
                    assert not engine.decide(stage, text, tools=TOOLS).blocked, f"blocked: {text}"
                for text in self.harmful:
                    assert engine.decide(stage, text, tools=TOOLS).blocked, f"passed: {text}"

    def test_whatever_fails_inside_blocks(self) -> None:
        stage = self._stages()[0]
        text = self._benign(stage)[0]
        verdict = self._verdict(stage, text)
        for name, fault in FAULTS.items():
            leaf = {"guard": self.plugin, "timeout_ms": FAULT_MS if name in SLOW_FAULTS else 60_000}
            with _untold(), PolicyEngine({stage: leaf}, partial(_failing, verdict, fault)) as engine:
                decision = engine.decide(stage, text, tools=TOOLS)
                let_go()
            assert decision.blocked, f"passed where it {name}"
            assert decision.verdicts[0].status != "ok", f"not told of where it {name}"

    def test_it_opens_and_closes_again(self) -> None:
        guard = self.build()

        async def twice() -> None:
            for _ in range(2):
                await settled(guard.open())
                await settled(guard.close())

        asyncio.run(twice())

    def _stages(self) -> list[Any]:
        spec = self.spec
        return sorted(spec.stages) if isinstance(spec, GuardSpec) else []

    def _benign(self, stage: str) -> tuple[str, ...]:
        return self.benign_calls if stage == "tool_call" else self.benign

    def _engine(self, stage: str) -> PolicyEngine:
        return PolicyEngine({stage: {"guard": self.plugin}}, lambda name, options: self.build())

    def _verdict(self, stage: Any, text: str) -> Verdict:
        guard = self.build()

        async def ask() -> Verdict:
            await settled(guard.open())
            try:
                verdict: Verdict = await settled(guard.check(GuardInput(stage=stage, text=text, tools=TOOLS)))
                return verdict
            finally:
                await settled(guard.close())

        return asyncio.run(ask())
