"""An answer of a model on its way through the guards, streamed or whole.

Its text is judged at `output` and at `stream`, windows of it as it comes and all of it at its end, and each code
between fences at `code`, once it is closed. Nothing is passed on before all that were asked have judged it: the last
characters are held back until more text was scanned behind them, and code until its fence is closed. A whole answer is
a stream that comes in one piece, so that both end alike.
"""

from __future__ import annotations

from collections.abc import Awaitable, Iterable, Set
from typing import Protocol

from llama3.errors import GuardBlocked
from llama3.plugins.specs import GuardStage
from llama3.safety.decision import Decision
from llama3.safety.fences import CodeFences, FencedCode
from llama3.safety.redaction import HeldBack, Ranges

TOO_LATE = GuardBlocked.declare(
    "L3-SAF-021",
    "the answer was cut short",
    why="a guard wants something redacted that was passed on already",
    fix="ask without a stream, where the whole answer is judged before any of it is seen",
)

HOLD_BACK = 200
"""Characters of a stream that are kept until more text has been scanned after them."""
WINDOW = 4000
"""Characters before the held-back tail that every scan of a stream sees again."""
TEXT_STAGES: tuple[GuardStage, ...] = ("output", "stream")
"""Where the text of an answer is judged."""
ANSWER_STAGES: tuple[GuardStage, ...] = (*TEXT_STAGES, "code")
"""Where an answer is judged: its text, and the code between its fences."""


class TextJudge(Protocol):
    """Decides on a text at a stage: `PolicyEngine`, for one answer."""

    def __call__(
        self, stage: GuardStage, text: str, *, begins: bool = ..., ends: bool = ..., language: str | None = ...
    ) -> Awaitable[Decision]: ...


class GuardedAnswer:
    """Takes an answer piece by piece, gives what of it may be passed on.

    Args:
        judge: decides on a text at a stage.
        stages: those that have guards.
    """

    def __init__(self, judge: TextJudge, stages: Set[str]) -> None:
        self._judge = judge
        self._stages = [stage for stage in TEXT_STAGES if stage in stages]
        self._fences = CodeFences() if "code" in stages else None
        self._held = HeldBack(HOLD_BACK, WINDOW)
        self._in_code: list[tuple[int, int]] = []  # of the answer, to be redacted

    def add(self, piece: str) -> bool:
        """Take a piece. Whether it is time for `window`."""
        return self._held.add(piece)

    async def window(self) -> str:
        """What may be passed on while the answer goes on. Raises GuardBlocked."""
        held = self._held
        begin, text = held.begin, held.text
        marks = await self._marks(text[begin:], begin, begins=not begin, ends=False)
        stop = None
        if self._fences is not None:
            await self._judge_code(self._fences.push(text))
            stop = self._fences.open_at
        return self._passed(held.release([*marks, *self._in_code], whole=False, stop=stop))

    async def rest(self) -> str:
        """What is left when the answer is over. Raises GuardBlocked."""
        held = self._held
        marks = await self._marks(held.text, 0, begins=True, ends=True)
        if self._fences is not None:
            await self._judge_code(self._fences.flush(held.text))
        return self._passed(held.release([*marks, *self._in_code], whole=True))

    async def _marks(self, text: str, start: int, *, begins: bool, ends: bool) -> list[tuple[int, int]]:
        """What is to be redacted, in places of the answer, after each stage has judged a window of it."""
        marks: list[tuple[int, int]] = []
        for stage in self._stages:
            decision = await self._judge(stage, text, begins=begins, ends=ends)
            decision.raise_if_blocked()
            marks += _moved(decision.marked, start)
        return marks

    async def _judge_code(self, closed: Iterable[FencedCode]) -> None:
        for block in closed:
            decision = await self._judge("code", block.code, language=block.language or None)
            decision.raise_if_blocked()
            self._in_code += _moved(decision.marked, block.start)

    @staticmethod
    def _passed(piece: str | None) -> str:
        if piece is None:
            raise TOO_LATE("output guard")
        return piece


def _moved(ranges: Ranges, by: int) -> list[tuple[int, int]]:
    return [(first + by, last + by) for first, last in ranges]
