"""`llama3 run --restarts N`: a process that starts the run and starts it again when it falls. Torch-free.

It starts `llama3 run` as a child and waits; the next child stands by already, with torch imported, so that a restart
takes no longer than finding and loading the checkpoint. A child that ends in an error of its user's making (a config, a
gate, a stop that was asked for) ends it too; after any other end it starts the next one, which goes on from the last
checkpoint. It gives up where the run did not get on between PATIENCE ends: then a restart does not help.

Ranks of torchrun are started again by torchrun itself (--max-restarts).
"""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from llama3.cli.output import note, say
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


def supervise(command: Sequence[str], run: Path, restarts: int) -> int:
    """Run `command`, which works in the run directory `run`, until it comes to an end; the exit code of the last try.

    Its stderr is ours; its stdout is told when it is over, of the last try only. SIGTERM and Ctrl-C are passed on, once
    each. Raises LlamaError (L3-RUN-021, 022) when it gives up.
    """
    spare = _Child(command)
    stood, ends = None, 0
    try:
        for restart in range(restarts + 1):
            child, spare = spare, _Child(command)
            code, stopped, cause = _try(child)
            if code in FINAL or stopped:
                say(child.told(), end="")
                return code if code >= 0 else Interrupted.exit_code
            if run.is_dir():
                RunLedger(run / FOLDER).write("exit", code=code, cause=cause, what=_named(code))
            stands = _stand(run)
            ends, stood = (ends + 1 if stands == stood else 1), stands
            if ends >= PATIENCE:
                raise NO_PROGRESS(run, ends=ends, cause=cause, code=code, run=run)
            if restart < restarts:
                note(f"{cause} ({_named(code)}); starting again, {restarts - restart} of {restarts} restarts left")
    finally:
        spare.dismiss()
    raise NO_RESTART_LEFT(run, restarts=restarts, cause=cause, code=code)


def _try(child: _Child) -> tuple[int, bool, str]:
    """Let a child work: its exit code, whether somebody asked us to stop, and the cause of its end."""
    oom_kills = _oom_kills()
    child.begin()
    code, stopped = child.wait()
    return code, stopped, "stopped" if stopped else cause_of_exit(code, oom_killed=_oom_kills() > oom_kills)


class _Child:
    """One try, started before it is needed: it imports what it will need and waits for a line on its stdin."""

    def __init__(self, command: Sequence[str]) -> None:
        self._stdout = tempfile.TemporaryFile("w+", encoding="utf-8", errors="backslashreplace")  # noqa: SIM115
        # A group of its own: a terminal's Ctrl-C reaches it through us, once.
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=self._stdout, process_group=0, text=True
        )

    def begin(self) -> None:
        self._say("go\n")

    def dismiss(self) -> None:
        """It is not needed: without the line it ends by itself."""
        self._say("")
        self._process.wait()

    def _say(self, line: str) -> None:
        assert self._process.stdin is not None
        with suppress(OSError):  # it has ended already, and its exit code will say why
            self._process.stdin.write(line)
            self._process.stdin.close()

    def wait(self) -> tuple[int, bool]:
        """Its exit code, and whether somebody asked us to stop."""
        stopped = False
        while True:
            try:
                return self._process.wait(), stopped
            except KeyboardInterrupt:
                stopped = True
                self._process.send_signal(signal.SIGTERM)

    def told(self) -> str:
        """What it printed."""
        self._stdout.seek(0)
        return self._stdout.read()


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


def child_command(arguments: Sequence[str]) -> list[str]:
    """The command of a child, from the arguments of `llama3 run`."""
    return [sys.executable, "-m", "llama3", "run", *arguments, "--standby"]
