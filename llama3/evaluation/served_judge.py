"""A judge behind an OpenAI-compatible server: the likeliest first tokens of its answer to a question of two words."""

from __future__ import annotations

import hashlib
import http.client
import json
import math
from collections.abc import Iterable, Sequence
from typing import Any
from urllib.parse import urlsplit

from llama3.config.safety_data import LEFT_OVER
from llama3.errors import ConfigError, DataError
from llama3.evaluation.judges import FRAME, JudgedAnswer, judge_prompt, share
from llama3.evaluation.spellings import ways_of

NO_URL = ConfigError.declare(
    "L3-EVL-060", "{url!r} is no address of a server", fix="write one such as http://127.0.0.1:8000/v1"
)
NO_ANSWER = DataError.declare(
    "L3-EVL-061", "the judge at {url} does not answer", why="{error}", fix="start it, then give the same command again"
)

TOPS = 20
"""Likeliest tokens that are asked for: as many as OpenAI's interface gives."""
SECONDS = 120.0


class ServedModel:
    """As `AskedModel`; a word that is not among the likeliest tokens has no probability."""

    def __init__(
        self, url: str, name: str | None, question: str, words: tuple[str, str], left_over: float = LEFT_OVER
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise NO_URL("url", url=url)
        self.url, self._parts, self.question, self.words = url, parts, question, words
        self.left_over = left_over
        self.name = name or str(self._asked("GET", "/models")["data"][0]["id"])
        told = hashlib.sha256(json.dumps([question, words, FRAME, left_over]).encode()).hexdigest()[:12]
        self.identity = f"served-{self.name}-{told}"

    def judge(self, exchanges: Sequence[JudgedAnswer]) -> list[float | None]:
        return [self._of(judge_prompt(exchange, self.question, self.words)) for exchange in exchanges]

    def _of(self, prompt: str) -> float | None:
        body = {
            "model": self.name,
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": 1,
            "temperature": 0,
            "logprobs": True,
            "top_logprobs": TOPS,
        }
        found = self._asked("POST", "/chat/completions", body)
        try:
            tops = found["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
            likely = [(str(top["token"]), float(top["logprob"])) for top in tops]
        except (KeyError, IndexError, TypeError, ValueError):
            return None
        first, second = self.words
        return share((_logp(likely, first, second), _logp(likely, second, first)), self.left_over)

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
                raise NO_ANSWER("judge", url=self.url, error=f"HTTP {response.status}")
            return json.loads(told)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise NO_ANSWER("judge", url=self.url, error=error) from error
        finally:
            connection.close()


def _logp(likely: Iterable[tuple[str, float]], word: str, other: str) -> float:
    """The log-probability of all tokens that begin an answer with the word, and none with the other one."""
    begins = lambda token, word: token != "" and any(way.startswith(token) for way in ways_of(word))
    whole = sum(math.exp(logp) for token, logp in likely if begins(token, word) and not begins(token, other))
    return math.log(whole) if whole > 0 else -math.inf
