"""The pages of `llama3 annotate`: forms that work without a script, each with a twin in JSON, for this machine only.

A page may load nothing and run only its own script. What is sent must come from a page of this very address, so that
no page of the web can ask or say anything here, whatever name it gives itself.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable
from functools import cache
from types import FrameType
from typing import Any
from urllib.parse import parse_qsl

import jinja2
import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from llama3.annotating.items import Messages, PairItem
from llama3.annotating.judgements import Annotation
from llama3.errors import ArtifactError, ConfigError, DataError, LlamaError, Problem
from llama3.evaluation.templates import style, template
from llama3.serving.annotation_desk import BAD_FORM, MEANWHILE, NO_SUCH_ITEM, NOBODY, NONE_OF_KIND, Desk, Form, View
from llama3.serving.app import LOCAL
from llama3.serving.connections import most_connections
from llama3.serving.page import content_policy
from llama3.serving.problems import FAULT, NO_HOST, NO_METHOD, NO_ROUTE, TOO_LARGE
from llama3.serving.server import LOOPBACK, http_config, listener

NO_ORIGIN = ConfigError.declare(
    "L3-ANN-080", "this does not come from a page of this address", fix="open the page here and save there"
)
NOT_A_FORM = DataError.declare("L3-ANN-081", "the body is no form", fix="send what the page's form sends")
NOT_SAVED = LlamaError.declare(
    "L3-ANN-082",
    "it could not be written",
    why="{error}",
    fix="free some space, then save again: the form is as it was",
)

BODY_BYTES = 4 << 20
FORM = "application/x-www-form-urlencoded"
MISSING = {NOBODY.code, NO_SUCH_ITEM.code, NONE_OF_KIND.code, NO_ROUTE.code}
FORBIDDEN = {NO_HOST.code, NO_ORIGIN.code}
STATUS = {MEANWHILE.code: 409, TOO_LARGE.code: 413, NO_METHOD.code: 405}
SAFE = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}

log = logging.getLogger(__name__)
Shown = Callable[[Request], View]


def make_annotation_app(desk: Desk) -> Starlette:
    """The ASGI application of a desk."""
    views: dict[str, Shown] = {
        "/": lambda request: desk.overview(),
        "/agreement": lambda request: desk.agreement(),
        "/pairs/{name}": lambda request: desk.pair(_name(request), _item(request)),
        "/check/{name}": lambda request: desk.text(_name(request), _item(request)),
    }
    routes = [Route(path, _page_of(view), methods=["GET"]) for path, view in views.items()]
    routes += [
        Route(f"/ui{'/overview' if path == '/' else path}.json", _twin_of(view), methods=["GET"])
        for path, view in views.items()
    ]
    routes += [Route("/pairs/{name}", save_pair, methods=["POST"]), Route("/check/{name}", save_text, methods=["POST"])]
    handlers: dict[Any, Any] = {LlamaError: _refused, HTTPException: _no_route, Exception: _fault}
    app = Starlette(routes=routes, middleware=[Middleware(_Door)], exception_handlers=handlers)
    app.router.redirect_slashes = False
    app.state.desk, app.state.answering = desk, asyncio.Lock()
    return app


class AnnotationServer(uvicorn.Server):
    """Serves a desk on 127.0.0.1 until it is told to stop. `told` is called with the address when it listens.

    Raises OSError where it cannot listen.
    """

    def __init__(self, desk: Desk, *, port: int, told: Callable[[str], None]) -> None:
        self._told = told
        super().__init__(http_config(make_annotation_app(desk), LOOPBACK[0], port, lifespan="off", closing=5))

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """What is being written is on the disk before anything is answered: there is nothing to wait for."""
        self.should_exit = True

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Until it is told to stop."""
        self.config.app.state.most_connections = most_connections()  # type: ignore[union-attr]
        await super().serve([listener(self.config.host, self.config.port)])

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen, and tell where."""
        await super().startup(sockets)
        if self.started and sockets:
            self._told("http://{}:{}".format(*sockets[0].getsockname()[:2]))


class _Door:
    """Lets in what asks for this machine, and what is sent from a page of this address."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (refusal := _refusal(scope)) is not None:
            await _problem(Request(scope), refusal)(scope, receive, send)
            return
        await self._app(scope, receive, send)


def _refusal(scope: Scope) -> LlamaError | None:
    headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
    host = headers.get(b"host", "")
    if not LOCAL.fullmatch(host):
        return NO_HOST("Host", host=host[:100])
    if scope["method"] not in ("GET", "HEAD") and headers.get(b"origin", "").lower() != f"http://{host.lower()}":
        return NO_ORIGIN("Origin")
    return None


