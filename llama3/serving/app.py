"""The routes, and the gate before all of them: whoever has no key, or asks for another host, gets no further."""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llama3.errors import LlamaError
from llama3.plugins.observers import Observers
from llama3.serving.chat import chat
from llama3.serving.chat_fields import ChatBody
from llama3.serving.completions import complete
from llama3.serving.fields import (
    BODY_BYTES,
    Body,
    CompletionBody,
    DetokenizeBody,
    EmbeddingBody,
    ModerationBody,
    RolloutBody,
    TokenizeBody,
    read_fields,
)
from llama3.serving.keys import ApiKeys
from llama3.serving.page import page
from llama3.serving.prepared import Prepared
from llama3.serving.problems import (
    FAULT,
    LATE,
    NO_HOST,
    NO_KEY,
    NO_METHOD,
    NO_ROUTE,
    NOT_HTTP,
    NOT_JSON,
    STOPPING,
    TOO_LARGE,
    TOO_SLOW,
)
from llama3.serving.record import Record
from llama3.serving.replies import GONE, Gone, error_response, reply, unless_gone
from llama3.serving.rollouts import roll_out
from llama3.serving.served import ENDED, Served
from llama3.serving.telemetry import CONTENT_TYPE, Telemetry
from llama3.serving.texts import detokenize, embed, moderate, tokenize, tokenizer_info

OPEN = frozenset({"/", "/health/live", "/health/ready"})
"""What is answered without a key."""
LOCAL = re.compile(r"(?:127\.0\.0\.1|localhost|\[::1\])(?::\d{1,5})?", re.IGNORECASE)
"""Hosts that a server without keys is asked for: a page of the web that calls itself one of its own names is not."""
STILL_TOLD = frozenset({"/health/live", "/health/ready", "/metrics"})
"""What is answered by a server that stops."""
HEADER_BYTES = 16 << 10
BODY_SECONDS = 30.0
METRICS = "/metrics"
TRACE = (b"traceparent", b"tracestate")
"""Headers of W3C's trace context."""
LONGEST_TRACE = 512
SHOWN = 40
"""Characters of an unknown path that are logged."""

Endpoint = Callable[[Request], Awaitable[Response]]


def make_app(served: Served, *, keys: ApiKeys | None, observers: Observers) -> Starlette:
    """The ASGI application. Its lifespan starts and stops the service; without `keys` it answers this machine only."""
    posts = {
        "/v1/completions": _post(CompletionBody, _replied(complete)),
        "/v1/chat/completions": _post(ChatBody, _replied(chat)),
        "/inference/v1/generate": _post(RolloutBody, _replied(roll_out)),
        "/v1/embeddings": _post(EmbeddingBody, embed),
        "/v1/moderations": _post(ModerationBody, moderate),
        "/tokenize": _post(TokenizeBody, tokenize),
        "/detokenize": _post(DetokenizeBody, detokenize),
    }
    gets = {
        "/": page,
        "/v1/models": models,
        "/v1/models/{name:path}": model,
        "/tokenizer_info": tokenizer_info,
        METRICS: metrics,
        "/health/live": live,
        "/health/ready": ready,
    }
    routes = [Route(path, answer, methods=["POST"]) for path, answer in posts.items()]
    routes += [Route(path, answer, methods=["GET"]) for path, answer in gets.items()]

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        served.service.start()
        try:
            yield
        finally:
            await asyncio.to_thread(served.service.stop)

    telemetry = Telemetry(served.service.counts, served.name, frozenset(posts), observers)
    handlers: dict[Any, Any] = {
        LlamaError: _refused,
        HTTPException: _no_route,
        ClientDisconnect: _gone,
        Gone: _gone,
        Exception: _fault,
    }
    app = Starlette(
        routes=routes,
        lifespan=lifespan,
        middleware=[Middleware(Gate, served=served, keys=keys, telemetry=telemetry)],
        exception_handlers=handlers,
    )
    app.router.redirect_slashes = False
    app.state.served, app.state.telemetry, app.state.metrics_port = served, telemetry, None
    return app


