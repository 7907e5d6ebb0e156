"""The process in which filters of others judge documents (llama3.data.watching starts it)."""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO

import pyarrow as pa

from llama3.config.slot_types import Slot
from llama3.data.arrays import as_json, from_json, packed, read_arrays, unpacked
from llama3.data.documents import DocumentBatch, Filter
from llama3.data.judging import asked_of, build_filters, surveying
from llama3.data.opinions import opinion
from llama3.data.watching import ASKING, LOOK_SECONDS, message_of, write_frame
from llama3.errors import LlamaError
from llama3.plugins.targets import describe


def main() -> None:
    """Answers batches until there are no more. What filters print goes to standard error."""
    # Ctrl-C in a terminal reaches this process too: whoever asks is told and ends it. So what filters raise is theirs.
    signal.signal(signal.SIGINT, lambda number, frame: None)
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    order = from_json(unpacked(_frame(sys.stdin.buffer))["order"])
    filters: dict[str, Filter] = {}
    try:
        for slot in order["slots"]:
            write_frame(replies, json.dumps({"making": slot["name"]}).encode())
            filters |= build_filters([Slot.model_validate(slot)])
        if order["surveys"] is not None:
            for name, filter in surveying(filters).items():
                asked_of(name, filter, "join", read_arrays(Path(order["surveys"][name])))
    except BaseException as error:  # of anybody's filter
        write_frame(replies, json.dumps({"error": _told(error)}).encode())
        return
    write_frame(replies, json.dumps({"ready": True}).encode())
    while message := _frame(sys.stdin.buffer):
        (records,) = pa.ipc.open_stream(message)
        write_frame(replies, _reply(filters, DocumentBatch(records), order["memory"], replies))


def _reply(filters: Mapping[str, Filter], batch: DocumentBatch, memory: int, replies: IO[bytes]) -> bytes:
    """The opinion of a batch. Before it each filter's name is told when that is asked."""
    _allow(memory)
    try:
        return packed(message_of(opinion(filters, batch, lambda name: write_frame(replies, ASKING + name.encode()))))
    except BaseException as error:  # of anybody's filter
        lacks = isinstance(error, MemoryError) or isinstance(error.__cause__, MemoryError | pa.ArrowMemoryError)
        return packed({"facts": as_json({"error": _told(error), "memory": lacks})})


def _told(error: BaseException) -> str:
    return str(error) if isinstance(error, LlamaError) else describe(error)


def _allow(memory: int) -> None:
    """So many bytes more than this process has now."""
    status = Path("/proc/self/status")
    if status.exists():
        held = next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmData"))
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_DATA, (held * 1024 + memory, hard))


def _end_with(parent: int) -> None:
    """A filter that never returns would outlive a run that was killed."""
    while os.getppid() == parent:
        time.sleep(LOOK_SECONDS)
    os._exit(1)


def _frame(stream: IO[bytes]) -> bytes:
    """The next message; empty where there is none."""
    return stream.read(int.from_bytes(stream.read(8), "big"))


if __name__ == "__main__":
    main()
