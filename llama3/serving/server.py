"""Running the application: sockets, limits of the protocol, and how it stops.

At the first SIGTERM or Ctrl-C no more requests are taken and those under way go on, for `grace` seconds at most; then,
or at the second signal, each of them ends with an error. Until then the server listens, to say that it is not ready.
Where a process that shares the model is lost, every answer ends with that error, and so does the server.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import Literal

import uvicorn
from starlette.applications import Starlette

from llama3.errors import ConfigError
from llama3.plugins.observers import Observers
from llama3.serving.app import HEADER_BYTES, make_app
from llama3.serving.connections import Connection, most_connections
from llama3.serving.keys import ApiKeys
from llama3.serving.problems import STOPPING
from llama3.serving.served import Served

NOT_OPEN = ConfigError.declare(
    "L3-SRV-021",
    "{host} is not this machine alone",
    why="anybody who reaches it could use the model",
    fix="give --api-key-file, or bind 127.0.0.1",
)

NO_PORT = ConfigError.declare(
    "L3-SRV-023", "nothing can listen here", why="{error}", fix="give another {option} (0: any that is free)"
)

GRACE = 60.0
CLOSING = 5.0
"""Seconds for telling the errors after the grace."""
TICK = 0.02
"""Seconds between two looks at what is under way."""
KEEP_ALIVE = 30
BACKLOG = 1024
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def keys_for(host: str, file: Path | None) -> ApiKeys | None:
    """The keys of a file. Raises ConfigError where they cannot be read, or there are none and more than this machine
    reaches the host."""
    if file is not None:
        return ApiKeys.load(file)
    if host not in LOOPBACK:
        raise NOT_OPEN("--host", host=host)
    return None


def require_ports(host: str, port: int, metrics_port: int | None) -> None:
    """Raises ConfigError where nothing can listen there, before a model is loaded for it."""
    wanted = [("--port", host, port)] + (
        [] if metrics_port is None else [("--metrics-port", LOOPBACK[0], metrics_port)]
    )
    with ExitStack() as held:  # all at once, so that two are not one
        for option, place, number in wanted:
            try:
                held.enter_context(listener(place, number))
            except OSError as error:
                raise NO_PORT(f"{place}:{number}", error=error.strerror or error, option=option) from None


def listener(host: str, port: int) -> socket.socket:
    """A socket that listens there. Raises OSError."""
    return socket.create_server(
        (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=BACKLOG
    )


def http_config(
    app: Starlette, host: str, port: int, *, lifespan: Literal["on", "off"], closing: int
) -> uvicorn.Config:
    """How uvicorn serves an application: limits of the protocol, nothing logged, nobody else's headers believed.

    closing: seconds that connections may take to end
    """
    return uvicorn.Config(
        app,
        host=host,
        port=port,
        http=Connection,
        ws="none",
        lifespan=lifespan,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        h11_max_incomplete_event_size=HEADER_BYTES,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=closing,
    )


class HttpServer(uvicorn.Server):
    """Answers with a model until it is told to stop. `told` is called with the address when it listens.

    metrics_port: where this machine alone finds /metrics, which then is nowhere else (0: any port that is free)
    """

    def __init__(
        self,
        served: Served,
        *,
        host: str,
        port: int,
        keys: ApiKeys | None,
        observers: Observers,
        grace: float = GRACE,
        metrics_port: int | None = None,
        told: Callable[[str], None] = lambda address: None,
    ) -> None:
        self.served, self.grace, self._announce, self._metrics_port = served, grace, told, metrics_port
        self.metrics_url: str | None = None
        """Once it listens, where metrics have a port of their own."""
        super().__init__(
            http_config(
                make_app(served, keys=keys, observers=observers), host, port, lifespan="on", closing=int(CLOSING)
            )
        )

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal drains; the second ends what is left."""
        service = self.served.service
        is_first, service.draining = not service.draining, True
        self._loop.call_soon_threadsafe(self._begin_to_drain if is_first else self._grace_is_over.set)

    def _begin_to_drain(self) -> None:
        self._draining = asyncio.ensure_future(self._drain())

    async def _drain(self) -> None:
        self._loop.call_later(self.grace, self._grace_is_over.set)
        while self.served.under_way and not self._grace_is_over.is_set():
            await asyncio.sleep(TICK)
        self.served.service.abort(STOPPING())
        last = self._loop.time() + CLOSING
        while self.served.under_way and self._loop.time() < last:
            await asyncio.sleep(TICK)
        self.should_exit = True

    async def _end_with_ranks(self) -> None:
        await self.served.service.aborted
        if self.served.service.lost is not None:
            await self._drain()

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Until it is told to stop. Raises OSError where it cannot listen."""
        self._loop, self._grace_is_over = asyncio.get_running_loop(), asyncio.Event()
        state = self.config.app.state  # type: ignore[union-attr]
        state.most_connections = most_connections()
        sockets = [listener(self.config.host, self.config.port)]
        if self._metrics_port is not None:
            inside = listener(LOOPBACK[0], self._metrics_port)
            sockets.append(inside)
            state.metrics_port = inside.getsockname()[1]
            self.metrics_url = f"http://{LOOPBACK[0]}:{inside.getsockname()[1]}/metrics"
        await super().serve(sockets)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen, and tell where."""
        await super().startup(sockets)
        if self.started and sockets:
            self._watch = asyncio.ensure_future(self._end_with_ranks())
            host, port = sockets[0].getsockname()[:2]
            self._announce(f"http://{f'[{host}]' if ':' in host else host}:{port}")
