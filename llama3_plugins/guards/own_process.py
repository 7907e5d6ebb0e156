"""A process of its own for what cannot be interrupted within a guard: it is ended where its time is up, and the next
question goes to another one."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

SECONDS = 5.0
"""A question may take as long where nobody says how long."""


class OwnProcess:
    """The process of a script, started anew where it was ended.

    The script reads lines of JSON and answers each by one: first `setting`, then a list [seconds, ...] for each
    question, which it gives up when it takes longer. `what` it judges is named where that does not come to an end.
    """

    def __init__(self, script: Path, setting: Any, what: str, *, packages: bool = False) -> None:
        self._command = [sys.executable, "-I", *([] if packages else ["-S"]), str(script)]
        self._setting, self._what = setting, what
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, deadline: float) -> None:
        """Raises TimeoutError."""
        self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        self._ask(self._setting, deadline)

    def ask(self, question: list[Any], deadline: float) -> Any:
        """The answer. Raises TimeoutError where that is not known by then (seconds of the monotonic clock); another
        process stands in place of this one then."""
        if self._process is None or self._process.poll() is not None:
            self.end()
            self.start(deadline)
        try:
            found = self._ask([deadline - time.monotonic(), *question], deadline)
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
            raise TimeoutError(f"{self._what} did not come to an end in time") from None
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
