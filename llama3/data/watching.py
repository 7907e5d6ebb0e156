"""Filters of others under watch: in a process of their own, with bounds of time and memory for each document. One that
takes too much is found, named and left out, and takes no other with it.

The built-in filters are linear in a document's length and need no watch.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa

from llama3.config.curation import BoundsSection
from llama3.config.slot_types import Slot
from llama3.data.arrays import as_json, from_json, packed, unpacked
from llama3.data.documents import DocumentBatch, Edits, Judgement
from llama3.data.opinions import Opinion
from llama3.errors import DataError, PluginError
from llama3.plugins.loader import BUILT_IN
from llama3.plugins.registry import discover

OUT_OF_BOUNDS = DataError.declare(
    "L3-DAT-278",
    "document {id} takes filters beyond their bounds: {reason}",
    fix="raise data.bounds, or leave such documents out with data.bounds.action: quarantine",
)
NOT_STARTED = PluginError.declare("L3-DAT-279", "the process for filters under watch did not start", why="{error}")
NOT_MADE = PluginError.declare(
    "L3-DAT-288",
    "it is not made after {seconds} seconds of work",
    why="what its factory does then does not end, or takes too long",
    fix="let the factory end: what takes long, or waits for something, is done before, and read from a file",
)
ALWAYS_OUT = PluginError.declare(
    "L3-DAT-289",
    "they go beyond their bounds without a document: {reason}",
    why="a document was asked about before ({before}), and then none at all",
    fix="mend the filter that is no built-in one: it waits, or ends its process, whatever it is given",
)
FAILED_THERE = PluginError.declare("L3-DAT-280", "a filter under watch failed", why="{error}")

ASKING = b"asking "
"""Begins a message with the name of the filter that is asked next."""
START_SECONDS = 120.0
OF_A_BATCH = 100
"""A batch may take the seconds of one document, and the hundredth part of them for each."""
WAITING = 2
"""So many times as long it may take by the clock, without what its threads wait for a processor."""
BLIND = 20
"""So many times as long where that is not told, and on the busiest machine."""
LOOK_SECONDS = 0.2


class Exceeded(Exception):  # noqa: N818
    """A batch went beyond the bounds."""


def foreign(slots: Sequence[Slot]) -> list[str]:
    """The filters that are not built in."""
    return [slot.name for slot in slots if discover().offer("filters", slot.name).dist != BUILT_IN]


def try_out(slots: Sequence[Slot]) -> None:
    """Makes the filters that are not built in, in a process of their own: before this process makes them, where nothing
    would end a factory that never returns. Raises PluginError (L3-DAT-279, 288)."""
    if names := foreign(slots):
        _try_out(json.dumps([slot.model_dump(mode="json") for slot in slots if slot.name in names]))


@cache
def _try_out(slots: str) -> None:
    WatchedFilters([Slot.model_validate(slot) for slot in json.loads(slots)], None, BoundsSection()).start().close()


class WatchedFilters:
    """Asks the filters of these slots in a process that is ended and begun again where a batch takes too much; then its
    halves are tried. `surveys`: by filter, a file of what was found in all documents; None: they are told nothing.
    Where `ending` is set, nothing is waited for any longer: CancelledError is raised."""

    def __init__(
        self,
        slots: Sequence[Slot],
        surveys: Mapping[str, Path] | None,
        bounds: BoundsSection,
        ending: threading.Event | None = None,
    ) -> None:
        self.bounds, self._ending = bounds, ending or threading.Event()
        self._foreign = ", ".join(foreign(slots))
        self._order = {
            "slots": [slot.model_dump(mode="json") for slot in slots],
            "surveys": None if surveys is None else {name: str(path) for name, path in surveys.items()},
            "memory": bounds.memory_mb << 20,
        }
        self._process: subprocess.Popen[bytes] | None = None

    def ask(self, batch: DocumentBatch) -> Opinion:
        """What the filters think of the documents, but for those that take too much. Raises PluginError where a filter
        fails, DataError (L3-DAT-278) where that shall stop the run."""
        if not len(batch):
            return self._nothing(batch, "")
        try:
            return self._asked(batch)
        except Exceeded as why:
            if len(batch) > 1:
                half = np.arange(len(batch)) < len(batch) // 2
                return Opinion.joined(self.ask(batch.take(half)), self.ask(batch.take(~half)))
            if self.bounds.action == "stop":
                raise OUT_OF_BOUNDS("data.bounds", id=batch.column("id")[0], reason=str(why)) from why
            nothing = self._nothing(batch, str(why))
            return Opinion(nothing.columns, nothing.judgements, nothing.edits, nothing.keep_D, (str(why),))

    def _nothing(self, batch: DocumentBatch, why: str) -> Opinion:
        """What the filters think of no document. Raises PluginError (L3-DAT-289) where that is too much for them:
        no document is at fault then."""
        try:
            return self._asked(batch.take(np.zeros(len(batch), bool)))
        except Exceeded as again:
            where = f"filters under watch ({self._foreign})"
            raise ALWAYS_OUT(where, reason=str(again), before=why or str(again)) from again

    def close(self) -> None:
        """Ends the process."""
        if self._process is not None:
            self._process.kill()
            for stream in (self._process.stdin, self._process.stdout):
                if stream is not None:
                    stream.close()
            self._process.wait()
            self._process = None

    def __del__(self) -> None:
        self.close()

    def _asked(self, batch: DocumentBatch) -> Opinion:
        process = self._process or self.start()._process
        assert process is not None
        assert process.stdin is not None
        asking = ""
        seconds = self.bounds.seconds * (1 + len(batch) / OF_A_BATCH)
        try:
            clock = _Clock(process.pid, seconds, self._ending)
            write_frame(process.stdin, records_as_bytes(batch.records))
            while (reply := self._read(process, clock)) and reply.startswith(ASKING):
                asking = f"{reply.removeprefix(ASKING).decode()}."
        except OSError:
            reply = b""
        if reply is None or not reply:
            self.close()
            raise Exceeded(asking + ("too_slow" if reply is None else "crashed"))
        found = unpacked(reply)
        facts = from_json(found["facts"])
        if facts["error"] is not None:
            self.close()
            if facts["memory"]:
                raise Exceeded(f"{asking}too_much_memory")
            raise FAILED_THERE("data.filters", error=facts["error"])
        return opinion_of(found, facts)

    def start(self) -> WatchedFilters:
        """Begins the process, and waits until it has made the filters. Raises PluginError."""
        path = os.pathsep.join(place for place in sys.path if place)
        process = subprocess.Popen(
            [sys.executable, "-m", "llama3.data.watched"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": path},
        )
        assert process.stdin is not None
        self._process = process
        reply: bytes | None = b""
        making, error = "", "it ended"
        try:
            write_frame(process.stdin, packed({"order": as_json(self._order)}))
            clock = _Clock(process.pid, START_SECONDS, self._ending)
            while reply := self._read(process, clock):
                said = json.loads(reply)
                if "ready" in said:
                    return self
                making, error = said.get("making", making), said.get("error", error)
        except OSError:
            reply = b""
        self.close()
        where = f"filter {making!r}" if making else "data.filters"
        raise NOT_MADE(where, seconds=f"{START_SECONDS:g}") if reply is None else NOT_STARTED(where, error=error)

    def _read(self, process: subprocess.Popen[bytes], clock: _Clock) -> bytes | None:
        """A frame; None where it is not there in time, empty where the process has ended."""
        assert process.stdout is not None
        head = _exactly(process.stdout, 8, clock)
        return _exactly(process.stdout, int.from_bytes(head, "big"), clock) if head else head


class _Clock:
    """Time of a process from now on: its processor time, and the time by the clock without what its threads waited for
    a processor. So a busy machine changes no verdict, and what sleeps is not waited for."""

    def __init__(self, pid: int, seconds: float, ending: threading.Event) -> None:
        self._ending = ending
        self._process, self._seconds = Path(f"/proc/{pid}"), seconds
        self._begun, self._used_before, self._queued_before = time.monotonic(), self._used(), self._queued()

    def _used(self) -> float:
        """Processor time of all threads; 0 where it is not told."""
        try:
            fields = (self._process / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            return 0.0
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def _queued(self) -> dict[str, float]:
        """How long each thread waited for a processor; nothing where it is not told."""
        queued: dict[str, float] = {}
        with suppress(OSError):
            for thread in (self._process / "task").iterdir():
                with suppress(OSError):
                    queued[thread.name] = int((thread / "schedstat").read_text().split()[1]) / 1e9
        return queued

    def is_over(self) -> bool:
        """Whether the time is up. Raises CancelledError where nobody waits any longer."""
        if self._ending.is_set():
            raise CancelledError
        elapsed, queued = time.monotonic() - self._begun, self._queued()
        if self._used() - self._used_before > self._seconds or elapsed > BLIND * self._seconds:
            return True
        waited = max((seconds - self._queued_before.get(name, 0.0) for name, seconds in queued.items()), default=None)
        return waited is not None and elapsed - waited > WAITING * self._seconds


def _exactly(stream: IO[bytes], count: int, clock: _Clock) -> bytes | None:
    pieces: list[bytes] = []
    while count:
        if not select.select([stream], [], [], LOOK_SECONDS)[0]:
            if clock.is_over():
                return None
            continue
        piece = os.read(stream.fileno(), min(count, 1 << 20))
        if not piece:
            return b""
        pieces.append(piece)
        count -= len(piece)
    return b"".join(pieces)


# -- messages --------------------------------------------------------------------------------------


def write_frame(stream: IO[bytes], message: bytes) -> None:
    """The length in 8 bytes, then the message."""
    stream.write(len(message).to_bytes(8, "big"))
    stream.write(message)
    stream.flush()


def records_as_bytes(records: pa.RecordBatch) -> bytes:
    """In Arrow's format for streams."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, records.schema) as writer:
        writer.write_batch(records)
    return bytes(sink.getvalue())


