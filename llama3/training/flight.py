"""The flight recorder: the last collectives of this process, each with where it was called from and how long it waited.

Meta's recorder for the same purpose (paper 3.3.4) keeps collectives and stacks in a ring buffer and dumps them when a
watchdog fires. This one sees what goes through `ParallelContext` and `messages`; what torch sends by itself (FSDP's
gathers) is seen by torch's own recorder for NCCL (TORCH_NCCL_TRACE_BUFFER_SIZE), and by the stacks that are dumped.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from llama3.artifacts.files import write_json_atomic

SIZE = 256
"""Collectives that are kept."""
FRAMES = 5


class FlightRecorder:
    """What a process has sent and waited for; there is one, `FLIGHT`."""

    def __init__(self, size: int = SIZE) -> None:
        self.waited = 0.0
        """Seconds inside of collectives since the beginning."""
        self._ring: deque[dict[str, Any]] = deque(maxlen=size)
        self._numbers: Counter[str] = Counter()

    @contextmanager
    def collective(self, name: str, group: str, shape: Sequence[int] = ()) -> Iterator[None]:
        """Records one while it runs. Ranks of a group call the same ones in the same order, so its number in its group
        says which rank is behind. Threads beside the training loop, which write checkpoints, have groups of their own
        and are left out: no step waits for them."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        self._numbers[group] += 1
        began = time.monotonic()
        entry: dict[str, Any] = {
            "collective": name,
            "group": group,
            "number": self._numbers[group],
            "shape": list(shape),
            "where": _where(),
            "began": began,
            "seconds": None,
        }
        self._ring.append(entry)
        try:
            yield
        finally:
            entry["seconds"] = time.monotonic() - began
            self.waited += entry["seconds"]

    def dump(self, path: Path, rank: int, attempt: int, step: int) -> None:
        """Write what is kept; `reached` is the number of the last collective by group."""
        where = {"rank": rank, "attempt": attempt, "step": step, "reached": dict(self._numbers)}
        write_json_atomic(path, {**where, "collectives": list(self._ring)})


FLIGHT = FlightRecorder()


def _where() -> list[str]:
    """The callers, innermost first."""
    frame = sys._getframe(1)
    found: list[str] = []
    while frame is not None and len(found) < FRAMES:
        name = frame.f_code.co_filename
        if "contextlib" not in name and name != __file__:
            found.append(f"{Path(name).name}:{frame.f_lineno} {frame.f_code.co_name}")
        frame = frame.f_back  # type: ignore[assignment]
    return found


def read_dumps(folder: Path) -> list[dict[str, Any]]:
    """The dumps of the last hang in a folder of records, by rank; unreadable ones are left out."""
    found: list[dict[str, Any]] = []
    for path in sorted(folder.glob("flight-*.json")):
        with suppress(OSError, ValueError, KeyError, TypeError):
            dump = json.loads(path.read_bytes())
            numbers = {name: int(dump[name]) for name in ("rank", "attempt", "step")}
            found.append({**numbers, "reached": dict(dump["reached"]), "collectives": list(dump["collectives"])})
    last = max((dump["attempt"] for dump in found), default=0)
    return sorted((dump for dump in found if dump["attempt"] == last), key=lambda dump: dump["rank"])


def behind(dumps: Sequence[Mapping[str, Any]], world: int) -> str:
    """One line on which rank the others waited for, from the dumps of a hang; empty where there are none.

    A rank that left none was stopped or gone: a process that runs dumps when it has waited too long.
    """
    if not dumps:
        return ""
    if missing := sorted(set(range(world)) - {dump["rank"] for dump in dumps}):
        return f"no word of rank {', '.join(map(str, missing))}: stopped, frozen or gone"
    for group in sorted({group for dump in dumps for group in dump["reached"]}):
        numbers = {dump["rank"]: dump["reached"].get(group, 0) for dump in dumps if group in dump["reached"]}
        least, most = min(numbers.values()), max(numbers.values())
        if least < most:
            late = ", ".join(str(rank) for rank, number in numbers.items() if number == least)
            return f"rank {late} is behind: at collective {least} of group {group}, others at {most}"
    last = [dump["collectives"][-1] for dump in dumps if dump["collectives"]]
    return f"all ranks are at the same collective ({last[0]['collective']})" if last else "no collective was called"
