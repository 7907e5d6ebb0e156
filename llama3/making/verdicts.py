"""What a judge's answer says: yes or no, a number of points, or nothing that can be read."""

from __future__ import annotations

import re

_YES_NO = re.compile(r"\b(yes|no)\b", re.IGNORECASE)
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


def verdict(answer: str) -> bool | None:
    """Whether a judge says yes: the last yes or no of its last line that has one. None where there is none: what a
    judge did not say clearly is no verdict."""
    for line in reversed(answer.splitlines()):
        if found := _YES_NO.findall(line):
            return str(found[-1]).casefold() == "yes"
    return None


def points(answer: str, most: int) -> int | None:
    """The points, 0 to `most`, that a judge gives: the last whole number of its last line that has a number. None where
    there is none in this range."""
    for line in reversed(answer.splitlines()):
        if found := _NUMBER.findall(line.replace(f"/{most}", "").replace(f"/ {most}", "")):
            return int(found[-1]) if found[-1].isdecimal() and int(found[-1]) <= most else None
    return None
