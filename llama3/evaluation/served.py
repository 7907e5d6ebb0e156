"""A model behind an OpenAI-compatible server, asked over HTTP."""

from __future__ import annotations

import http.client
import json
from typing import Any
from urllib.parse import urlsplit

from llama3.errors import ConfigError, DataError

NO_URL = ConfigError.declare(
    "L3-EVL-060", "{url!r} is no address of a server", fix="write one such as http://127.0.0.1:8000/v1"
)
NO_ANSWER = DataError.declare(
    "L3-EVL-061", "the {whose} at {url} does not answer", why="{error}",
    fix="start it, then give the same command again",
)  # fmt: skip

SECONDS = 120.0


class ServedChat:
    """The model `name` at `url` (default: the first that it lists); `whose` is what errors call it. Raises ConfigError
    for what is no address, and DataError where it does not answer."""

    def __init__(self, url: str, name: str | None, whose: str = "model") -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise NO_URL("url", url=url)
        self.url, self.whose, self._parts = url, whose, parts
        self.name = name or str(self._asked("GET", "/models")["data"][0]["id"])

    def complete(self, prompt: str, **options: Any) -> Any:
        """The choice that is answered to one message of a user, or None where there is none. `options` are those of the
        interface (max_tokens, temperature, logprobs ...)."""
        body = {"model": self.name, "messages": [{"role": "user", "content": prompt}], **options}
        try:
            return self._asked("POST", "/chat/completions", body)["choices"][0]
        except (KeyError, IndexError, TypeError):
            return None

    def _asked(self, method: str, path: str, body: Any = None) -> Any:
        """What the server says, read as JSON. Raises DataError where it says nothing that can be used."""
        kind = http.client.HTTPSConnection if self._parts.scheme == "https" else http.client.HTTPConnection
        connection = kind(self._parts.hostname or "", self._parts.port, timeout=SECONDS)
        try:
            sent = None if body is None else json.dumps(body)
            target = self._parts.path.rstrip("/") + path
            connection.request(method, target, sent, {"Content-Type": "application/json"})
            response = connection.getresponse()
            told = response.read()
            if response.status != 200:
                raise NO_ANSWER(self.whose, whose=self.whose, url=self.url, error=f"HTTP {response.status}")
            return json.loads(told)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise NO_ANSWER(self.whose, whose=self.whose, url=self.url, error=error) from error
        finally:
            connection.close()
