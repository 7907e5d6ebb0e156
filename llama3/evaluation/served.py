"""A model behind an OpenAI-compatible server, asked over HTTP."""

from __future__ import annotations

import http.client
import json
from typing import Any
from urllib.parse import urlsplit

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


class ServedChat:
    """The model `name` at `url` (default: the first that it lists); `whose` is what errors call it, `seconds` how long
    it may be silent. Raises ConfigError for what is no address, and DataError where it does not answer."""

    def __init__(self, url: str, name: str | None, whose: str = "model", seconds: float = SECONDS) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise NO_URL("url", url=url)
        self.url, self.whose, self.seconds, self._parts = without_credentials(url), whose, seconds, parts
        self.name = name or self._first_model()

    def complete(self, prompt: str, **options: Any) -> Any:
        """The choice that is answered to one message of a user, or None where there is none. `options` are those of the
        interface (max_tokens, temperature, logprobs ...)."""
        body = {"model": self.name, "messages": [{"role": "user", "content": prompt}], **options}
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
            if response.status != 200:
                raise self._silent(f"HTTP {response.status}")
            if len(told) > MOST_BYTES:
                raise self._silent(f"it says more than {MOST_BYTES} bytes")
            return json.loads(told)
        except (OSError, http.client.HTTPException, ValueError, RecursionError) as error:
            raise self._silent(error) from error
        finally:
            connection.close()