async def save_pair(request: Request) -> Response:
    """POST of what was said of a pair; a dialog that goes on is answered before the next page is shown."""
    desk: Desk = request.app.state.desk
    name, item, form = _name(request), _item(request), await _form(request)
    try:
        said = desk.judge_pair(name, item, form)
    except (ArtifactError, DataError, OSError) as error:
        return _again(error, form, desk.pairs.latest(name).get(item), lambda f: desk.pair(name, item, f))
    if (found := desk.to_go_on(said)) is None:
        return RedirectResponse(f"/pairs/{name}", 303)
    try:
        return RedirectResponse(f"/pairs/{name}?item={(await _go_on(request, *found)).id}", 303)
    except (LlamaError, OSError) as error:
        told = error.problems if isinstance(error, LlamaError) else NOT_SAVED("pairs", error=error).problems
        view = {"page": "problem", "problems": told, "on": f"/pairs/{name}", "saved": True}
        return _html(view, 200)


async def save_text(request: Request) -> Response:
    """POST of what was said of a synthetic text."""
    desk: Desk = request.app.state.desk
    name, item, form = _name(request), _item(request), await _form(request)
    try:
        desk.judge_text(name, item, form)
    except (ArtifactError, DataError, OSError) as error:
        return _again(error, form, desk.texts.latest(name).get(item), lambda f: desk.text(name, item, f))
    return RedirectResponse(f"/check/{name}", 303)


async def _go_on(request: Request, item: PairItem, messages: Messages) -> PairItem:
    """The pair that goes on with a dialog; one at a time, as it takes the models."""
    desk: Desk = request.app.state.desk
    async with request.app.state.answering:
        if (there := desk.after(item, messages)) is not None:
            return there
        assert desk.models is not None
        made = await asyncio.to_thread(desk.models.answer, messages, item.category, item.id)
        desk.pairs.add([made])
        return made


def _again(
    error: LlamaError | OSError, form: Form, before: Annotation | None, view: Callable[[Form], View]
) -> Response:
    """The page with the form as it was sent, and what is wrong: nothing that was typed is lost."""
    told = error if isinstance(error, LlamaError) else NOT_SAVED("annotations", error=error)
    if told.problems[0].code == BAD_FORM.code:
        raise told
    filled = {**form, "number": str(0 if before is None else before.number + 1)}
    return _html(view(filled) | {"problems": told.problems}, _status(told))


async def _form(request: Request) -> dict[str, str]:
    """The fields of a form. Raises DataError."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != FORM:
        raise NOT_A_FORM("Content-Type")
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > BODY_BYTES:
            raise TOO_LARGE("body", limit=BODY_BYTES)
    try:
        text = data.decode("ascii")
        return dict(parse_qsl(text, keep_blank_values=True, strict_parsing=True, errors="strict", max_num_fields=20))
    except ValueError:
        raise NOT_A_FORM("body") from None


def _name(request: Request) -> str:
    name: str = request.path_params["name"]
    return name


def _item(request: Request) -> str:
    return request.query_params.get("item", "")


def _page_of(view: Shown) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        return _html(await _viewed(view, request))

    return endpoint


def _twin_of(view: Shown) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        return JSONResponse(await _viewed(view, request), headers=SAFE)

    return endpoint


async def _viewed(view: Shown, request: Request) -> View:
    """Figures take a while; all else is at hand."""
    return await asyncio.to_thread(view, request) if request.url.path.endswith(_SLOW) else view(request)


_SLOW = ("/agreement", "/agreement.json")


def _html(view: View, status: int = 200) -> Response:
    html = _template().render({"problems": [], "style": style(), **view}).encode("utf-8", "replace").decode()
    policy = content_policy(html, connect="'none'", forms="'self'")
    return HTMLResponse(html, status, {"content-security-policy": policy, **SAFE})


def _problem(request: Request, error: LlamaError) -> Response:
    status, problems = _status(error), error.problems
    if request.url.path.startswith("/ui/"):
        return JSONResponse({"problems": [_told(problem) for problem in problems]}, status, SAFE)
    return _html({"page": "problem", "problems": problems, "on": "/", "saved": False}, status)


def _told(problem: Problem) -> dict[str, str]:
    return {"code": problem.code, "message": str(problem)}


def _status(error: LlamaError) -> int:
    code = error.problems[0].code
    if code in MISSING:
        return 404
    return 403 if code in FORBIDDEN else STATUS.get(code, 400 if isinstance(error, ConfigError | DataError) else 500)


async def _refused(request: Request, error: LlamaError) -> Response:
    return _problem(request, error)


async def _no_route(request: Request, error: HTTPException) -> Response:
    return _problem(request, (NO_METHOD if error.status_code == 405 else NO_ROUTE)(request.url.path[:100]))


async def _fault(request: Request, error: Exception) -> Response:
    log.exception("a fault of the pages", exc_info=error)
    return _problem(request, FAULT())


@cache
def _template() -> jinja2.Template:
    return template("llama3.serving", "annotation.html.jinja")
