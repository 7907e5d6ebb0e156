"""The program inside the sandbox: `python -P -s -S sandbox_worker.py`. Standard library only; nothing of llama3.

It reads one job at a time from stdin, forks, and lets the child run the untrusted code under limits; what the child
writes into a pipe goes back on stdout. The expected results never enter this process, so there is nothing to print,
patch or read here that would make a wrong answer pass: a child can only return values.

On Linux the child first takes away its own system calls (seccomp): it can compute, allocate up to its limit, write
into its pipe and exit; opening files, sockets, new processes and threads, signals and sleeping fail with EPERM.
Elsewhere only the resource limits hold.
"""

from __future__ import annotations

import builtins
import contextlib
import ctypes
import io
import json
import linecache
import os
import platform
import random
import resource
import select
import signal
import struct
import sys
import time
import traceback
from collections.abc import Mapping
from typing import Any, NoReturn

# Imported before the fork: answers may use these, the child itself can open no file.
PRELOADED = (
    "abc", "array", "ast", "bisect", "calendar", "cmath", "collections", "contextlib", "copy", "csv", "dataclasses",
    "datetime", "decimal", "enum", "fractions", "functools", "hashlib", "heapq", "io", "itertools", "json", "math",
    "numbers", "operator", "random", "re", "statistics", "string", "textwrap", "time", "types", "typing", "unicodedata",
)  # fmt: skip
MOST_SAID = 4000
"""Characters of what a script writes that are kept: the first of its output, the last of its errors."""

# Linux system call numbers: Kernel source, arch/x86/entry/syscalls/syscall_64.tbl and asm-generic/unistd.h.
AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
ALLOWED = {
    "x86_64": {
        "write": 1, "mprotect": 10, "mmap": 9, "munmap": 11, "brk": 12, "rt_sigreturn": 15, "mremap": 25, "madvise": 28,
        "exit": 60, "gettimeofday": 96, "clock_gettime": 228, "exit_group": 231, "getrandom": 318,
    },
    "aarch64": {
        "write": 64, "exit": 93, "exit_group": 94, "clock_gettime": 113, "rt_sigreturn": 139, "gettimeofday": 169,
        "brk": 214, "munmap": 215, "mremap": 216, "mmap": 222, "mprotect": 226, "madvise": 233, "getrandom": 278,
    },
}  # fmt: skip
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 38, 22, 2
_RET_KILL, _RET_ERRNO, _RET_ALLOW = 0x80000000, 0x00050000, 0x7FFF0000
_LOAD_WORD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_EPERM = 1


class _Program(ctypes.Structure):
    """struct sock_fprog of linux/filter.h."""

    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def seccomp_program(machine: str) -> bytes:
    """The BPF program that lets only `ALLOWED[machine]` through; others fail with EPERM, a foreign ABI kills."""
    numbers = sorted(ALLOWED[machine].values())

    def op(code: int, true: int, false: int, k: int) -> bytes:
        return struct.pack("=HBBI", code, true, false, k)

    lines = [
        op(_LOAD_WORD, 0, 0, 4),  # seccomp_data.arch
        op(_JUMP_IF_EQUAL, 1, 0, AUDIT_ARCH[machine]),
        op(_RETURN, 0, 0, _RET_KILL),
        op(_LOAD_WORD, 0, 0, 0),  # seccomp_data.nr
    ]
    lines += [op(_JUMP_IF_EQUAL, len(numbers) - i, 0, number) for i, number in enumerate(numbers)]
    lines += [op(_RETURN, 0, 0, _RET_ERRNO | _EPERM), op(_RETURN, 0, 0, _RET_ALLOW)]
    return b"".join(lines)


def drop_system_calls() -> bool:
    """Install the filter in this process, for good. False where the system has none."""
    machine = platform.machine()
    if sys.platform != "linux" or machine not in ALLOWED:
        return False
    code = seccomp_program(machine)
    program = _Program(len(code) // 8, code)
    libc = ctypes.CDLL(None)
    return (
        libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
        and libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0) == 0
    )


def set_limits(cpu_seconds: float, memory_bytes: int) -> None:
    """Resource limits of the child. The profiling timer is finer than RLIMIT_CPU, which stands behind it."""
    whole = int(cpu_seconds) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (whole, whole + 1))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
    if sys.platform == "linux":  # other systems refuse or ignore a limit on address space
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_PROF, cpu_seconds)


def plain(value: Any) -> Any:
    """`value` when it is made of exactly the JSON types; else (a subclass with its own `==`, say) a TypeError."""
    kind = type(value)
    if kind is list:
        return [plain(item) for item in value]
    if kind is dict and all(type(key) is str for key in value):
        return {key: plain(item) for key, item in value.items()}
    if kind in (int, float, str, bool, type(None)):
        return value
    raise TypeError(f"an answer may not return {kind.__name__}")


