"""What a judge's answer says: yes or no, a number of points, or nothing that can be read.

Judges are told to end with a line that says only that; small ones begin with it. So the last line counts, and the first
one where the last one says nothing: anything else would read a verdict into what a judge merely repeats.
"""

from __future__ import annotations

import re

_YES_NO = re.compile(r"\W*(?:\w+\s*:)?\W*(yes|no)\b(?:\W.*)?", re.I)
_POINTS = re.compile(r"[^\w-]*(?:\w+\s*:)?[^\w-]*(\d{1,3})(?:\s*(?:/|of|out of)\s*(\d{1,3}))?(?:\s*points?)?\W*", re.I)


def verdict(answer: str) -> bool | None:
    """Whether a judge says yes. None where it says neither: what is not said clearly is no verdict."""
    for line in _lines(answer):
        if found := _YES_NO.fullmatch(line):
            return found[1].casefold() == "yes"
    return None


def points(answer: str, most: int) -> int | None:
    """The points, 0 to `most`, that a judge gives; None where it gives none in this range, or of another number."""
    for line in _lines(answer):
        if found := _POINTS.fullmatch(line):
            given, of = int(found[1]), int(found[2] or most)
            return given if given <= most == of else None
    return None


def _lines(answer: str) -> list[str]:
    lines = [line.strip() for line in answer.splitlines() if line.strip()]
    return [lines[-1], lines[0]] if lines else []
