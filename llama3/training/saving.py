"""Checkpoints written by all ranks at once, behind training.

    training stops: every rank copies the parts that it writes into CPU memory
      -> training goes on; a thread of every rank writes its files, forces them to disk and hashes them
      -> rank 0, told of all files, writes index, state and manifest, renames, and writes COMMIT last

One save at a time: the next waits for the one before. A save that fails costs a warning and the next one tries again;
training stops at the second failure in a row, and where it was the last save of a run. The checkpoints that were there
stay. What became of a save, all ranks learn between the same two steps.
"""

from __future__ import annotations

import logging
import shutil
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
import torch.distributed as dist
from torch import Tensor

from llama3.artifacts.files import canonical_json
from llama3.errors import CheckpointError, Problem
from llama3.full_disk import is_disk_full
from llama3.model.shards import local
from llama3.training import messages
from llama3.training.agreement import problems_of_all
from llama3.training.checkpoint import CheckpointStore, Share, write_parts
from llama3.training.parallel import ParallelContext
from llama3.training.parts import Groups, Row, held, merged, share_out
from llama3.training.ranks import PATIENCE

NOT_WRITTEN = CheckpointError.declare(
    "L3-TRN-013",
    "checkpoint was not written",
    why="{error}",
    fix="check the disk and its permissions; several machines need a run.dir that all of them see",
)
DISK_FULL = CheckpointError.declare(
    "L3-TRN-016",
    "checkpoint was not written",
    why="{error}",
    fix="free disk space and run the same command again",
)

log = logging.getLogger(__name__)

MAX_FAILURES = 2
"""Saves in a row that fail before training stops: what it learns from then on could be lost."""


