"""The ledger of a run: what was trained on, how long it took, and what interrupted it. Torch-free.

    runs/<name>/reliability/
      ledger.jsonl       rank 0 and the supervisor; append-only, in the order in which things happened
      rank-<R>.jsonl     what each other rank measured of itself
      reached-<R>        the last step that a rank has finished
      stacks-<R>.txt, flight-<R>.json      what a rank left that hung (llama3.training.watchdog)

A row has its `kind`, the `artifact` that was being made, and two clocks. Durations are told by the monotonic one
(`clock`, which is common to all processes since the `boot`), never by `time`, which may jump; the order is that of the
lines. Both tell when a thing happened, of `steps` when the last of them was finished, however late the row was written.

    attempt   a process begins a stage; what its predecessor had reached    {total, world, number, reached ...}
    resumed   with what checkpoint (step 0: none)                 {step, seconds}
    steps     finished steps                                      {first, last, seconds, waited, data, content}
    groups    so many replica groups take part from a step on     {step, count}
    healed    these steps were done by other replica groups, and their state was taken over    {first, last}
    saved     a checkpoint was handed to the store                {step, seconds}
    skipped   an update was, and what the step had read           {step, data, why, documents}
    back      goes back to a checkpoint without a restart         {step, cause, what}
    left_out  data that is passed over from then on               {step, data, why, documents}
    hang, end, exit    why the process ended                      {cause, what}
    done      the stage is finished

`content` has, of every step, a number of 32 bits that all tokens of the step make, whatever ranks had them: equal
numbers mean that the same samples were trained on.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

from llama3.artifacts.files import append_json_line, fsync_file, read_json_lines

FOLDER = "reliability"
LEDGER = "ledger.jsonl"
EVERY_SECONDS = 1.0
"""Finished steps are written down this often, at least; and with every checkpoint."""


@cache
def boot() -> str:
    """Names the time since the machine was started, in which the monotonic clock runs."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()[:8]
    except OSError:
        return "unknown"


def file_of(folder: Path, rank: int) -> Path:
    """The ledger of a rank in a folder of records."""
    return folder / (LEDGER if rank == 0 else f"rank-{rank}.jsonl")


class RunLedger:
    """Writes the rows of one rank. Never fails a run: a full disk costs the row, not the work."""

    def __init__(self, folder: Path | None, artifact: str = "", rank: int = 0) -> None:
        """`folder`: of the records; None: nothing is written."""
        self.artifact, self.rank = artifact, rank
        self.path = None if folder is None else file_of(folder, rank)
        self._beat = None if folder is None else folder / f"reached-{rank}"
        self._steps: dict[str, Any] = {}
        self._since = time.monotonic()
        if folder is not None:
            with suppress(OSError):
                folder.mkdir(parents=True, exist_ok=True)

    def write(self, kind: str, **fields: Any) -> None:
        """Append a row, after the steps that were finished before it."""
        self.flush()
        self._append(kind, fields)

    def stepped(self, step: int, data: int, content: int, seconds: float, waited: float) -> None:
        """Step `step` (1-based) is finished: it read the data of the 0-based `data`, took `seconds`, and this rank
        `waited` so many of them for others."""
        open_ = self._steps
        if open_ and (open_["last"] != step - 1 or open_["data"] + len(open_["content"]) != data):
            self.flush()
            open_ = self._steps
        if not open_:
            open_.update(first=step, last=step, seconds=0.0, waited=0.0, data=data, content=[])
        open_["last"], open_["clock"] = step, time.monotonic()
        open_["seconds"] += seconds
        open_["waited"] += waited
        open_["content"].append(content)
        self._write_beat(step)
        if time.monotonic() - self._since >= EVERY_SECONDS:
            self.flush()

    def reached(self) -> dict[str, Any]:
        """The last finished step of whoever worked here last, and when: known after a kill too. Empty where unknown."""
        if self._beat is None:
            return {}
        try:
            step, clock, booted, artifact = self._beat.read_text().splitlines()[0].split(" ", 3)
            known = {"reached": int(step), "reached_clock": float(clock), "reached_boot": booted}
        except (OSError, ValueError, IndexError):
            return {}
        return known if artifact == self.artifact else {}

    def _write_beat(self, step: int) -> None:
        """A few bytes in place, not a row: a kill may not lose which steps were lost."""
        if self._beat is not None:
            with suppress(OSError), open(os.open(self._beat, os.O_WRONLY | os.O_CREAT, 0o644), "w") as file:
                file.write(f"{step:012} {time.monotonic():020.6f} {boot()} {self.artifact}\n")

    def flush(self) -> None:
        """Write down the steps that are finished."""
        row, self._steps = self._steps, {}
        self._since = time.monotonic()
        if row:
            content, clock = " ".join(f"{number:08x}" for number in row.pop("content")), row.pop("clock")
            times = {name: round(row.pop(name), 6) for name in ("seconds", "waited")}
            self._append("steps", {**row, **times, **({"content": content} if self.rank == 0 else {})}, clock)

    def sync(self) -> None:
        """Force all rows to the disk."""
        self.flush()
        if self.path is not None:
            with suppress(OSError):
                fsync_file(self.path)

    def _append(self, kind: str, fields: dict[str, Any], clock: float | None = None) -> None:
        """`clock`: when what the row tells happened; by default now."""
        if self.path is None:
            return
        now = time.monotonic()
        clock = now if clock is None else clock
        row = {
            "kind": kind,
            "artifact": self.artifact,
            **fields,
            "clock": round(clock, 6),
            "boot": boot(),
            "time": (datetime.now(UTC) - timedelta(seconds=now - clock)).isoformat(timespec="milliseconds"),
        }
        with suppress(OSError):
            append_json_line(self.path, row)


def rows_of_rank(run: Path, rank: int = 0) -> Iterator[dict[str, Any]]:
    """The rows of a rank in the run directory `run`, in order. What is no row is left out."""
    for row in read_json_lines(file_of(run / FOLDER, rank)):
        if isinstance(row.get("kind"), str) and isinstance(row.get("clock"), int | float):
            yield row


def ranks_of(run: Path) -> list[int]:
    """The ranks that have written anything."""
    others = (path.stem.removeprefix("rank-") for path in (run / FOLDER).glob("rank-*.jsonl"))
    return [0, *sorted(int(name) for name in others if name.isdecimal())]


def between(earlier: Mapping[str, Any], later: Mapping[str, Any]) -> float:
    """Seconds from one row to a later one: by the monotonic clock, across a restart of the machine by the wall's."""
    if earlier.get("boot") == later.get("boot"):
        return max(0.0, later["clock"] - earlier["clock"])
    try:
        times = [datetime.fromisoformat(str(row.get("time"))) for row in (earlier, later)]
    except ValueError:
        return 0.0
    return max(0.0, (times[1] - times[0]).total_seconds())


def data_step(step: int, left_out: list[int]) -> int:
    """The data that the 0-based `step` reads: what is left out (ascending) is passed over."""
    for data in left_out:
        step += data <= step
    return step
