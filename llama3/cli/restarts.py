"""`llama3 run --restarts N`: a process that starts the run and starts it again when it falls.

It forks itself: the child does the work, the parent waits. So a restart takes no longer than finding and loading the
checkpoint: everything is imported already. The parent computes nothing, and never touches a device, which a fork could
then not use.

A child that ends in an error of its user's making (a config, a gate, a stop that was asked for) ends the parent too;
after any other end there is a next child, which goes on from the last checkpoint. It gives up where the run did not get
on between PATIENCE ends: then a restart does not help. Ranks of torchrun are started again by torchrun
(--max-restarts).
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import importlib
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import IO

from llama3.cli.ending import watch_exits_here
from llama3.cli.output import data_stream, note, require_stdout, say
from llama3.errors import (
    ConfigError,
    DoesNotFit,
    GateFailed,
    Interrupted,
    LlamaError,
    PluginError,
)
from llama3.training.causes import cause_of_exit
from llama3.training.ledger import FOLDER, RunLedger, rows_of_rank

UNDER_LAUNCHER = ConfigError.declare(
    "L3-RUN-020",
    "torchrun starts its ranks again itself",
    fix="torchrun --max-restarts {restarts} ..., without --restarts",
)
NO_PROGRESS = LlamaError.declare(
    "L3-RUN-021",
    "gave up after {ends} ends without progress; the last one: {cause} (exit code {code})",
    why="the run stands where it stood before",
    fix="see what it said above, and llama3 ledger {run}",
)
NO_RESTART_LEFT = LlamaError.declare(
    "L3-RUN-022",
    "gave up after {restarts} restarts; the last end: {cause} (exit code {code})",
    fix="give the same command to go on, with more --restarts",
)

FINAL = {0, *(kind.exit_code for kind in (ConfigError, DoesNotFit, PluginError, GateFailed, Interrupted))}
"""Exit codes after which a restart would do the same again, or was not asked for."""
PATIENCE = 3
_PR_SET_PDEATHSIG = 1


def supervise(run: Path, restarts: int, frozen: float = 0.0) -> int | None:
    """Returns None in every child, which then works in the run directory `run`; in the parent, when the work has come
    to an end, the exit code of the last child.

    `frozen`: seconds after which a child that somebody has stopped (SIGSTOP) is killed, and started again; 0: never.
    The children's stdout is told when it is over, of the last one only. SIGTERM and Ctrl-C are passed on, once each.
    Raises LlamaError (L3-RUN-021, 022) when it gives up.
    """
    require_stdout()
    _prepare()
    stood, ends = None, 0
    for restart in range(restarts + 1):
        oom_kills = _oom_kills()
        with tempfile.TemporaryFile("w+", encoding="utf-8", errors="backslashreplace") as told:
            child = _fork(told)
            if child is None:
                return None
            code, stopped, hung = _wait(child, frozen)
            if code in FINAL or stopped:
                told.seek(0)
                say(told.read(), end="")
                return code if code >= 0 else Interrupted.exit_code
        cause = "hang" if hung else cause_of_exit(code, oom_killed=_oom_kills() > oom_kills)
        if run.is_dir():
            RunLedger(run / FOLDER).write("exit", code=code, cause=cause, what=_named(code))
        stands = _stand(run)
        ends, stood = (ends + 1 if stands == stood else 1), stands
        if ends >= PATIENCE:
            raise NO_PROGRESS(run, ends=ends, cause=cause, code=code, run=run)
        if restart < restarts:
            left = restarts - restart - 1
            note(f"{cause} ({_named(code)}); starting again, {left} of {restarts} restarts left")
    raise NO_RESTART_LEFT(run, restarts=restarts, cause=cause, code=code)


def _prepare() -> None:
    """Once, what each child would do: import what torch imports at its first optimizer. And what is there by now is
    no garbage: a child, which looks for some before it trains, need not go through it."""
    importlib.import_module("torch._dynamo")
    gc.collect()
    gc.freeze()
    atexit.register(gc.unfreeze)  # extensions complain of objects that are there at the end


def _fork(stdout: IO[str]) -> int | None:
    """None in the child, whose stdout goes into a file; in the parent the child's number."""
    data = data_stream()
    assert data is not None
    data.flush()
    sys.stderr.flush()
    supervisor = os.getpid()
    if child := os.fork():
        return child
    watch_exits_here()
    os.setpgid(0, 0)  # a terminal's Ctrl-C reaches it through the parent, once
    _stop_with(supervisor)
    os.dup2(stdout.fileno(), data.fileno())
    return None


def _stop_with(supervisor: int) -> None:
    """Save and stop when the supervisor is killed (Linux): nobody would start this process again, or end it."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != supervisor:  # it was killed before this was set
        os.kill(os.getpid(), signal.SIGTERM)


def _wait(child: int, frozen: float) -> tuple[int, bool, bool]:
    """The exit code of a child, whether somebody asked us to stop, and whether it was killed because it stood still."""
    stopped = hung = False
    while True:
        try:
            status = os.waitpid(child, os.WUNTRACED if frozen else 0)[1]
            if not os.WIFSTOPPED(status):
                return os.waitstatus_to_exitcode(status), stopped, hung
            if not _goes_on(child, frozen):
                hung = True
                os.kill(child, signal.SIGKILL)
        except KeyboardInterrupt:
            stopped = True
            os.kill(child, signal.SIGTERM)
            os.kill(child, signal.SIGCONT)


def _goes_on(child: int, seconds: float) -> bool:
    """Whether a child that was stopped is continued, or ends, in time."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        found = os.waitid(os.P_PID, child, os.WCONTINUED | os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if found is not None:
            if found.si_code == os.CLD_CONTINUED:
                os.waitid(os.P_PID, child, os.WCONTINUED | os.WNOHANG)
            return True
        time.sleep(min(0.2, seconds / 10))
    return False


def _stand(run: Path) -> tuple[object, ...]:
    """How far a run is: its finished artifacts, and where training last went on from."""
    made = sorted(path.name for path in (run / "artifacts").glob("*-*")) if run.is_dir() else []
    resumed = [(row.get("artifact"), row.get("step")) for row in rows_of_rank(run) if row["kind"] == "resumed"]
    return (*made, *resumed[-1:])


def _named(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


def _oom_kills() -> int:
    """Processes that the kernel has killed for memory since it was started; 0 where it does not say."""
    try:
        lines = Path("/proc/vmstat").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)
