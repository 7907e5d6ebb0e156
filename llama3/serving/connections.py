"""Connections: how many there may be, and which of them is closed for a new one.

Whoever opens connections and asks nothing keeps nobody out: where there are as many as may be, the one that has been
idle longest is closed. Only where none is idle is the new one refused, as anything else is: with a code, as JSON.
"""

from __future__ import annotations

import asyncio
import os
import resource

import h11
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from llama3.serving.problems import CROWDED, NOT_HTTP, error_body, status_of

REQUEST_SECONDS = 30.0
"""Until the head of a request is there, or the rest of one that is answered."""
READING_SECONDS = 60.0
"""For a client that takes nothing of what it asked for."""
MOST_CONNECTIONS = 1024
MOST_OF_A_CLIENT = 512
"""From one address; a proxy before the server is one."""
SPARE_FILES = 32
"""Descriptors that connections leave to everything else, beside those that are open when the server starts."""


def most_connections() -> int:
    """As many as the process may have descriptors for, `MOST_CONNECTIONS` at most."""
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if files == resource.RLIM_INFINITY:
        return MOST_CONNECTIONS
    return max(1, min(MOST_CONNECTIONS, files - len(os.listdir("/dev/fd")) - SPARE_FILES))


class Connection(H11Protocol):
    """A connection that waits for nobody: one on which nothing is answered and no new request has come for a while is
    closed (one that is sent byte by byte, say), and so is one whose client does not read."""

    _idle_since = 0.0
    _stalled: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait, and make room."""
        super().connection_made(transport)
        self._idle_since = self.loop.time()
        self.loop.call_later(REQUEST_SECONDS, self._look, self.cycle)
        most = self.config.app.state.most_connections  # type: ignore[union-attr]
        if not (self._has_room(self._theirs(), min(most, MOST_OF_A_CLIENT)) and self._has_room(self._all(), most)):
            self.app = _crowded

    def _all(self) -> list[Connection]:
        return [one for one in self.connections if isinstance(one, Connection)]

    def _theirs(self) -> list[Connection]:
        """Those from the same address."""
        host = self.client and self.client[0]
        return [one for one in self._all() if one.client and one.client[0] == host]

    def _has_room(self, connections: list[Connection], most: int) -> bool:
        """Whether there is room for this one among these, once the longest idle one is closed where it must be."""
        if len(connections) <= most:
            return True
        idle = [one for one in connections if one is not self and one.is_idle]
        if idle:
            min(idle, key=lambda one: one._idle_since).abandon()
        return bool(idle)

    @property
    def is_idle(self) -> bool:
        """Whether nothing of it is being answered: there is no whole request."""
        return self.cycle is None or self.cycle.response_complete or self.cycle.more_body

    def abandon(self) -> None:
        """Close it, whatever is on its way."""
        self.connections.discard(self)
        self.transport.abort()

    def on_response_complete(self) -> None:
        """It is idle from now on."""
        self._idle_since = self.loop.time()
        super().on_response_complete()

    def pause_writing(self) -> None:
        """The client does not read."""
        super().pause_writing()
        self._stalled = self.loop.call_later(READING_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """It reads again."""
        super().resume_writing()
        if self._stalled is not None:
            self._stalled.cancel()

    def send_400_response(self, msg: str) -> None:
        """What came is no HTTP."""
        error = NOT_HTTP()
        answer = JSONResponse(error_body(error), status_of(error), {"Connection": "close"})
        if self.conn.our_state is h11.IDLE:
            head = h11.Response(status_code=answer.status_code, headers=answer.raw_headers)
            for event in (head, h11.Data(data=bytes(answer.body)), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def _look(self, last: object) -> None:
        """`last` is what was answered last when this was looked at before."""
        if self.transport.is_closing():
            return
        if self.cycle is last and (self.cycle is None or self.cycle.response_complete):
            self.transport.close()
            return
        answered = self.cycle if self.cycle is None or self.cycle.response_complete else object()
        self.loop.call_later(REQUEST_SECONDS, self._look, answered)


async def _crowded(scope: Scope, receive: Receive, send: Send) -> None:
    error = CROWDED()
    headers = {"Connection": "close", "Retry-After": "5"}
    await JSONResponse(error_body(error), status_of(error), headers)(scope, receive, send)
