"""Why a run was interrupted, in the words of the paper's table of interruptions (paper 3.3.4, table 5). Torch-free.

A cause is told by what is at hand: an exception, the exit code of a process, the watchdog. Hardware names itself only
in the message of an exception; what leaves no witness is called so.
"""

from __future__ import annotations

import re
import signal
from dataclasses import dataclass

from llama3.errors import Interrupted, LlamaError, said_by
from llama3.full_disk import is_disk_full
from llama3.training.recovery import BIT_FLIP, SPIKE

HANG_EXIT = 6
"""Exit code of a process that its watchdog ended."""


@dataclass(frozen=True, slots=True)
class Cause:
    """Something that interrupts a run. `category` is the row of the paper's table; `planned`: somebody asked for it."""

    name: str
    category: str
    rank: int
    """Among several causes of one interruption the highest is the one that is told: others follow from it."""
    planned: bool = False


OF_BATCHES = "L3-BAT-"
"""How the codes begin that tell of a batch which cannot be put together."""
CAUSES = {
    cause.name: cause
    for cause in (
        Cause("no witness", "Unknown", 0),
        Cause("lost a rank", "Network Switch/Cable", 1),
        Cause("failed", "Software Bug", 2),
        Cause("killed", "Host Maintenance", 3),
        Cause("crash", "Software Bug", 4),
        Cause("hang", "NCCL Watchdog Timeouts", 5),
        Cause("disk", "SSD", 6),
        Cause("out of memory", "System Memory", 6),
        Cause("GPU out of memory", "Software Bug", 6),
        Cause("GPU memory", "GPU HBM3 Memory", 6),
        Cause("GPU", "Faulty GPU", 6),
        Cause("loss spike", "Loss Spike", 6),
        Cause("bit flip", "Silent Data Corruption", 7),
        Cause("stopped", "Planned Maintenance", 8, planned=True),
        Cause("data left out", "Planned Maintenance", 8, planned=True),
    )
}

_ECC = re.compile(r"\bECC\b")
_PEER_GONE = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "Timed out waiting", "NCCL")


def cause_of(error: BaseException) -> str:
    """The name of the cause that an exception stands for."""
    kind, said = type(error).__name__, said_by(error)
    if isinstance(error, KeyboardInterrupt | Interrupted):
        return "stopped"
    if BIT_FLIP.code in said:
        return "bit flip"
    if SPIKE.code in said:
        return "loss spike"
    if is_disk_full(error) or (isinstance(error, OSError) and error.errno == 5):
        return "disk"
    if isinstance(error, MemoryError):
        return "out of memory"
    if kind == "OutOfMemoryError":
        return "GPU out of memory"
    if _ECC.search(said):
        return "GPU memory"
    if "CUDA error" in said:
        return "GPU"
    if kind.startswith("Dist") or any(part in said for part in _PEER_GONE):
        return "lost a rank"
    return "failed"


def is_told_elsewhere(error: BaseException) -> bool:
    """Whether an error in a plugin's call is told by itself, or came to it: of a device, or another rank. Python's own
    ConnectionError is of whom the plugin itself has asked: torch.distributed raises others. A batch that is none is
    whose it is that put it together."""
    if isinstance(error, LlamaError):
        return not any(problem.code.startswith(OF_BATCHES) for problem in error.problems)
    return not isinstance(error, ConnectionError) and cause_of(error) not in ("failed", "out of memory")


def cause_of_exit(code: int, *, oom_killed: bool = False) -> str:
    """The name of the cause that an exit code stands for, as `subprocess` gives it: minus the signal's number."""
    if code == HANG_EXIT:
        return "hang"
    if code == -signal.SIGKILL:
        return "out of memory" if oom_killed else "killed"
    if code in (-signal.SIGTERM, -signal.SIGINT, Interrupted.exit_code):
        return "stopped"
    return "crash" if code < 0 else "failed"