def message_of(found: Opinion) -> dict[str, np.ndarray]:
    """An opinion as arrays."""
    arrays: dict[str, np.ndarray] = {f"column {name}": values for name, values in found.columns.items()}
    for name, judgement in found.judgements.items():
        arrays |= {f"score {name}": judgement.score_D, f"keep {name}": judgement.keep_D}
    for name, edits in found.edits.items():
        places = [np.asarray(places, np.int64) for places in (edits.document_E, edits.start_E, edits.end_E)]
        arrays[f"edits {name}"] = np.stack(places)
    facts: dict[str, Any] = {
        "error": None,
        "columns": list(found.columns),
        "reasons": {name: list(judgement.reason_D) for name, judgement in found.judgements.items()},
        "edits": {name: [list(edits.kind_E), list(edits.text_E)] for name, edits in found.edits.items()},
    }
    return arrays | {"facts": as_json(facts), "kept": found.keep_D}


def opinion_of(arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> Opinion:
    """The opinion in a message."""
    judgements = {
        name: Judgement(arrays[f"score {name}"], arrays[f"keep {name}"], reasons)
        for name, reasons in facts["reasons"].items()
    }
    edits = {}
    for name, (kinds, texts) in facts["edits"].items():
        document_E, start_E, end_E = arrays[f"edits {name}"]
        edits[name] = Edits(document_E, start_E, end_E, kinds, texts)
    columns = {name: arrays[f"column {name}"] for name in facts["columns"]}
    return Opinion(columns, judgements, edits, arrays["kept"])
