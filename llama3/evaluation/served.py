"""A model behind an OpenAI-compatible server, asked over HTTP."""

from __future__ import annotations

import contextlib
import http.client
import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import SplitResult, urlsplit

from llama3.errors import ConfigError, DataError, without_credentials

NO_URL = ConfigError.declare(
    "L3-EVL-060", "{url!r} is no address of a server", fix="write one such as http://127.0.0.1:8000/v1"
)
NO_ANSWER = DataError.declare(
    "L3-EVL-061", "the {whose} at {url} does not answer", why="{error}",
    fix="start it, then give the same command again",
)  # fmt: skip

MOST_BYTES = 1 << 22
"""Of an answer: what is longer is none."""
SECONDS = 120.0
OF_THE_PROMPT = frozenset({400, 413, 422})
"""Statuses of a request that cannot be served as it is, such as one that is longer than the model's context."""
MOST_CHARACTERS = 300
"""Of what a server says of an error."""

log = logging.getLogger(__name__)


def address_of(url: str) -> SplitResult:
    """The parts of a server's address. Raises ConfigError for what is none."""
    try:
        parts = urlsplit(url)
        if parts.scheme in ("http", "https") and parts.hostname and parts.port != 0:
            return parts
    except ValueError:  # a port that is none, half of an IPv6 address
        pass
    raise NO_URL("url", url=url)


class ServedChat:
    """The model `name` at `url` (default: the first that it lists); `whose` is what errors call it, `seconds` how long
    it may be silent. Raises ConfigError for what is no address, and DataError where it does not answer."""

    def __init__(self, url: str, name: str | None, whose: str = "model", seconds: float = SECONDS) -> None:
        self.url, self.whose, self.seconds = without_credentials(url), whose, seconds
        self._parts = address_of(url)
        self.name = name or self._first_model()

    def complete(self, prompt: str | Sequence[Mapping[str, str]], **options: Any) -> Any:
        """The choice that is answered to one message of a user, or to a dialog. None where there is none, or where the
        server refuses it, which is warned of. `options` are those of the interface (max_tokens, temperature ...)."""
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
        body = {"model": self.name, "messages": messages, **options}
        try:
            return self._asked("POST", "/chat/completions", body)["choices"][0]
        except (KeyError, IndexError, TypeError):
            return None

    def _first_model(self) -> str:
        try:
            return str(self._asked("GET", "/models")["data"][0]["id"])
        except (KeyError, IndexError, TypeError) as error:
            raise self._silent(f"it lists no model: {error!r}") from None

    def _silent(self, error: object) -> DataError:
        return NO_ANSWER(self.whose, whose=self.whose, url=self.url, error=error)

    def _asked(self, method: str, path: str, body: Any = None) -> Any:
        """What the server says, read as JSON. Raises DataError where it says nothing that can be used."""
        kind = http.client.HTTPSConnection if self._parts.scheme == "https" else http.client.HTTPConnection
        connection = kind(self._parts.hostname or "", self._parts.port, timeout=self.seconds)
        try:
            sent = None if body is None else json.dumps(body)
            target = self._parts.path.rstrip("/") + path
            connection.request(method, target, sent, {"Content-Type": "application/json"})
            response = connection.getresponse()
            told = response.read(MOST_BYTES + 1)
            if response.status in OF_THE_PROMPT and body is not None:
                log.warning("the %s at %s refuses a prompt: %s", self.whose, self.url, _error(response.status, told))
                return None
            if response.status != 200:
                raise self._silent(_error(response.status, told))
            if len(told) > MOST_BYTES:
                raise self._silent(f"it says more than {MOST_BYTES} bytes")
            return json.loads(told)
        except (OSError, http.client.HTTPException, ValueError, RecursionError) as error:
            raise self._silent(error) from error
        finally:
            connection.close()


def _error(status: int, told: bytes) -> str:
    """What a server says of an error: the message of OpenAI's interface, or its text."""
    text = told.decode("utf-8", "replace")
    with contextlib.suppress(ValueError, KeyError, TypeError, RecursionError):
        text = str(json.loads(text)["error"]["message"])
    return f"HTTP {status}: {' '.join(text.split())[:MOST_CHARACTERS]}".rstrip(": ")