class Capped(io.StringIO):
    """Keeps the first characters that are written; the rest is lost, so that endless output fills no memory."""

    def write(self, text: str) -> int:
        super().write(text[: max(0, 4 * MOST_SAID - self.tell())])
        return len(text)


def opener(files: Mapping[str, str]) -> Any:
    """What stands for `open` in a script: reads the files that it was given, which are the only ones there."""

    def opened(name: Any, mode: str = "r", *_: Any, **__: Any) -> Any:
        if str(name) not in files:
            raise FileNotFoundError(2, "No such file or directory", str(name))
        if set(mode) - set("rbt"):
            raise PermissionError(1, "Operation not permitted", str(name))
        return io.BytesIO(files[str(name)].encode()) if "b" in mode else io.StringIO(files[str(name)])

    return opened


def told(error: BaseException) -> str:
    """An exception as Python prints it, but for lines of code that are not the script's own: they name this machine."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == "main.py"]
    head = ["Traceback (most recent call last):\n", *traceback.format_list(frames)] if frames else []
    return "".join([*head, *traceback.format_exception_only(error)])


def script(job: dict[str, Any]) -> list[Any]:
    """Run a whole program as `python main.py` would: [what it wrote, its errors, its exit status]."""
    said, errors, status = Capped(), Capped(), 0
    builtins.open = opener(job["files"])
    linecache.cache["main.py"] = (len(job["code"]), None, job["code"].splitlines(keepends=True), "main.py")
    sys.stdin, sys.stdout, sys.stderr, sys.argv = io.StringIO(job["stdin"]), said, errors, ["main.py"]
    random.seed(0)
    try:
        exec(compile(job["code"], "main.py", "exec"), {"__name__": "__main__"})
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
        errors.write("" if end.code is None or isinstance(end.code, int) else f"{end.code}\n")
    except BaseException as error:
        status = 1
        errors.write(told(error)[-MOST_SAID:])
    return [said.getvalue()[:MOST_SAID], errors.getvalue()[-MOST_SAID:], status]


def child(job: dict[str, Any], pipe: int) -> NoReturn:
    """Run one job and write `{"values": [...]}` or `{"error": ...}` into `pipe`. Never returns."""
    os.setsid()
    os.dup2(pipe, 3)
    os.closerange(4, 4096)
    set_limits(job["cpu_seconds"], job["memory_bytes"])
    drop_system_calls()
    try:
        if "stdin" in job:
            os.write(3, json.dumps({"values": script(job)}, ensure_ascii=False).encode("utf-8", "replace"))
            os._exit(0)
        space: dict[str, Any] = {"__name__": "answer"}
        exec(compile(job["code"], "answer.py", "exec"), space)
        function = space[job["entry"]]
        reply = {"values": [plain(function(*call)) for call in job["calls"]]}
        os.write(3, json.dumps(reply).encode())
    except BaseException as error:
        os.write(3, json.dumps({"error": type(error).__name__}).encode())
    os._exit(0)


def run(job: dict[str, Any]) -> bytes:
    """Fork a child for `job` and return what it wrote, at most 64 KiB; b"" when it wrote nothing in time."""
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        child(job, write_end)
    os.close(write_end)
    deadline = time.monotonic() + job["wall_seconds"]
    reply = b""
    try:
        while len(reply) < 65536:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([read_end], [], [], left)[0]:
                return b""
            chunk = os.read(read_end, 65536)
            if not chunk:
                break
            reply += chunk
        return reply if len(reply) < 65536 else b""
    finally:
        os.close(read_end)
        for kill in (os.killpg, os.kill):  # the group is missing if the child died before setsid
            with contextlib.suppress(ProcessLookupError, PermissionError):
                kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def read_frame(stream: int) -> bytes | None:
    """A length-prefixed message, read without buffering ahead: a child never inherits the next job."""
    header = _read_exactly(stream, 4)
    return None if header is None else _read_exactly(stream, struct.unpack("!I", header)[0])


def _read_exactly(stream: int, count: int) -> bytes | None:
    data = b""
    while len(data) < count:
        chunk = os.read(stream, count - len(data))
        if not chunk:
            return None
        data += chunk
    return data


def write_frame(stream: int, data: bytes) -> None:
    """Write one length-prefixed message."""
    data = struct.pack("!I", len(data)) + data
    while data:
        data = data[os.write(stream, data) :]


def filter_works() -> bool:
    """Try the filter in a child of its own."""
    pid = os.fork()
    if pid == 0:
        os._exit(0 if drop_system_calls() else 1)
    return os.waitpid(pid, 0)[1] == 0


def main() -> None:
    """Move the protocol off stdin and stdout, then serve jobs until stdin closes."""
    jobs, replies = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    for name in PRELOADED:
        __import__(name)
    write_frame(replies, b"seccomp" if filter_works() else b"limits")
    while (frame := read_frame(jobs)) is not None:
        write_frame(replies, run(json.loads(frame)))


if __name__ == "__main__":
    main()
