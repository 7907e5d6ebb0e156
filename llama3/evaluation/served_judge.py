"""A judge behind an OpenAI-compatible server: the likeliest first tokens of its answer to a question of two words."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Sequence

from llama3.config.safety_data import LEFT_OVER
from llama3.evaluation.judges import FRAME, JudgedAnswer, judge_prompt, share
from llama3.evaluation.served import ServedChat
from llama3.evaluation.spellings import ways_of

TOPS = 20
"""Likeliest tokens that are asked for: as many as OpenAI's interface gives."""


class ServedModel:
    """As `AskedModel`; a word that is not among the likeliest tokens has no probability."""

    def __init__(
        self, url: str, name: str | None, question: str, words: tuple[str, str], left_over: float = LEFT_OVER
    ) -> None:
        self.served, self.question, self.words = ServedChat(url, name, "judge"), question, words
        self.left_over = left_over
        told = hashlib.sha256(json.dumps([question, words, FRAME, left_over]).encode()).hexdigest()[:12]
        self.name = self.served.name
        self.identity = f"served-{self.name}-{told}"

    def judge(self, exchanges: Sequence[JudgedAnswer]) -> list[float | None]:
        return [self._of(judge_prompt(exchange, self.question, self.words)) for exchange in exchanges]

    def _of(self, prompt: str) -> float | None:
        choice = self.served.complete(prompt, max_tokens=1, temperature=0, logprobs=True, top_logprobs=TOPS)
        try:
            tops = choice["logprobs"]["content"][0]["top_logprobs"]
            likely = [(str(top["token"]), float(top["logprob"])) for top in tops]
        except (KeyError, IndexError, TypeError, ValueError):
            return None
        first, second = self.words
        return share((_logp(likely, first, second), _logp(likely, second, first)), self.left_over)


def _logp(likely: Iterable[tuple[str, float]], word: str, other: str) -> float:
    """The log-probability of all tokens that begin an answer with the word, and none with the other one."""
    begins = lambda token, word: token != "" and any(way.startswith(token) for way in ways_of(word))
    whole = sum(math.exp(logp) for token, logp in likely if begins(token, word) and not begins(token, other))
    return math.log(whole) if whole > 0 else -math.inf
