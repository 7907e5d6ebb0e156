"""Messages, and the programs in them."""

from __future__ import annotations

import re
from collections.abc import Sequence

from llama3.capabilities import Reply

_BLOCK = re.compile(r"```[ \t]*([\w+#-]*)[^\n]*\n(.*?)```", re.DOTALL)


def user(text: str) -> dict[str, str]:
    """What is asked."""
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    """What is answered."""
    return {"role": "assistant", "content": text}


def firsts(replies: Sequence[Sequence[Reply]]) -> list[str]:
    """The first answer to each dialog; "" where it was cut off."""
    return [row[0].text.strip() if row and row[0].ended else "" for row in replies]


def blocks(text: str) -> list[str]:
    """The programs between closed fences, in order."""
    return [code.strip("\n") for _, code in _BLOCK.findall(text) if code.strip()]


def fenced(code: str, language: str = "python") -> str:
    """A program as a message shows it."""
    return f"```{language}\n{code}\n```"
