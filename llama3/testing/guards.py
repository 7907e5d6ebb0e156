"""Conformance of guards: sound verdicts on any text, the same one each time, and closed when they fail."""

from __future__ import annotations

import asyncio
import math
from typing import Any

from llama3.plugins.specs import GuardSpec
from llama3.safety.engine import PolicyEngine
from llama3.safety.guard import ACTIONS, GuardInput, Verdict
from llama3.safety.worker import settled
from llama3.testing.conformance import Conformance

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


class GuardConformance(Conformance):
    """Checks of a guard, whose methods may be plain or `async`. `benign` must pass; texts in `harmful` (if you name
    some) must not."""

    family = "guards"
    benign: tuple[str, ...] = ("What is the capital of France?", "Sort the list [3, 1, 2].")
    harmful: tuple[str, ...] = ()

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
                for text in self.benign:
                    assert not engine.decide(stage, text).blocked, f"blocked: {text}"
                for text in self.harmful:
                    assert engine.decide(stage, text).blocked, f"passed: {text}"

    def test_an_error_inside_blocks(self) -> None:
        guard = self.build()

        class Failing:
            """The same guard, whose check is interrupted by an error."""

            open, close = guard.open, guard.close

            async def check(self, x: GuardInput) -> Verdict:
                await settled(guard.check(x))
                raise RuntimeError("injected")

        stage = self._stages()[0]
        with PolicyEngine({stage: {"guard": self.plugin}}, lambda name, options: Failing()) as engine:
            assert engine.decide(stage, self.benign[0]).blocked

    def _stages(self) -> list[Any]:
        spec = self.spec
        return sorted(spec.stages) if isinstance(spec, GuardSpec) else []

    def _engine(self, stage: str) -> PolicyEngine:
        return PolicyEngine({stage: {"guard": self.plugin}}, lambda name, options: self.build())

    def _verdict(self, stage: Any, text: str) -> Verdict:
        guard = self.build()

        async def ask() -> Verdict:
            await settled(guard.open())
            try:
                verdict: Verdict = await settled(guard.check(GuardInput(stage=stage, text=text)))
                return verdict
            finally:
                await settled(guard.close())

        return asyncio.run(ask())
