"""What the server refuses, with which HTTP status, and the body that OpenAI's clients read.

Errors of the other packages keep their codes: their class says whose fault they are.
"""

from __future__ import annotations

import logging
from typing import Any

from llama3.errors import ConfigError, DataError, DoesNotFit, GuardBlocked, LlamaError
from llama3.inference.ranks import LOST
from llama3.safety.audit import NOT_WRITABLE
from llama3.safety.worker import BUSY as GUARD_BUSY
from llama3.serving.limits import TOO_FAST

NO_KEY = ConfigError.declare("L3-SRV-001", "there is no such API key", fix="send the header Authorization: Bearer KEY")
NO_HOST = ConfigError.declare(
    "L3-SRV-002",
    "the host {host!r} is not this machine",
    why="a server without API keys answers this machine only",
    fix="ask 127.0.0.1, or start the server with --api-key-file",
)
NO_ROUTE = ConfigError.declare("L3-SRV-003", "there is nothing here", fix="see docs/serving.md for the routes")
NO_METHOD = ConfigError.declare("L3-SRV-004", "this method is not known here", fix="GET to read, POST to ask")
NO_MODEL = ConfigError.declare("L3-SRV-005", "the model {model!r} is not served", fix="ask for {name!r}")
NOT_JSON = ConfigError.declare(
    "L3-SRV-006", "the body is not JSON by its type", fix="send Content-Type: application/json"
)
TOO_LARGE = ConfigError.declare("L3-SRV-007", "the body has over {limit} bytes", fix="send less at once")
TOO_SLOW = ConfigError.declare("L3-SRV-008", "the body did not arrive in {seconds} s", fix="send it at once")
BAD_FIELD = ConfigError.declare("L3-SRV-009", "{error}", fix="see docs/serving.md for what may be asked")
BUSY = LlamaError.declare(
    "L3-SRV-011",
    "{waiting} requests are waiting already",
    why="the queue holds {limit} of one key",
    fix="ask again later, or start the server with a larger --max-queue",
)
STOPPING = LlamaError.declare("L3-SRV-012", "the server is stopping", fix="ask again when it is back")
LATE = LlamaError.declare("L3-SRV-013", "the answer took over {seconds} s", fix="ask for fewer tokens")
FAULT = LlamaError.declare("L3-SRV-014", "a fault of the server", fix="see the server's log")
LONG_PROMPT = DoesNotFit.declare(
    "L3-SRV-015",
    "{tokens} tokens are too many",
    why="the context holds {limit}",
    fix="shorten the prompt",
)
CROWDED = LlamaError.declare(
    "L3-SRV-050",
    "there are too many connections",
    why="requests are under way on all of them",
    fix="ask again later, and close connections that are not needed",
)
NOT_HTTP = DataError.declare(
    "L3-SRV-051", "this is no request of HTTP/1.1", fix="send a request with a head of less than 16 KiB"
)
GUARD_DOWN = LlamaError.declare(
    "L3-SRV-067",
    "nothing can be judged by the guard {guards}",
    why="it hangs, or could not be opened again after it did",
    fix="ask again later; /health/ready says when it is back",
)

log = logging.getLogger(__name__)

STATUS = {
    NO_KEY.code: 401,
    NO_HOST.code: 403,
    NO_ROUTE.code: 404,
    NO_MODEL.code: 404,
    NO_METHOD.code: 405,
    TOO_SLOW.code: 408,
    TOO_LARGE.code: 413,
    NOT_JSON.code: 415,
    BUSY.code: 429,
    GUARD_BUSY.code: 429,
    TOO_FAST.code: 429,
    STOPPING.code: 503,
    CROWDED.code: 503,
    LOST.code: 503,
    GUARD_DOWN.code: 503,
    NOT_WRITABLE.code: 500,
    LATE.code: 504,
}
"""Of errors whose class does not say it."""
_CALLERS = (ConfigError, DataError, DoesNotFit, GuardBlocked)
"""Errors that whoever asks can mend."""
_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}


def status_of(error: LlamaError) -> int:
    """The HTTP status of an error."""
    default = 400 if isinstance(error, _CALLERS) else 500
    return STATUS.get(error.problems[0].code, default)


def error_body(error: LlamaError) -> dict[str, Any]:
    """What OpenAI's clients read: message, type, the parameter that is wrong, and our code."""
    if error.problems[0].code == NOT_WRITABLE.code:
        log.error("%s", error)
        error = FAULT()  # the paths of this machine are not for whoever asks
    first = error.problems[0]
    status = status_of(error)
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    told = "\n".join(map(str, error.problems))
    return {"error": {"message": told, "type": kind, "param": first.where or None, "code": first.code}}
