"""`ServedChoice`: one answer on its way from the engine to a client, judged by the guards, streamed or not.

A stream is held back as far as the guards want to see more of it; a whole answer is judged whole before any of it is
told. What is blocked ends with `content_filter`. Tokens are told as long as what the guards let pass is what was drawn:
after the first redaction their texts would tell what was redacted.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, TypeVar

from llama3.errors import GuardBlocked
from llama3.safety.calls import code_of_call
from llama3.safety.engine import PolicyEngine
from llama3.safety.guard import Turn
from llama3.serving.answers import AnswerText, ToldToken
from llama3.serving.problems import LATE
from llama3.serving.record import Record
from llama3.serving.service import Job, Service
from llama3.serving.tools import CallReader, FunctionCall

T = TypeVar("T")

CHANGED_CALL = GuardBlocked.declare(
    "L3-SRV-018",
    "the call was refused",
    why="a guard wants a part of it redacted, and half a call is none",
    fix="ask for an answer without what is redacted",
)


@dataclass(frozen=True, slots=True)
class Delta:
    """What comes next of an answer."""

    text: str = ""
    tokens: Sequence[ToldToken] = ()
    calls: Sequence[FunctionCall] = ()


@dataclass(frozen=True, slots=True)
class Exchange:
    """What all answers to one request have in common. `deadline` is in seconds of the loop's clock."""

    record: Record
    service: Service
    guard: PolicyEngine | None
    is_stream: bool
    deadline: float
    seconds: float

    async def in_time(self, work: Awaitable[T]) -> T:
        """What the work gives. Raises LlamaError where that takes longer than an answer may."""
        try:
            async with asyncio.timeout_at(self.deadline):
                return await work
        except TimeoutError:
            raise LATE(seconds=f"{self.seconds:g}") from None


@dataclass(eq=False)
class ServedChoice:
    """Answer `index` of a job, which is number `number` of what was asked for. `trace` is what it answers to; `tools`
    are what it may call, with the JSON schema of each."""

    asked: Exchange
    job: Job
    index: int
    number: int
    answer: AnswerText
    trace: Sequence[Turn] = ()
    calls: CallReader | None = None
    tools: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    finish_reason: str = ""
    _drawn: str = field(init=False, default="")  # text as the model wrote it, as far as it may be told
    _tokens: list[ToldToken] = field(init=False, default_factory=list)  # of it, not passed on yet
    _passed: int | None = field(init=False, default=0)  # characters passed on; None: other ones than were drawn

    async def deltas(self) -> AsyncGenerator[Delta, None]:
        """The answer. `finish_reason` is set at its end. Raises LlamaError where the server cannot go on."""
        waiting: list[ToldToken] = []  # of text that may be a call
        try:
            async with aclosing(self._judged()) as pieces:
                while (piece := await self.asked.in_time(anext(pieces, None))) is not None:
                    waiting += self._tokens_of(piece)
                    text, calls = (piece, []) if self.calls is None else self.calls.push(piece)
                    for call in calls:
                        await self.asked.in_time(self._judge_call(call))
                    if text or calls or (self.calls is None and waiting):
                        yield Delta(text, waiting, calls)
                        waiting = []
            waiting += self._tokens_of("")  # those that have no text
            rest = "" if self.calls is None else self.calls.flush()
            if rest or waiting:
                yield Delta(rest, waiting)
            is_call = self.calls is not None and self.calls.count > 0 and self.answer.finish_reason == "stop"
            self.finish_reason = "tool_calls" if is_call else self.answer.finish_reason or ""
        except GuardBlocked:
            self.finish_reason = "content_filter"
        finally:
            self.asked.service.close(self.job, self.index)

    async def _judge_call(self, call: FunctionCall) -> None:
        """Raises GuardBlocked for a call that the guards refuse, or would change: of the call itself, and of the code
        that it would run."""
        guard, record = self.asked.guard, self.asked.record
        if guard is None:
            return
        code = [("code", text, language or None) for language, text in code_of_call(call.name, call.arguments)]
        for stage, text, language in [("tool_call", str(call), None), *code]:
            decision = await guard.adecide(
                stage, text, self.trace, record.id, record.tenant, language=language, tools=self.tools
            )
            decision.raise_if_blocked()
            if decision.text != text:
                raise CHANGED_CALL(call.name)

    async def _judged(self) -> AsyncGenerator[str, None]:
        """The text as far as it passes. Raises GuardBlocked."""
        guard, asked = self.asked.guard, self.asked
        async with aclosing(self._pieces()) as pieces:
            if guard is None:
                async for piece in pieces:
                    yield piece
            elif asked.is_stream:
                guarded = guard.aguard_stream(pieces, self.trace, asked.record.id, asked.record.tenant)
                async with aclosing(guarded) as passed:  # type: ignore[type-var]
                    async for piece in passed:
                        yield piece
            else:
                text = "".join([piece async for piece in pieces])
                yield await guard.ajudge_answer(text, self.trace, asked.record.id, asked.record.tenant)

    async def _pieces(self) -> AsyncGenerator[str, None]:
        while self.answer.finish_reason is None:
            text, tokens = self.answer.push(await self.job.next(self.index))
            self._drawn += text
            self._tokens += tokens
            yield text

    def _tokens_of(self, piece: str) -> list[ToldToken]:
        """The tokens that may be told with a piece that passed."""
        if self._passed is None or not self._drawn.startswith(piece, self._passed):
            self._passed = None
            return []
        self._passed += len(piece)
        count = next((n for n, told in enumerate(self._tokens) if told.end > self._passed), len(self._tokens))
        tokens, self._tokens = self._tokens[:count], self._tokens[count:]
        return tokens


async def merged(choices: Sequence[ServedChoice]) -> AsyncGenerator[tuple[ServedChoice, Delta | None], None]:
    """What comes of several answers, as it comes; None is the end of one. Raises what one of them raises."""
    if len(choices) == 1:
        async with aclosing(choices[0].deltas()) as deltas:
            async for delta in deltas:
                yield choices[0], delta
        yield choices[0], None
        return
    news: asyncio.Queue[tuple[ServedChoice, Delta | Exception | None]] = asyncio.Queue()
    pumps = [asyncio.ensure_future(_pump(choice, news)) for choice in choices]
    try:
        left = len(choices)
        while left:
            choice, new = await news.get()
            if isinstance(new, Exception):
                raise new
            left -= new is None
            yield choice, new
    finally:
        for pump in pumps:
            pump.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)


async def _pump(choice: ServedChoice, news: asyncio.Queue[tuple[ServedChoice, Delta | Exception | None]]) -> None:
    try:
        async for delta in choice.deltas():
            news.put_nowait((choice, delta))
        news.put_nowait((choice, None))
    except Exception as error:
        news.put_nowait((choice, error))
