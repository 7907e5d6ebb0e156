"""What part of an answer is compared with a reference: one rule for every task that has a short written answer.

The result is what stands in the last `<answer>...</answer>`; else in the last `\\boxed{...}`; else after the last
`Answer:`; else the whole text. Of that, a task whose reference has one line takes the last line that is not empty; a
fence of ``` is removed where the reference has several. Outer spaces go, and so does one final full stop where the
reference has none.
"""

from __future__ import annotations

import re

LONGEST = 10_000
"""Characters beyond which an answer has no result: what reads the result never sees more."""

_TAGGED = re.compile(r"<answer>(.*?)</answer>", re.DOTALL | re.IGNORECASE)
_LABELLED = re.compile(r"\banswer\s*(?:\*\*)?:(?:\*\*)?", re.IGNORECASE)
_FENCE = re.compile(r"```[^\n]*\n(.*?)(?:```|\Z)", re.DOTALL)
_BOXED = "\\boxed{"


def extract(answer: str, reference: str) -> str:
    """The text of `answer` that is compared with `reference`; "" where there is none."""
    if len(answer) > LONGEST:
        return ""
    text = _marked(answer)
    if "\n" not in reference.strip():
        text = next((line for line in reversed(text.splitlines()) if line.strip()), "")
    elif fenced := _FENCE.search(text):
        text = fenced.group(1)
    text = text.strip()
    return text if reference.rstrip().endswith(".") else text.removesuffix(".").rstrip()


def extract_code(answer: str) -> str:
    """The first fenced block of an answer that is a program, closed or not, or the answer as it is."""
    fenced = _FENCE.search(answer)
    return fenced.group(1) if fenced else answer


def _marked(answer: str) -> str:
    """What the answer marks as its result, or all of it."""
    if tagged := _TAGGED.findall(answer):
        return str(tagged[-1])
    if (start := answer.rfind(_BOXED)) >= 0:
        return _braced(answer[start + len(_BOXED) :])
    if labels := list(_LABELLED.finditer(answer)):
        return answer[labels[-1].end() :]
    return answer


def _braced(text: str) -> str:
    """`text` up to the brace that closes it."""
    depth = 1
    for i, character in enumerate(text):
        depth += (character == "{") - (character == "}")
        if depth == 0:
            return text[:i]
    return text
