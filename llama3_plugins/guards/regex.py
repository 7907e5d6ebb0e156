"""Your own patterns as a guard. They are matched in a process of their own: a pattern that backtracks without end costs
the time that its text may take, and nobody else anything (llama3_plugins.guards.pattern_process)."""

from __future__ import annotations

import json
import os
import re
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from llama3.guards import GuardInput, Verdict, normalise
from llama3_plugins.guards.marks import Mark, verdict_of

SECONDS = 5.0
"""A text may take as long where nobody says how long."""
_SCRIPT = Path(__file__).with_name("pattern_process.py")


class GuardPattern(BaseModel):
    """A pattern and what is done where it matches."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    category: str = Field(min_length=1, description="what a match is called in verdicts; thresholds go by it")
    pattern: str = Field(min_length=1, description="a regular expression of Python's re")
    action: Literal["flag", "redact", "review", "block"] = Field("block", description="what is done with a match")
    ignore_case: bool = Field(False, description="whether large and small letters are alike")

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, pattern: str) -> str:
        try:
            re.compile(pattern)
        except (re.error, RecursionError, OverflowError) as error:
            raise ValueError(f"the pattern cannot be compiled: {error}") from None
        return pattern


class RegexOptions(BaseModel):
    """Options of the guard."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    patterns: tuple[GuardPattern, ...] = Field(description="what is looked for: one pattern or more")
    undisguised: bool = Field(
        False,
        description="match also on the text without invisible and look-alike characters and s p a c e d letters",
    )

    @field_validator("patterns")
    @classmethod
    def _is_there(cls, patterns: tuple[GuardPattern, ...]) -> tuple[GuardPattern, ...]:
        # Not min_length: that would be a second problem where all patterns are bad.
        if not patterns:
            raise ValueError("no pattern is given")
        return patterns


class RegexGuard:
    """Matches patterns; spans are those of the text as written."""

    def __init__(self, options: RegexOptions) -> None:
        self.options = options
        self._categories = sorted({pattern.category for pattern in options.patterns})
        self._process = PatternProcess([(pattern.pattern, pattern.ignore_case) for pattern in options.patterns])

    def open(self) -> None:
        """Start the process. Raises TimeoutError where the patterns are not compiled in time."""
        self._process.start(time.monotonic() + SECONDS)

    def close(self) -> None:
        """End the process."""
        self._process.end()

    def check(self, x: GuardInput) -> Verdict:
        """Raises TimeoutError where matching takes longer than to the deadline: the text is blocked then."""
        return verdict_of(x, self._marks(x), self._categories, version="1")

    def _marks(self, x: GuardInput) -> Iterator[Mark]:
        texts = [x.text]
        folded = normalise(x.text) if self.options.undisguised else None
        if folded is not None and folded.text != x.text:
            texts.append(folded.text)
        deadline = time.monotonic() + SECONDS if x.deadline is None else x.deadline
        for number, which, start, end in self._process.matches(texts, deadline):
            if which and folded is not None:
                start, end = folded.original_span(start, end)
            pattern = self.options.patterns[number]
            yield Mark(start, end, pattern.category, pattern.action)


class PatternProcess:
    """The process, started anew where it was ended."""

    def __init__(self, patterns: list[tuple[str, bool]]) -> None:
        self._patterns = patterns
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, deadline: float) -> None:
        """Raises TimeoutError."""
        command = [sys.executable, "-I", "-S", str(_SCRIPT)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        self._ask(self._patterns, deadline)

    def matches(self, texts: list[str], deadline: float) -> list[list[int]]:
        """[number of the pattern, number of the text, from, to] of each match that is not empty.

        Raises TimeoutError where that is not known by then (seconds of the monotonic clock); another process stands in
        place of this one then.
        """
        if self._process is None or self._process.poll() is not None:
            self.end()
            self.start(deadline)
        try:
            found: list[list[int]] = self._ask([deadline - time.monotonic(), *texts], deadline)
        except TimeoutError:
            with suppress(OSError):  # TimeoutError is one
                self.start(time.monotonic() + SECONDS)  # now, and not in the time of the next text
            raise
        return found

    def end(self) -> None:
        """End the process, whatever it does."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()
        process.wait()

    def _ask(self, question: Any, deadline: float) -> Any:
        process = self._process
        if process is None or process.stdin is None or process.stdout is None:
            raise TimeoutError("there is no process")
        answer = b""
        try:
            _write(process.stdin.fileno(), _line(question), deadline)
            while not answer.endswith(b"\n"):
                if not select.select([process.stdout], [], [], max(0.0, deadline - time.monotonic()))[0]:
                    raise TimeoutError
                piece = process.stdout.read(1 << 16)
                if not piece:  # it ended itself
                    raise TimeoutError
                answer += piece
        except (OSError, TimeoutError):
            self.end()
            raise TimeoutError("the patterns did not come to an end in time") from None
        return json.loads(answer)


def _line(question: Any) -> bytes:
    """As the process reads it. No escapes: json joins those of two surrogates, and places would move."""
    return json.dumps(question, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n"


def _write(pipe: int, line: bytes, deadline: float) -> None:
    """Raises OSError, TimeoutError."""
    while line:
        if not select.select([], [pipe], [], max(0.0, deadline - time.monotonic()))[1]:
            raise TimeoutError
        line = line[os.write(pipe, line[: select.PIPE_BUF]) :]
