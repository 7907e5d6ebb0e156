"""Processes of this Python that begin with torch and llama3 imported, as forks of one process that has nothing else to
do. They are started, asked and ended as `subprocess` does it, in a fraction of the time.

What a test says of the start itself, of what it imports for example, it says of a process of `subprocess`.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import importlib
import inspect
import io
import json
import os
import pkgutil
import runpy
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
import types
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import torch

SUBREAPER = 36
"""PR_SET_CHILD_SUBREAPER of prctl(2): orphans among the descendants become children of this process."""
MOST = 1 << 17
"""Bytes of what is asked: arguments and environment."""


class Popen(subprocess.Popen):
    """As `subprocess.Popen`, of a command that begins with `sys.executable`; without `preexec_fn` and `pass_fds`."""

    def _execute_child(self, *given: Any) -> None:
        asked = inspect.signature(subprocess.Popen._execute_child).bind(self, *given).arguments
        ends = [asked[name] for name in ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")]
        executable, *arguments = map(str, asked["args"])
        assert executable == sys.executable
        what = {
            "arguments": arguments,
            "environment": dict(os.environ if asked["env"] is None else asked["env"]),
            "folder": str(asked["cwd"] or Path.cwd()),
            "session": asked["start_new_session"],
        }
        streams = [end if end >= 0 else fd for fd, end in enumerate((ends[0], ends[3], ends[5]))]
        self.pid = _forked(what, streams)
        self._child_created = True
        self._close_pipe_fds(*ends)


def run(
    command: list[Any], *, timeout: float = 300, check: bool = False, **options: Any
) -> subprocess.CompletedProcess[str]:
    """What the command printed, as text, and its exit code; with `check` none but 0 is good."""
    with Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options) as process:
        try:
            printed, told = process.communicate(timeout=timeout)
        except BaseException:
            process.kill()
            raise
    assert not check or process.returncode == 0, told
    return subprocess.CompletedProcess(command, process.returncode, printed, told)


def _forked(what: dict[str, Any], streams: list[int]) -> int:
    """The number of a new child of this process: the first process's grandchild, left by its parent at once."""
    nursery, _ = _nursery()
    ctypes.CDLL(None).prctl(SUBREAPER, 1)
    try:
        socket.send_fds(nursery, [json.dumps(what).encode()], streams)
        return int(nursery.recv(MOST))
    finally:
        ctypes.CDLL(None).prctl(SUBREAPER, 0)


@cache
def _nursery() -> tuple[socket.socket, subprocess.Popen]:
    """The way to the process that forks, and that process; it ends when this end is closed."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    command = [sys.executable, "-P", __file__, str(theirs.fileno())]
    process = subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)
    theirs.close()
    return ours, process


# -- in the process that forks ---------------------------------------------------------------------


def _import_all() -> None:
    """Modules are no garbage: who looks for some need not go through them."""
    importlib.import_module("torch._dynamo")
    importlib.import_module("torch.distributed.checkpoint")
    for name in ("llama3", "llama3_plugins"):
        package = importlib.import_module(name)
        for module in pkgutil.walk_packages(package.__path__, f"{name}."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)
    gc.collect()
    gc.freeze()


def _asked(way: socket.socket) -> dict[str, Any]:
    """Forks for whoever asks; returns in the child, with what is asked of it."""
    while True:
        message, streams, *_ = socket.recv_fds(way, MOST, 3)
        if not message:
            os._exit(0)
        reading, writing = os.pipe()
        left = os.fork()
        if not left:
            between, child = os.getpid(), os.fork()
            if not child:
                for fd, stream in enumerate(streams):
                    os.dup2(stream, fd)
                for fd in (*streams, reading, writing):
                    os.close(fd)
                way.close()
                while os.getppid() == between:  # whose child it is when it begins
                    time.sleep(0.001)
                return json.loads(message)
            os.write(writing, str(child).encode())
            os._exit(0)
        os.waitpid(left, 0)
        way.send(os.read(reading, MOST))
        for fd in (*streams, reading, writing):
            os.close(fd)


def _settle(what: dict[str, Any]) -> list[str]:
    """Folder, environment, streams and paths of a process that begins; its arguments."""
    if what["session"]:
        os.setsid()
    os.chdir(what["folder"])
    old = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    os.environ.clear()
    os.environ.update(what["environment"])
    new = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.path[:] = list(dict.fromkeys([*new, *(path for path in sys.path if path not in old)]))
    importlib.invalidate_caches()
    if "OMP_NUM_THREADS" in os.environ:
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    sys.stdin, sys.stdout, sys.stderr = (
        io.TextIOWrapper(io.BufferedReader(io.FileIO(0, closefd=False)), "utf-8"),
        io.TextIOWrapper(io.BufferedWriter(io.FileIO(1, "w", closefd=False)), "utf-8", line_buffering=os.isatty(1)),
        io.TextIOWrapper(
            io.BufferedWriter(io.FileIO(2, "w", closefd=False)), "utf-8", "backslashreplace", line_buffering=True
        ),
    )
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr
    arguments = what["arguments"]
    if arguments[0] == "-u":
        sys.stdout.reconfigure(write_through=True)
        arguments = arguments[1:]
    return arguments


def _begin(how: str, *rest: str) -> None:
    """As the interpreter: `-m MODULE`, `-c CODE` or a script."""
    if how == "-m":
        module, *arguments = rest
        sys.path.insert(0, str(Path.cwd()))
        sys.argv = [module, *arguments]
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    elif how == "-c":
        code, *arguments = rest
        sys.path.insert(0, "")
        sys.argv = ["-c", *arguments]
        sys.modules["__main__"] = types.ModuleType("__main__")
        exec(compile(code, "<string>", "exec"), vars(sys.modules["__main__"]))
    else:
        sys.path.insert(0, str(Path(how).resolve().parent))
        sys.argv = [how, *rest]
        runpy.run_path(how, run_name="__main__")


def _as_a_process_ends(arguments: list[str]) -> int:
    """Runs it; what the interpreter does after that but for taking modules apart, which takes longer than all else."""
    code: Any = 0
    try:
        _begin(*arguments)
    except SystemExit as left:
        code = left.code
        if isinstance(code, str):
            print(code, file=sys.stderr)
            code = 1
    except BaseException as error:
        traceback.print_exception(error)
        code = 1
        if isinstance(error, KeyboardInterrupt):
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGINT)
    threading._shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    return int(code or 0) & 0xFF


if __name__ == "__main__":
    _import_all()
    os._exit(_as_a_process_ends(_settle(_asked(socket.socket(fileno=int(sys.argv[1]))))))
