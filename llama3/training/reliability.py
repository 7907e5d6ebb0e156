"""What a training loop does beside training so that it survives: the ledger, the watchdog, the comparison of weights.

The loop calls it at a few places; by default nothing is written, watched or compared.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from torch import nn

from llama3.config.reliability import ReliabilitySection
from llama3.errors import LlamaError
from llama3.training.causes import cause_of
from llama3.training.flight import FLIGHT
from llama3.training.integrity import Integrity
from llama3.training.leaving_out import asked_of, order_of
from llama3.training.ledger import FOLDER, RunLedger, rows_of_rank
from llama3.training.parallel import ParallelContext
from llama3.training.recovery import GoBack
from llama3.training.watchdog import Watchdog

if TYPE_CHECKING:
    from llama3.artifacts import StageOutput
    from llama3.model.batch import Batch

RANK_LOST = LlamaError.declare(
    "L3-TRN-054",
    "another rank is gone: it ended, or answers no more",
    why="{error}",
    fix="see what that rank said, and llama3 ledger; the same command goes on from the last checkpoint "
    "(torchrun --max-restarts gives it by itself)",
)

OFF = ReliabilitySection(hang_seconds=0, hash_every=0)


@runtime_checkable
class NamesDocuments(Protocol):
    """A dataset that can say what a step reads."""

    def documents(self, step: int) -> list[str]:
        """Names of the documents of a step, over all ranks."""
        ...


class Reliability:
    """Of one stage on one rank. `run`: the run directory, where records go; None: a stage outside of a run."""

    def __init__(
        self, options: ReliabilitySection = OFF, run: Path | None = None, artifact: str = "", rank: int = 0
    ) -> None:
        self._options, self._run = options, run
        folder = None if run is None else run / FOLDER
        self.ledger = RunLedger(folder, artifact, rank)
        self._watchdog = Watchdog(options.hang_seconds, folder, rank, self._hung)
        self._rank, self._groups = rank, 0

    @classmethod
    def of(cls, options: ReliabilitySection, out: StageOutput, context: ParallelContext) -> Reliability:
        """Of the stage that writes into `out`."""
        return cls(options, out.logs, out.scratch.name, context.rank)

    def integrity(self, module: nn.Module, optimizer: torch.optim.Optimizer, context: ParallelContext) -> Integrity:
        """The comparison of what `module` and `optimizer` hold."""
        return Integrity(self._options.hash_every, module, optimizer, context)

    @contextmanager
    def attempt(self, context: ParallelContext, total: int) -> Iterator[None]:
        """One process' try of a stage of `total` steps: how it began and how it ended is written down."""
        held = self._watchdog.before()
        if held and not any(row["kind"] == "hang" for row in self._last_rows()):
            self.ledger.write("hang", cause="hang", what=f"no Python thread could run; {held.splitlines()[0]}")
        number = 1 + sum(row["kind"] == "attempt" for row in self._rows()) if context.is_main else 0
        self._watchdog.attempt, self._watchdog.world = context.gather(number, "world")[0], context.dims.world
        where = {"total": total, "world": context.dims.world, "number": self._watchdog.attempt}
        self.ledger.write("attempt", **where, **self.ledger.reached())
        try:
            with self._watchdog:
                yield
        except BaseException as error:
            cause = cause_of(error)
            self.ledger.write("end", cause=cause, what=f"{type(error).__name__}: {error}"[:2000])
            self.ledger.sync()
            if cause == "lost a rank" and not isinstance(error, LlamaError):
                raise RANK_LOST(f"rank {context.rank}", error=_short(error)) from error
            raise
        self.ledger.write("done")
        self.ledger.sync()

    def _rows(self) -> list[dict[str, Any]]:
        return [] if self._run is None else list(rows_of_rank(self._run, self._rank))

    def _last_rows(self) -> list[dict[str, Any]]:
        """Those since the last attempt began."""
        rows = self._rows()
        begun = [index for index, row in enumerate(rows) if row["kind"] == "attempt"]
        return rows[begun[-1] :] if begun else rows

    @contextmanager
    def watch(self, section: str) -> Iterator[None]:
        """A part of the loop that must end in time: "restore", "step", "save"."""
        with self._watchdog.section(section):
            yield

    def stepped(self, step: int, data: int, content: int, began: tuple[float, float]) -> None:
        """Step `step` is finished, which `began` when `now` said so."""
        self._watchdog.step = step
        seconds, waited = (after - before for after, before in zip(self.now(), began, strict=True))
        self.ledger.stepped(step, data, content, seconds, waited)

    def now(self) -> tuple[float, float]:
        """Seconds on the clock, and seconds waited for other ranks."""
        return time.monotonic(), FLIGHT.waited

    def going_back(self, reached: int, order: GoBack) -> None:
        """Step `reached` is as far as it came; a checkpoint is loaded next."""
        self.ledger.write("back", step=reached, cause=order.cause, what=str(order.error))

    def resumed(self, step: int, seconds: float) -> None:
        self._watchdog.step = step
        self.ledger.write("resumed", step=step, seconds=round(seconds, 6))

    def met(self, step: int, groups: int) -> None:
        """So many replica groups take part in step `step`."""
        if groups != self._groups:
            self._groups = groups
            self.ledger.write("groups", step=step, count=groups)

    def healed(self, before: int, step: int) -> None:
        """The state of another replica group was taken over, which had finished `step`; this one had `before`."""
        self._watchdog.step = step
        if step != before:
            self.ledger.write("healed", first=before + 1, last=step)

    def saving(self) -> None:
        """Before a checkpoint: no step may be in it that is not in the ledger."""
        self.ledger.sync()

    def saved(self, step: int, seconds: float) -> None:
        self.ledger.write("saved", step=step, seconds=round(seconds, 6))

    def unlearnt(self, kind: str, step: int, data: int, why: str, dataset: object) -> None:
        """Data of a step is not learnt from: its update was "skipped", or it is "left_out" from `step` on."""
        if self._rank == 0 and self.ledger.path is not None:
            documents = dataset.documents(data) if isinstance(dataset, NamesDocuments) else []
            self.ledger.write(kind, step=step, data=data, why=why, documents=documents)

    def asked(self) -> dict[int, str]:
        """Data that this stage is to leave out, and why (llama3.training.leaving_out)."""
        return {} if self._run is None else asked_of(self._run, self.ledger.artifact)

    def order(self, context: ParallelContext, left_out: Sequence[int]) -> GoBack | None:
        """Where data is to be left out that is not yet: the order to do it, on all ranks the same."""
        return order_of(dict(context.gather(list(self.asked().items()), "world")[0]), left_out)

    def _hung(self, what: str) -> None:
        self.ledger.write("hang", cause="hang", what=what)


def _short(error: BaseException) -> str:
    """The first line of what torch says, without where in its source that is written."""
    first = str(error).splitlines()[0] if str(error) else type(error).__name__
    return re.sub(r"^\[[^]]*\]\s*", "", first)


def content_of(batch: Batch) -> int:
    """32 bits that the tokens of a packed batch make. Those of its parts add up to those of the whole (modulo 2^32),
    however a step is shared among ranks and in whatever order."""
    tokens_T = batch.tokens_T.to(torch.int64)
    place_T = torch.arange(len(tokens_T)) - batch.starts_S1[:-1].long()[batch.segment_T]
    mixed_T = (tokens_T + 1) * 0x9E3779B1 + (place_T + 1) * 0x85EBCA77
    mixed_T = (mixed_T ^ (mixed_T >> 15)) * 0x2C1B3C6D
    return int(((mixed_T ^ (mixed_T >> 13)) & 0xFFFFFFFF).sum()) % (1 << 32)
