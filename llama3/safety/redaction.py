"""Redaction: what guards marked is replaced before anybody sees it, in whole texts and in streams."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from llama3.safety.guard import Verdict

REDACTED = "[redacted]"
Ranges = Sequence[tuple[int, int]]
"""Characters from and to, ascending and apart."""


def marked(verdicts: Iterable[Verdict], length: int) -> Ranges | None:
    """What verdicts that say `redact` mark of a text of so many characters: all of it where one does not say what. None
    where one marks characters that the text does not have."""
    found: list[tuple[int, int]] = []
    for verdict in verdicts:
        if verdict.action != "redact":
            continue
        spans = [(span.start, span.end) for span in verdict.spans] or [(0, length)] * bool(length)
        if not all(_inside(start, end, length) for start, end in spans):
            return None
        found += spans
    return _joined(found)


def _inside(start: object, end: object, length: int) -> bool:
    return type(start) is int and type(end) is int and 0 <= start < end <= length


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
        self._cleared = 0  # characters that may be passed on, but for those that wait for another judge
        self._hold_back, self._window = hold_back, window
        self._done: Ranges = ()

    def add(self, piece: str) -> bool:
        """Take a piece. Whether it is time to scan."""
        self.text += piece
        return len(self.text) - self.scanned >= self._hold_back

    @property
    def begin(self) -> int:
        """Where the window that is to be scanned begins."""
        return max(0, self._cleared - self._window)

    def release(self, marks: Ranges, *, whole: bool, stop: int | None = None) -> str | None:
        """What may be passed on after a scan that marked these characters of `text`: with `whole` all of it, else
        nothing that was not judged yet, which begins at `stop`. None where what is marked now was passed on before: it
        cannot be taken back."""
        if any(not self._was_redacted(first, min(last, self.released)) for first, last in marks):
            return None
        self.scanned = len(self.text)
        clear = self.scanned if whole else max(self._cleared, self.scanned - self._hold_back)
        # What reaches beyond the end is kept whole, to be seen whole in the next scan.
        clear = min([clear, *(max(first, self._cleared) for first, last in marks if first < clear < last)])
        end = clear if stop is None else max(self.released, min(clear, stop))
        marks = _joined([*self._done, *marks])
        piece = without(self.text, marks, self.released, end)
        self._done = [mark for mark in marks if mark[0] < clear]
        self._cleared, self.released = clear, end
        return piece

    def _was_redacted(self, first: int, last: int) -> bool:
        return first >= last or any(start <= first and last <= end for start, end in self._done)
