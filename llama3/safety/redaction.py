"""Redaction: what guards marked is replaced before anybody sees it, in whole texts and in streams."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from llama3.safety.guard import Verdict

REDACTED = "[redacted]"
Ranges = Sequence[tuple[int, int]]
"""Characters from and to, ascending and apart."""


def marked(verdicts: Iterable[Verdict], text: str) -> Ranges | None:
    """What verdicts that say `redact` mark of a text: all of it where one does not say what. None where one marks
    characters that the text does not have."""
    found: list[tuple[int, int]] = []
    for verdict in verdicts:
        if verdict.action != "redact":
            continue
        spans = [(span.start, span.end) for span in verdict.spans] or [(0, len(text))] * bool(text)
        if not all(_inside(start, end, text) for start, end in spans):
            return None
        found += spans
    return _joined(found)


def _inside(start: object, end: object, text: str) -> bool:
    return type(start) is int and type(end) is int and 0 <= start < end <= len(text)


def _joined(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    joined: list[tuple[int, int]] = []
    for start, end in sorted(ranges):
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    return joined


def without(text: str, ranges: Ranges, start: int = 0, end: int | None = None) -> str:
    """`text[start:end]` with each marked part of it replaced; a part that begins before `start` was replaced there."""
    end = len(text) if end is None else end
    pieces = []
    for first, last in ranges:
        if last <= start or first >= end:
            continue
        pieces += [text[start:first], REDACTED if first >= start else ""]
        start = min(last, end)
    return "".join([*pieces, text[start:end]])


class HeldBack:
    """A stream on its way through guards: `text` is all of it so far, of which `released` characters were passed on.
    The last `hold_back` are kept until more text has been scanned after them; `window` characters before what is kept
    are scanned again."""

    def __init__(self, hold_back: int, window: int) -> None:
        self.text, self.released, self.scanned = "", 0, 0
        self._hold_back, self._window = hold_back, window
        self._done: Ranges = ()

    def add(self, piece: str) -> bool:
        """Take a piece. Whether it is time to scan."""
        self.text += piece
        return len(self.text) - self.scanned >= self._hold_back

    @property
    def begin(self) -> int:
        """Where the window that is to be scanned begins."""
        return max(0, self.released - self._window)

    def release(self, ranges: Ranges, begin: int, *, whole: bool) -> str | None:
        """What may be passed on after a scan from `begin` on that marked `ranges` of what it saw; with `whole` all of
        it. None where what is marked now was passed on before: it cannot be taken back."""
        marks = [(first + begin, last + begin) for first, last in ranges]
        if any(not self._was_redacted(first, min(last, self.released)) for first, last in marks):
            return None
        self.scanned = len(self.text)
        end = self.scanned if whole else max(self.released, self.scanned - self._hold_back)
        # What reaches beyond the end is kept whole, to be seen whole in the next scan.
        end = min([end, *(max(first, self.released) for first, last in marks if first < end < last)])
        marks = _joined([*self._done, *marks])
        piece = without(self.text, marks, self.released, end)
        self._done = [mark for mark in marks if mark[0] < end]
        self.released = end
        return piece

    def _was_redacted(self, first: int, last: int) -> bool:
        return first >= last or any(start <= first and last <= end for start, end in self._done)
