"""Runs untrusted Python and hands back what functions return, or what a whole script says. The other side is
sandbox_worker.py.

    outcomes = run_programs([Program("def f(x): return x + 1", "f", calls=((1,), (2,)))])
    outcomes[0].values   # [2, 3]
    run_scripts([Script("print(1 + 1)")])[0].stdout   # "2\\n"

Worker processes (`python -P -s -S`, an environment that only fixes the order of sets, an empty working directory) fork
one child per program: cheap enough
for thousands of answers, and a crash, a loop or a huge allocation ends one child and nothing else. Whoever knows the
expected values compares them here, outside. What is enforced how:

| | Linux (x86-64, arm64) | elsewhere |
|---|---|---|
| CPU time, file size, processes, core files | resource limits | resource limits |
| memory | address-space limit | - |
| files, network, processes, signals, sleeping | no system call (seccomp) | - |
| wall time | the child is killed | the child is killed |
"""

from __future__ import annotations

import json
import os
import re
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from llama3.errors import DataError
from llama3.tasks.sandbox_worker import write_frame

NO_FORK = DataError.declare("L3-SBX-001", "this system cannot fork, so code cannot be checked safely")
NOT_STARTED = DataError.declare("L3-SBX-002", "the sandbox process did not start", why="exit status {status}")

_WORKER = Path(__file__).with_name("sandbox_worker.py")
_START_SECONDS = 60.0
_ADDRESS = re.compile(r"\b0x[0-9a-f]{6,}\b")

Job = Mapping[str, Any]
"""A program or a script, in JSON values."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one program may use. CPU time decides; wall time only ends programs that wait."""

    cpu_seconds: float = 1.0
    wall_seconds: float = 20.0
    memory_bytes: int = 512 << 20


@dataclass(frozen=True, slots=True)
class Program:
    """Source that must define `entry`, and the calls to make; arguments are JSON values."""

    code: str
    entry: str
    calls: Sequence[Sequence[Any]]

    @property
    def job(self) -> dict[str, Any]:
        """As the worker reads it."""
        return {"code": self.code, "entry": self.entry, "calls": [list(call) for call in self.calls]}


@dataclass(frozen=True, slots=True)
class Script:
    """A whole program, what it reads from its input, and the texts of files that it can open, by name."""

    code: str
    stdin: str = ""
    files: Mapping[str, str] = field(default_factory=dict)

    @property
    def job(self) -> dict[str, Any]:
        """As the worker reads it."""
        return {"code": self.code, "stdin": self.stdin, "files": dict(self.files)}


@dataclass(frozen=True, slots=True)
class Ran:
    """What a script wrote (the first 4,000 characters), its errors (the last), and its exit status: 0 where it came to
    its end, 1 after an exception, -1 where it was ended because it used too much, or ended itself."""

    stdout: str
    stderr: str
    status: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """`values` of the calls when all returned; else None with the reason (an exception's name, or "died")."""

    values: list[Any] | None
    reason: str = ""


def run_programs(programs: Sequence[Program], limits: Limits = Limits(), workers: int | None = None) -> list[Outcome]:
    """Outcomes in the order of `programs`; no program influences another's. Raises DataError without fork (Windows)."""
    return _run([program.job for program in programs], limits, workers)


def run_scripts(scripts: Sequence[Script], limits: Limits = Limits(), workers: int | None = None) -> list[Ran]:
    """What each script did, in order. Sets have the same order and `random` the same numbers every time, and addresses
    in what is written are blotted out, so that equal scripts say the same. Raises DataError without fork (Windows)."""
    return [_ran(outcome, limits) for outcome in _run([script.job for script in scripts], limits, workers)]


def _ran(outcome: Outcome, limits: Limits) -> Ran:
    """Read what the child said of a script; anything malformed is a failure."""
    if outcome.values is not None and [type(value) for value in outcome.values] == [str, str, int]:
        said, errors, status = outcome.values
        return Ran(_ADDRESS.sub("0x...", said), _ADDRESS.sub("0x...", errors), status)
    return Ran("", f"The program did not come to its end within {limits.cpu_seconds:g} s of computing.\n", -1)


def _run(jobs: Sequence[Job], limits: Limits, workers: int | None) -> list[Outcome]:
    if not hasattr(os, "fork"):
        raise NO_FORK("sandbox")
    if not jobs:
        return []
    workers = min(workers or os.cpu_count() or 1, len(jobs))
    shares = [range(i, len(jobs), workers) for i in range(workers)]
    with ThreadPoolExecutor(workers) as pool:
        results = pool.map(lambda share: _run_share([jobs[i] for i in share], limits), shares)
    outcomes: dict[int, Outcome] = {}
    for share, result in zip(shares, results, strict=True):
        outcomes.update(zip(share, result, strict=True))
    return [outcomes[i] for i in range(len(jobs))]


def isolation() -> Literal["seccomp", "limits"]:
    """What holds programs back on this machine (see the table above)."""
    with _Worker() as worker:
        return worker.isolation


def _run_share(jobs: Sequence[Job], limits: Limits) -> list[Outcome]:
    outcomes = []
    worker = _Worker()
    try:
        for job in jobs:
            reply = worker.ask(job, limits)
            if reply is None:  # it took its worker along (possible without seccomp): the others get a new one
                worker.close()
                worker = _Worker()
            outcomes.append(_outcome(reply))
    finally:
        worker.close()
    return outcomes


def _outcome(reply: bytes | None) -> Outcome:
    """Read what the child wrote. The child is not trusted: anything malformed is a failure."""
    try:
        message = json.loads(reply or b"")
        if isinstance(message.get("values"), list):
            return Outcome(message["values"])
        return Outcome(None, str(message.get("error", "died"))[:100])
    except (ValueError, AttributeError, RecursionError):
        return Outcome(None, "died")


class _Worker:
    """One worker process. `isolation` is what it reported at its start."""

    isolation: Literal["seccomp", "limits"]

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="llama3-sandbox-")
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-s", "-S", str(_WORKER)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            cwd=self._folder.name, env={"PYTHONHASHSEED": "0"}, start_new_session=True, bufsize=0,
        )  # fmt: skip
        hello = self._read_frame(time.monotonic() + _START_SECONDS)
        if hello not in (b"seccomp", b"limits"):
            self.close()
            raise NOT_STARTED("sandbox", status=self._process.returncode)
        self.isolation = "seccomp" if hello == b"seccomp" else "limits"

    def __enter__(self) -> _Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def ask(self, job: Job, limits: Limits) -> bytes | None:
        """The child's reply; None when the worker is gone or hangs."""
        assert self._process.stdin is not None
        try:
            write_frame(self._process.stdin.fileno(), json.dumps({**job, **asdict(limits)}).encode())
        except BrokenPipeError:
            return None
        return self._read_frame(time.monotonic() + 2 * limits.wall_seconds + 1)

    def close(self) -> None:
        """End the process and remove its folder."""
        self._process.kill()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()
        self._process.wait()
        self._folder.cleanup()

    def _read_frame(self, deadline: float) -> bytes | None:
        header = self._read_exactly(4, deadline)
        return None if header is None else self._read_exactly(int.from_bytes(header, "big"), deadline)

    def _read_exactly(self, count: int, deadline: float) -> bytes | None:
        assert self._process.stdout is not None
        stream, data = self._process.stdout.fileno(), b""
        while len(data) < count:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([stream], [], [], left)[0]:
                return None
            chunk = os.read(stream, count - len(data))
            if not chunk:
                return None
            data += chunk
        return data