class Gate:
    """Looks at the host and the key of every request, gives it an id, and tells of its end."""

    def __init__(self, app: ASGIApp, served: Served, keys: ApiKeys | None, telemetry: Telemetry) -> None:
        self._app, self._served, self._keys, self._telemetry = app, served, keys, telemetry

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        record = _record(scope, headers)
        scope.setdefault("state", {})["record"] = record
        refusal = self._refusal(scope, headers, record)

        async def tell(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
                told = [(b"x-request-id", record.id.encode())]
                if refusal is None and record.method == "POST":
                    told += self._served.service.limits.headers(record.tenant)
                if self._served.service.draining:
                    told.append((b"connection", b"close"))
                message["headers"] = [*message["headers"], *told]
            await send(message)

        try:
            if refusal is not None:
                record.error = refusal.problems[0].code
                await error_response(refusal)(scope, receive, tell)
                return
            self._served.under_way += 1
            try:
                await self._app(scope, receive, tell)
            finally:
                self._served.under_way -= 1
        finally:
            self._telemetry.end(record)

    def _refusal(self, scope: Scope, headers: dict[bytes, str], record: Record) -> LlamaError | None:
        """Why the request goes no further. Where metrics have a port of their own, they are told there, and nothing
        else is."""
        if sum(len(name) + len(value) for name, value in scope["headers"]) > HEADER_BYTES:
            return NOT_HTTP()  # h11 bounds only a head that comes in pieces
        path, metrics_port = scope["path"], scope["app"].state.metrics_port
        is_inside = metrics_port is not None and scope["server"][1] == metrics_port
        refusal = self._stranger(path, headers, record, needs_key=self._keys is not None and not is_inside)
        if refusal is None and metrics_port is not None and is_inside != (path == METRICS):
            return NO_ROUTE(path[:100])
        if refusal is None and self._served.service.draining and path not in STILL_TOLD:
            return STOPPING()
        return refusal

    def _stranger(self, path: str, headers: dict[bytes, str], record: Record, *, needs_key: bool) -> LlamaError | None:
        if self._keys is None or not needs_key:
            host = headers.get(b"host", "")
            return None if LOCAL.fullmatch(host) else NO_HOST("Host", host=host[:100])
        if path in OPEN:
            return None
        scheme, _, key = headers.get(b"authorization", "").partition(" ")
        tenant = self._keys.tenant(key.strip()) if scheme.lower() == "bearer" else None
        record.tenant = tenant or ""
        return NO_KEY("Authorization") if tenant is None else None


def _record(scope: Scope, headers: dict[bytes, str]) -> Record:
    """Of a path that is no route's only the beginning is kept: whatever somebody typed there."""
    path = scope["path"]
    route = next((route.path for route in scope["app"].routes if route.path_regex.match(path)), None)
    parent = {name.decode(): headers[name] for name in TRACE if name in headers and len(headers[name]) <= LONGEST_TRACE}
    told = path[:SHOWN].encode("unicode_escape").decode() if route is None else route
    return Record(secrets.token_hex(12), scope["method"], told, is_known=route is not None, parent=parent)


def _post(kind: type[Body], answer: Callable[[Served, Request, Body], Coroutine[Any, Any, Response]]) -> Endpoint:
    """A route that reads a body of this kind, then answers."""

    async def endpoint(request: Request) -> Response:
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise NOT_JSON("Content-Type")
        served: Served = request.app.state.served
        served.service.limits.take(request.state.record.tenant, "requests", 1)
        body = read_fields(kind, await _body(request))
        try:
            async with asyncio.timeout(served.seconds):
                return await unless_gone(request.receive, answer(served, request, body), served.service.aborted)
        except TimeoutError:
            raise LATE(seconds=f"{served.seconds:g}") from None

    return endpoint


def _replied(
    prepare: Callable[[Served, Record, Body], Awaitable[Prepared]],
) -> Callable[[Served, Request, Body], Coroutine[Any, Any, Response]]:
    """Answers with what comes of a body that was prepared, whole or streamed."""

    async def answer(served: Served, request: Request, body: Body) -> Response:
        return await reply(await prepare(served, request.state.record, body))

    return answer


async def _body(request: Request) -> bytes:
    data = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.stream():
                data += chunk
                if len(data) > BODY_BYTES:
                    raise TOO_LARGE("body", limit=BODY_BYTES)
    except TimeoutError:
        raise TOO_SLOW("body", seconds=f"{BODY_SECONDS:g}") from None
    return bytes(data)


async def models(request: Request) -> Response:
    """GET /v1/models: the one that is served."""
    return JSONResponse({"object": "list", "data": [_described(request.app.state.served)]})


async def model(request: Request) -> Response:
    """GET /v1/models/NAME."""
    served: Served = request.app.state.served
    served.check_name(request.path_params["name"])
    return JSONResponse(_described(served))


def _described(served: Served) -> dict[str, object]:
    return {
        "id": served.name,
        "object": "model",
        "created": served.created,
        "owned_by": "llama3",
        "max_model_len": served.service.max_tokens,
    }


async def metrics(request: Request) -> Response:
    """GET /metrics, for Prometheus."""
    return Response(request.app.state.telemetry.exposition(), media_type=CONTENT_TYPE)


async def live(request: Request) -> Response:
    """GET /health/live: 200 unless only another process would help."""
    is_dead = request.app.state.served.status == ENDED
    return JSONResponse({"status": ENDED if is_dead else "live"}, 503 if is_dead else 200)


async def ready(request: Request) -> Response:
    """GET /health/ready: 200 where a request would be taken now, else 503."""
    status = request.app.state.served.status
    return JSONResponse({"status": status}, 200 if status == "ready" else 503)


async def _refused(request: Request, error: LlamaError) -> Response:
    request.state.record.error = error.problems[0].code
    return error_response(error)


async def _no_route(request: Request, error: HTTPException) -> Response:
    return await _refused(request, (NO_METHOD if error.status_code == 405 else NO_ROUTE)(request.url.path[:100]))


async def _gone(request: Request, error: Exception) -> Response:
    request.state.record.error = "gone"
    return Response(status_code=GONE)


async def _fault(request: Request, error: Exception) -> Response:
    request.state.record.error = FAULT.code
    return error_response(FAULT())
