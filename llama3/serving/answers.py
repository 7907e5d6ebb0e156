"""The tokens of one answer as text that may be told: whole characters only, and nothing that may begin a stop text.

A token is told with the text that it belongs to: one that is a part of a character waits for the rest of it, one whose
text is held back is held back with it, and one whose text comes after a stop is dropped with it. Control tokens have no
text, neither the one that ends an answer nor one that is drawn in the middle of it.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass

from llama3.inference.completion import FinishReason
from llama3.inference.sampling import Top
from llama3.inference.stops import Stops
from llama3.serving.service import Drawn
from llama3.tokenizer.tokenizer import Tokenizer


@dataclass(slots=True)
class ToldToken:
    """A token of an answer: its log-probability, the likeliest tokens in its place, its characters in the text."""

    id: int
    logp: float
    top: Top
    start: int
    end: int


class AnswerText:
    """Takes what is drawn, gives what may be told. `finish_reason` is set when the answer is over; `count` is how many
    tokens it has, the one that ended it included."""

    def __init__(self, tokenizer: Tokenizer, stops: Sequence[str], stop_ids: Set[int]) -> None:
        self._decoder = tokenizer.stream()
        self._stops = Stops(stops)
        self._stop_ids = stop_ids
        self._control_ids = frozenset(tokenizer.special_tokens.values())
        self._held: list[ToldToken] = []
        self._partial: list[ToldToken] = []  # of a character that is not whole yet
        self._length = 0  # characters decoded
        self._told = 0  # characters passed on
        self.count = 0
        self.finish_reason: str | None = None

    def push(self, drawn: Drawn) -> tuple[str, list[ToldToken]]:
        """The text that may now be told, and its tokens."""
        text = ""
        for id, logp, top in zip(drawn.ids, drawn.logps, drawn.tops, strict=True):
            self.count += 1
            # A token that is one of the likeliest is told as it is there: the last bit may differ.
            told = ToldToken(id, dict(top).get(id, logp), top, self._length, self._length)
            if id in self._stop_ids:
                text += self._add(self._decoder.flush(), is_last=True)
                told.start = told.end = self._length
                self._held.append(told)
                break
            if id in self._control_ids:
                (self._partial or self._held).append(told)
                continue
            self._partial.append(told)
            text += self._add(self._decoder.push(id))
            if self._stops.is_over:
                self.finish_reason = "stop"
                self._held = [told for told in self._held if told.start < self._told]
                return text, self._take(self._length)
        if drawn.reason is not None:
            text += self._add(self._decoder.flush(), is_last=True)
            self.finish_reason = "stop" if drawn.reason is FinishReason.STOP else "length"
        return text, self._take(self._told)

    def _add(self, piece: str, *, is_last: bool = False) -> str:
        self._length += len(piece)
        if piece or is_last:
            for told in self._partial:
                told.end = self._length
            self._held += self._partial
            self._partial = []
        text = self._stops.push(piece) + (self._stops.flush() if is_last else "")
        self._told += len(text)
        return text

    def _take(self, end: int) -> list[ToldToken]:
        """The tokens whose text ends there at the latest."""
        count = next((n for n, told in enumerate(self._held) if told.end > end), len(self._held))
        taken, self._held = self._held[:count], self._held[count:]
        return taken