class CheckpointSaver:
    """Saves into a store. Every rank must call its methods together; `saved` is told of each checkpoint, on rank 0,
    between two steps."""

    def __init__(
        self, store: CheckpointStore, context: ParallelContext, saved: Callable[[int, Path], None] = lambda *_: None
    ) -> None:
        self.store, self._context, self._saved = store, context, saved
        self._held: list[Row] = []
        self._mine: list[Row] = []
        """Of the parts that this rank holds, those that it writes."""
        self._copies = _Copies()
        self._group = _group() if context.dims.world > 1 else None
        self._writing: _Writing | None = None
        self._failures = 0

    def save(self, step: int, groups: Groups, state: Mapping[str, Any], *, last: bool = False) -> None:
        """Begin to save, after the save before has ended; the tensors may change when it returns. The `last` one is
        waited for, and must succeed.

        Raises CheckpointError where training must stop (see above), ValueError for a state that JSON cannot hold.
        """
        self.settle(wait=True)
        content, rows = canonical_json(state), held(groups)
        begun = self._begin(step, content) if self._context.is_main else {}
        told = self._context.gather({"other parts": rows != self._held, **begun}, "world")
        if any(report["other parts"] for report in told):
            self._share_out(rows)
        if problems := [Problem.of_row(row) for row in told[0]["problems"]]:
            self._failed(problems, last)
        elif not (name := told[0]["directory"]):
            self._done(step)
        else:
            copies, directory = self._copies.take(groups, self._mine), self.store.directory / name
            self._writing = _Writing(
                self.store, self._context, self._group, step, directory, copies, self._mine, content
            )
            self._writing.start()
            if last:
                self.settle(wait=True, last=True)

    def settle(self, *, wait: bool = False, last: bool = False) -> None:
        """Learn what became of the save that was begun, where it has ended or is waited for. Raises CheckpointError
        where training must stop."""
        writing = self._writing
        if writing is None:
            return
        if not wait and self._context.reduce([writing.is_alive()], "max", "world") != [0]:
            return
        writing.join()
        self._writing = None
        if problems := problems_of_all(writing.problems, self._context):
            self._failed(problems, last)
        else:
            self._done(writing.step)

    def _begin(self, step: int, state: bytes) -> dict[str, Any]:
        """The name of the directory that was made for a checkpoint, empty where that is there already; problems."""
        try:
            made = self.store.begin(step, state)
        except OSError as error:
            return {"problems": [asdict(_failure(self.store, step, error))]}
        return {"directory": "" if made is None else made.name, "problems": []}

    def _share_out(self, rows: list[Row]) -> None:
        """Agree on which rank writes what, where one of them holds other parts than last time."""
        everybody = [[_row(row) for row in told] for told in self._context.gather(rows, "world")]
        chosen = share_out(everybody)[self._context.rank]
        self._held, self._mine = rows, [row for row in rows if row[:2] in chosen]

    def _done(self, step: int) -> None:
        self._failures = 0
        if self._context.is_main:
            self._saved(step, self.store.directory / f"step-{step}")

    def _failed(self, problems: list[Problem], last: bool) -> None:
        self._failures += 1
        error = CheckpointError.of(problems)
        if last or self._failures >= MAX_FAILURES:
            raise error
        log.warning("training goes on, and the next checkpoint is tried as usual: %s", error)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait for the save that was begun, also where training failed on this rank alone: the threads of the others
        still answer, though their loops may not."""
        if kind is None:
            self.settle(wait=True, last=True)
        elif self._writing is not None:
            self._writing.join()
            for problem in self._writing.problems:
                log.warning("%s", problem)


class _Copies:
    """Copies of tensors in CPU memory, which is used again by the next save."""

    def __init__(self) -> None:
        self._room: dict[tuple[str, str], Tensor] = {}

    def take(self, groups: Groups, rows: list[Row]) -> dict[str, dict[str, Tensor]]:
        """The parts of `rows` as they are now."""
        copies: dict[str, dict[str, Tensor]] = {group: {} for group in groups}
        before, self._room = self._room, {}
        for group, name, *_ in rows:
            part = local(groups[group][name]).detach()
            room = before.get((group, name))
            if room is None or (room.shape, room.dtype) != (part.shape, part.dtype):
                room = torch.empty(part.shape, dtype=part.dtype, pin_memory=part.is_cuda)
            copies[group][name] = self._room[group, name] = room.copy_(part, non_blocking=True)
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        return copies


class _Writing(threading.Thread):
    """One save, on this rank. It speaks with those of the other ranks through a process group of their own, because
    training uses the others meanwhile."""

    def __init__(
        self,
        store: CheckpointStore,
        context: ParallelContext,
        group: dist.ProcessGroup | None,
        step: int,
        directory: Path,
        copies: Groups,
        rows: list[Row],
        state: bytes,
    ) -> None:
        super().__init__(name=f"checkpoint-{step}")
        self.step = step
        self.problems: list[Problem] = []
        """What went wrong, once it has ended."""
        self._store, self._context, self._group, self._directory = store, context, group, directory
        self._copies, self._rows, self._state = copies, rows, state

    def run(self) -> None:
        try:
            told = self._tell(self._write())
            self.problems = [Problem.of_row(row) for report in told for row in report["problems"]]
            if self._context.is_main and not self.problems:
                self._commit(told)
        except Exception as error:  # nobody catches what leaves a thread
            self.problems = [_failure(self._store, self.step, error)]
        if self._context.is_main and self.problems:
            shutil.rmtree(self._directory, ignore_errors=True)

    def _write(self) -> dict[str, Any]:
        """Write this rank's files, and see to its share of the older checkpoints."""
        try:
            files, index = write_parts(self._directory, self._context.rank, self._copies, self._rows)
            damaged = self._store.damaged(Share(self._context.rank, self._context.dims.world))
            return {"files": files, "index": index, "damaged": damaged, "problems": []}
        except Exception as error:  # the others wait for this report
            return {"problems": [asdict(_failure(self._store, self.step, error))]}

    def _tell(self, report: dict[str, Any]) -> list[dict[str, Any]]:
        return [report] if self._group is None else messages.gather(report, self._group)

    def _commit(self, told: list[dict[str, Any]]) -> None:
        files = [entry for report in told for entry in report["files"]]
        index = merged(report["index"] for report in told)
        self._store.commit(self.step, self._directory, files, index, self._state)
        try:
            self._store.purge(self.step, (step for report in told for step in report["damaged"]))
        except OSError as error:
            log.warning("an old checkpoint could not be removed: %s", error)


@cache
def _group() -> dist.ProcessGroup:
    """Of the writing threads of all ranks. Made once, because groups are never given back."""
    group = dist.new_group(backend="gloo", timeout=PATIENCE)
    assert isinstance(group, dist.ProcessGroup)
    return group


def _failure(store: CheckpointStore, step: int, error: Exception) -> Problem:
    if isinstance(error, CheckpointError):
        return error.problems[0]
    failed = DISK_FULL if is_disk_full(error) else NOT_WRITTEN
    return failed.problem(store.directory / f"step-{step}", error=error)


def _row(told: list[Any]) -> Row:
    """A row that came as JSON."""
    group, name, *shapes, size = told
    whole, offsets, shape = map(tuple, shapes)
    return group, name, whole, offsets, shape, size
