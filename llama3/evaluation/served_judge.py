"""A judge behind an OpenAI-compatible server: the likeliest first tokens of its answer to a question of two words."""

from __future__ import annotations

import hashlib
import http.client
import json
import math
from collections.abc import Iterable, Sequence
from typing import Any
from urllib.parse import urlsplit

from llama3.errors import ConfigError, DataError
from llama3.evaluation.judges import (
    FRAME,
    LAST_FRAME,
    LEFT_OVER,
    JudgedAnswer,
    conversation_prompt,
    judge_prompt,
    share,
)
from llama3.evaluation.spellings import ways_of
from llama3.safety.guard import Turn

NO_URL = ConfigError.declare(
    "L3-EVL-060", "{url!r} is no address of a server", fix="write one such as http://127.0.0.1:8000/v1"
)
NO_ANSWER = DataError.declare(
    "L3-EVL-061", "the judge at {url} does not answer", why="{error}", fix="start it, then give the same command again"
)

TOPS = 20
"""Likeliest tokens that are asked for: as many as OpenAI's interface gives."""
ROUNDING = 1e-3
"""By which a log-probability may exceed 0."""
MOST_BYTES = 1 << 22
"""Of an answer: what is longer is none."""
SECONDS = 120.0


class ServedModel:
    """As `AskedModel`; a word that is not among the likeliest tokens has no probability. `seconds`: how long a server
    may be silent."""

    def __init__(
        self,
        url: str,
        name: str | None,
        question: str,
        words: tuple[str, str],
        left_over: float = LEFT_OVER,
        seconds: float = SECONDS,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise NO_URL("url", url=url)
        self.url, self._parts, self.question, self.words = url, parts, question, words
        self.left_over, self.seconds = left_over, seconds
        self.name = name or self._first_model()
        told = hashlib.sha256(json.dumps([question, words, FRAME, left_over]).encode()).hexdigest()[:12]
        self.identity = f"served-{self.name}-{told}"

    def judge(self, exchanges: Sequence[JudgedAnswer]) -> list[float | None]:
        return [self._of(judge_prompt(exchange, self.question, self.words)) for exchange in exchanges]

    def ask(self, turns: Sequence[Turn]) -> float | None:
        """The first word's share of the probability of both, asked about the last of `turns`; None where the model says
        neither. Raises DataError where the server does not answer."""
        return self._of(conversation_prompt(turns, LAST_FRAME, self.question, self.words))

    def _first_model(self) -> str:
        try:
            return str(self._asked("GET", "/models")["data"][0]["id"])
        except (KeyError, IndexError, TypeError) as error:
            raise NO_ANSWER("judge", url=self.url, error=f"it lists no model: {error!r}") from None

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
        # Probabilities above 1, and what is no number, are no answer.
        if not all(logp <= ROUNDING for _, logp in likely):
            return None
        first, second = self.words
        return share((_logp(likely, first, second), _logp(likely, second, first)), self.left_over)

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
                raise NO_ANSWER("judge", url=self.url, error=f"HTTP {response.status}")
            if len(told) > MOST_BYTES:
                raise NO_ANSWER("judge", url=self.url, error=f"it says more than {MOST_BYTES} bytes")
            return json.loads(told)
        except (OSError, http.client.HTTPException, ValueError, RecursionError) as error:
            raise NO_ANSWER("judge", url=self.url, error=error) from error
        finally:
            connection.close()


def _logp(likely: Iterable[tuple[str, float]], word: str, other: str) -> float:
    """The log-probability of all tokens that begin an answer with the word, and none with the other one."""
    begins = lambda token, word: token != "" and any(way.startswith(token) for way in ways_of(word))
    whole = sum(math.exp(logp) for token, logp in likely if begins(token, word) and not begins(token, other))
    return math.log(whole) if whole > 0 else -math.inf
