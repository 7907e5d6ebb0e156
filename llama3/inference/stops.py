"""Texts that end an answer: `stop="\\n"`. The answer is what stands before the first of them."""

from __future__ import annotations

from collections.abc import Sequence

from llama3.errors import ConfigError

NO_STOP = ConfigError.declare("L3-GEN-008", "{stop!r} ends no answer", fix="give a text of one character or more")


def read_stops(stop: str | Sequence[str] | None) -> tuple[str, ...]:
    """The texts of `stop`: one, several, or none. Raises ConfigError for what is no text, or an empty one."""
    stops = (stop,) if isinstance(stop, str) else tuple(stop or ())
    for one in stops:
        if not isinstance(one, str) or not one:
            raise NO_STOP("stop", stop=one)
    return stops


class Stops:
    """An answer on its way: text is passed on as soon as it can no longer be the beginning of a stop."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = stops
        self._longest = max(map(len, stops), default=0)
        self._held = ""
        self.is_over = False
        """Whether a stop has come; what follows is dropped."""

    def push(self, piece: str) -> str:
        """Take a piece; what may be passed on."""
        if self.is_over:
            return ""
        self._held += piece
        found = [place for stop in self._stops if (place := self._held.find(stop)) >= 0]
        if found:
            self.is_over = True
            text, self._held = self._held[: min(found)], ""
            return text
        return self._release(self._kept())

    def flush(self) -> str:
        """What is held back, at the end of the answer."""
        return self._release(0)

    def _kept(self) -> int:
        """Characters at the end that a stop may begin with."""
        for length in range(min(self._longest - 1, len(self._held)), 0, -1):
            if any(stop.startswith(self._held[-length:]) for stop in self._stops):
                return length
        return 0

    def _release(self, kept: int) -> str:
        cut = len(self._held) - kept
        text, self._held = self._held[:cut], self._held[cut:]
        return text
