"""Questions that come one by one, answered several at once: how a guard that is a model judges in batches.

The `check` of a guard is asked about one text, but where it awaits, others are begun before it is over (see `Guard`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

Question = TypeVar("Question")
Answer = TypeVar("Answer")


class Batcher(Generic[Question, Answer]):
    """Gives `answer` all questions that are asked by the time it is free; it answers each, in their order. Where it
    raises, each is answered alone, so that one does not spoil the others' answers. For one event loop, a guard's own.
    """

    def __init__(self, answer: Callable[[Sequence[Question]], Sequence[Answer]]) -> None:
        self._answer = answer
        self._waiting: list[tuple[Question, asyncio.Future[Answer]]] = []
        self._task: asyncio.Task[None] | None = None

    async def ask(self, question: Question) -> Answer:
        """The answer to this question."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Answer] = loop.create_future()
        self._waiting.append((question, future))
        if len(self._waiting) == 1:
            self._task = loop.create_task(self._answer_all())  # kept, or it might be collected before it is over
        return await future

    async def _answer_all(self) -> None:
        seen = 0
        while len(self._waiting) > seen:
            seen = len(self._waiting)
            # An engine begins the next check one turn of the loop after this one waits, and that asks a turn later.
            for _ in range(3):
                await asyncio.sleep(0)
        asked, self._waiting = self._waiting, []
        self._settle([(question, future) for question, future in asked if not future.done()])

    def _settle(self, asked: Sequence[tuple[Question, asyncio.Future[Answer]]]) -> None:
        if not asked:
            return
        try:
            answers = list(zip(asked, self._answer([question for question, _ in asked]), strict=True))
        except Exception as error:
            if len(asked) == 1:
                asked[0][1].set_exception(error)
                return
            for alone in asked:
                self._settle([alone])
            return
        for (_, future), answer in answers:
            future.set_result(answer)
