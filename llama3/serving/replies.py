"""From answers to HTTP: the whole of them as one JSON body, or each piece as a server-sent event.

Both ways the same pieces go through the same code, and a client that goes away ends its request. A stream has one last
event: `[DONE]`, or an error.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing
from typing import Any, TypeVar

from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from llama3.errors import LlamaError
from llama3.serving.choices import merged
from llama3.serving.limits import TooFast
from llama3.serving.prepared import Json, Prepared
from llama3.serving.problems import FAULT, error_body, status_of

log = logging.getLogger(__name__)
T = TypeVar("T")
GONE = 499
"""What is logged as the status of a request whose client went away."""


class Gone(Exception):  # noqa: N818 - no error: nobody is there to be told
    """The client went away."""


async def reply(prepared: Prepared) -> Response:
    """Queue the jobs and answer with what comes of them. Raises LlamaError before anything is told."""
    prepared.submit()
    if prepared.choices[0].asked.is_stream:
        return EventStream(_events(prepared))
    return JSONResponse(await prepared.whole())


async def _events(prepared: Prepared) -> AsyncGenerator[bytes, None]:
    record, shape = prepared.record, prepared.shape
    try:
        for choice in prepared.choices:
            if (first := shape.begin(choice)) is not None:
                yield _event(first)
        async with aclosing(merged(prepared.choices)) as news:
            async for choice, delta in news:
                record.told()
                yield _event(shape.end(choice) if delta is None else shape.piece(choice, delta))
        prepared.close()
        if prepared.tells_usage:
            yield _event(shape.usage(prepared.usage()))
        yield b"data: [DONE]\n\n"
    except LlamaError as error:
        record.error = error.problems[0].code
        yield _event(error_body(error))
    except Exception:
        log.exception("a stream broke off")
        record.error = FAULT.code
        yield _event(error_body(FAULT()))
    finally:
        prepared.close()


def _event(data: Json) -> bytes:
    return b"data: " + json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


def error_response(error: LlamaError) -> Response:
    """An error as its status and body."""
    status = status_of(error)
    again = str(math.ceil(error.seconds)) if isinstance(error, TooFast) else "1"
    headers = {429: {"Retry-After": again}, 503: {"Retry-After": "5"}, 401: {"WWW-Authenticate": "Bearer"}}
    return JSONResponse(error_body(error), status, headers.get(status))


class EventStream(Response):
    """Server-sent events as they come; a client that goes away ends them."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[bytes, None]) -> None:
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send them."""
        async with aclosing(self._events) as events:
            try:
                await unless_gone(receive, self._send(events, send))
            except Gone:
                scope["state"]["record"].error = "gone"

    async def _send(self, events: AsyncGenerator[bytes, None], send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async for event in events:
            await send({"type": "http.response.body", "body": event, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def unless_gone(
    receive: Receive, work: Coroutine[Any, Any, T], aborted: asyncio.Future[LlamaError] | None = None
) -> T:
    """What the work gives. It is cancelled when the client goes away, which raises Gone, and when the server ends all
    work, which raises the reason."""
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_gone(receive))
    ends: set[asyncio.Future[Any]] = {task, gone} if aborted is None else {task, gone, aborted}
    try:
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise aborted.result() if aborted is not None and aborted.done() else Gone
    finally:
        task.cancel()
        gone.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
