"""A judge behind an OpenAI-compatible server: the likeliest first tokens of its answer to a question of two words."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Sequence

from llama3.config.safety_data import LEFT_OVER
from llama3.evaluation.judges import FRAME, LAST_FRAME, JudgedAnswer, conversation_prompt, judge_prompt, share
from llama3.evaluation.served import SECONDS, ServedChat
from llama3.evaluation.spellings import ways_of
from llama3.safety.guard import Turn

TOPS = 20
"""Likeliest tokens that are asked for: as many as OpenAI's interface gives."""
ROUNDING = 1e-3
"""By which a log-probability may exceed 0."""


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
        self.served = ServedChat(url, name, "judge", seconds)
        self.question, self.words, self.left_over = question, words, left_over
        told = hashlib.sha256(json.dumps([question, words, FRAME, left_over]).encode()).hexdigest()[:12]
        self.name = self.served.name
        self.identity = f"served-{self.name}-{told}"

    def judge(self, exchanges: Sequence[JudgedAnswer]) -> list[float | None]:
        return [self._of(judge_prompt(exchange, self.question, self.words)) for exchange in exchanges]

    def ask(self, turns: Sequence[Turn]) -> float | None:
        """The first word's share of the probability of both, asked about the last of `turns`; None where the model says
        neither. Raises DataError where the server does not answer."""
        return self._of(conversation_prompt(turns, LAST_FRAME, self.question, self.words))

    def _of(self, prompt: str) -> float | None:
        choice = self.served.complete(prompt, max_tokens=1, temperature=0, logprobs=True, top_logprobs=TOPS)
        try:
            tops = choice["logprobs"]["content"][0]["top_logprobs"]
            likely = [(str(top["token"]), float(top["logprob"])) for top in tops]
        except (KeyError, IndexError, TypeError, ValueError):
            return None
        # Probabilities above 1, and what is no number, are no answer.
        if not all(logp <= ROUNDING for _, logp in likely):
            return None
        first, second = self.words
        return share((_logp(likely, first, second), _logp(likely, second, first)), self.left_over)


def _logp(likely: Iterable[tuple[str, float]], word: str, other: str) -> float:
    """The log-probability of all tokens that begin an answer with the word, and none with the other one."""
    begins = lambda token, word: token != "" and any(way.startswith(token) for way in ways_of(word))
    whole = sum(math.exp(logp) for token, logp in likely if begins(token, word) and not begins(token, other))
    return math.log(whole) if whole > 0 else -math.inf
