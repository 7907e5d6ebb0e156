"""What the ledger of a run says: effective training time, interruptions by cause, stragglers by rank. Torch-free.

Effective training time is useful time over elapsed time (paper 3.3.4). Useful are the seconds of steps that stand in
the weights in the end: a step that was lost with a fault and done again counts once. Elapsed is everything between the
first attempt of a stage and its end, the time between processes included. Of each interruption:

    lost steps   finished, not in the checkpoint that training went on from
    detect       from the last sign of progress until somebody noticed
    restart      until a process began the stage again
    load         until the checkpoint was loaded
    catch up     until the lost steps were done again
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from llama3.training.causes import CAUSES, Cause
from llama3.training.flight import behind, read_dumps
from llama3.training.ledger import FOLDER, between, data_step, ranks_of, rows_of_rank

Row = Mapping[str, Any]


@dataclass
class Interruption:
    """One interruption of a stage; durations in seconds."""

    cause: str
    what: str
    step: int
    """The last finished one."""
    lost_steps: int = 0
    detect: float = 0.0
    restart: float = 0.0
    load: float = 0.0
    catch_up: float = 0.0

    @property
    def about(self) -> Cause:
        """The cause, as the table of causes has it."""
        return CAUSES.get(self.cause, CAUSES["no witness"])


@dataclass
class Account:
    """What the ledger says of one stage."""

    artifact: str
    total: int = 0
    """Steps that it is to have."""
    world: int = 1
    done: bool = False
    elapsed: float = 0.0
    saving: float = 0.0
    seconds: dict[int, float] = field(default_factory=dict)
    """Of each step that stands, and `content` and `data` of it."""
    content: dict[int, str] = field(default_factory=dict)
    data: dict[int, int] = field(default_factory=dict)
    left_out: dict[int, list[str]] = field(default_factory=dict)
    """Data that is passed over, with its documents."""
    skipped: dict[int, str] = field(default_factory=dict)
    """Steps whose update was skipped, and why."""
    healed: set[int] = field(default_factory=set)
    """Steps that other replica groups did while this one was away."""
    repeated: int = 0
    """Steps that were done again after a fault, and `differing`: those that then had other samples."""
    differing: list[int] = field(default_factory=list)
    interruptions: list[Interruption] = field(default_factory=list)

    @property
    def useful(self) -> float:
        """Seconds of the steps that stand."""
        return sum(self.seconds.values())

    @property
    def share(self) -> float:
        """Effective training time, 0 to 1."""
        return self.useful / self.elapsed if self.elapsed else 0.0

    def problems(self) -> list[str]:
        """Why the samples are not the planned ones, each once and in order. Nothing: they are."""
        steps, left_out = sorted(self.data), sorted(self.left_out)
        all_steps = sorted({*steps, *self.healed})
        found = []
        if all_steps != list(range(1, len(all_steps) + 1)):
            found.append("steps are missing from the ledger")
        moved = [step for step in steps if self.data[step] != data_step(step - 1, left_out)]
        if moved and not found:
            found.append(f"step {moved[0]} read the data of {self.data[moved[0]]}")
        if self.differing:
            found.append(f"step {self.differing[0]} had other samples when it was done again")
        return found


class _Reader:
    """Goes through the rows of one stage."""

    def __init__(self, artifact: str) -> None:
        self.account = Account(artifact)
        self._known: dict[int, tuple[int, str]] = {}
        """Data and content of every step that was ever finished."""
        self._first: Row | None = None
        self._last_sign: Row | None = None
        self._noticed: Row | None = None
        self._begun: Row | None = None
        self._open: Interruption | None = None
        self._catch_until = self._unwritten = 0
        self._running = False

    @property
    def reached(self) -> int:
        return max(self.account.seconds, default=0)

    def read(self, row: Row) -> None:
        reader = getattr(self, f"_{row['kind']}", None)
        if reader is not None:
            reader(row)

    def _attempt(self, row: Row) -> None:
        account = self.account
        account.total, account.world = int(row.get("total", 0)), int(row.get("world", 1))
        if self._first is None:
            self._first = row
        elif self._running:
            self._interrupted("no witness", "the process ended without a word", row)
        if self._open is not None and self._noticed is not None:
            self._open.restart += between(self._noticed, row)
            self._reached_more(self._open, self._noticed, row)
        self._begun = self._last_sign = row
        self._running, account.done = True, False
        self._count(row)

    def _reached_more(self, hit: Interruption, noticed: Row, row: Row) -> None:
        """The process that was lost had finished more steps than it had written down."""
        step, when = row.get("reached"), {"clock": row.get("reached_clock", 0.0), "boot": row.get("reached_boot")}
        if isinstance(step, int) and step > self.reached:
            hit.step = self._unwritten = step
            if when["boot"] == noticed.get("boot"):
                hit.detect = between(when, noticed)

    def _interrupted(self, cause: str, what: str, row: Row) -> None:
        """Something was noticed. What follows of the same interruption only tells more of its cause."""
        if self._running:
            self._running = False
            self._open = Interruption(cause, what, self.reached)
            self._open.detect = between(self._last_sign, row) if self._last_sign is not None else 0.0
            self.account.interruptions.append(self._open)
            self._noticed = row
        elif self._open is not None and CAUSES[cause].rank > self._open.about.rank:
            self._open.cause, self._open.what = cause, what
        self._count(row)

    def _hang(self, row: Row) -> None:
        self._interrupted("hang", str(row.get("what", "")), row)

    def _end(self, row: Row) -> None:
        cause = str(row.get("cause"))
        self._interrupted(cause if cause in CAUSES else "failed", str(row.get("what", "")), row)

    _exit = _end

    def _back(self, row: Row) -> None:
        self._end(row)
        self._running, self._begun = True, row

    def _resumed(self, row: Row) -> None:
        step, reached = int(row["step"]), self.reached
        lost = [finished for finished in self.account.seconds if finished > step]
        for finished in lost:
            for kept in (self.account.seconds, self.account.content, self.account.data, self.account.skipped):
                kept.pop(finished, None)
        if self._open is not None:
            self._catch_until = max(reached, self._unwritten)
            self._open.lost_steps = max(len(lost), self._catch_until - step)
            self._open.load = between(self._begun, row) if self._begun is not None else 0.0
        account = self.account
        account.healed = {done for done in account.healed if done <= step}
        self._unwritten = 0
        self._sign(row)

    def _healed(self, row: Row) -> None:
        last = int(row["last"])
        self.account.healed |= set(range(int(row["first"]), last + 1)) - self.account.data.keys()
        if self._open is not None:  # what this process had lost, others have
            self._open.lost_steps = max(0, self._open.step - last)
            self._catch_until = min(self._catch_until, last)
        self._sign(row)

    def _steps(self, row: Row) -> None:
        account, first, last = self.account, int(row["first"]), int(row["last"])
        content = str(row.get("content", "")).split()
        each = float(row["seconds"]) / (last - first + 1)
        for number, step in enumerate(range(first, last + 1)):
            data, said = int(row["data"]) + number, content[number] if number < len(content) else ""
            known = self._known.get(step)
            if known is not None or step <= self._catch_until:
                account.repeated += 1
            if known is not None and known[0] == data and known[1] != said:
                account.differing.append(step)
            self._known[step] = (data, said)
            account.seconds[step], account.data[step], account.content[step] = each, data, said
            if self._open is not None and step <= self._catch_until:
                self._open.catch_up += each
        if self._open is not None and last > self._catch_until:
            self._open = None
        self._sign(row)

    def _saved(self, row: Row) -> None:
        self.account.saving += float(row["seconds"])
        self._sign(row)

    def _left_out(self, row: Row) -> None:
        self.account.left_out[int(row["data"])] = [str(name) for name in row.get("documents", [])]

    def _skipped(self, row: Row) -> None:
        self.account.skipped[int(row["step"])] = str(row.get("why", ""))

    def _done(self, row: Row) -> None:
        self._running, self.account.done, self._open = False, True, None
        self._count(row)

    def _sign(self, row: Row) -> None:
        self._last_sign = row
        self._count(row)

    def _count(self, row: Row) -> None:
        if self._first is not None:
            self.account.elapsed = between(self._first, row)


def accounts(rows: Iterable[Row]) -> list[Account]:
    """An account for each stage in the rows of rank 0 and its supervisor (as `witnessed`, or alone), in the order in
    which they began.

    Rows of no stage (a process that a supervisor saw end) belong to the stage that was running, if one was.
    """
    readers: dict[str, _Reader] = {}
    current: _Reader | None = None
    for row in rows:
        name = str(row.get("artifact") or "")
        if name:
            current = readers.setdefault(name, _Reader(name))
        if current is not None and (name or not current.account.done):
            current.read(row)
    return [reader.account for reader in readers.values()]


@dataclass(frozen=True)
class RankTime:
    """How long a rank worked and waited for others in its steps, in seconds. The one that waits least is waited for."""

    rank: int
    own: float
    waited: float


def rank_times(run: Path) -> list[RankTime]:
    """All ranks of a run, the slowest first: those that the others wait for. Told by each rank itself, in its own file;
    nothing is sent for it."""
    times = []
    for rank in ranks_of(run):
        seconds: dict[str, float] = defaultdict(float)
        for row in rows_of_rank(run, rank):
            if row["kind"] == "steps":
                seconds["all"] += float(row["seconds"])
                seconds["waited"] += float(row["waited"])
        times.append(RankTime(rank, round(seconds["all"] - seconds["waited"], 3), round(seconds["waited"], 3)))
    return sorted(times, key=lambda time: (-time.own, time.waited, time.rank))


def witnessed(run: Path) -> list[Row]:
    """The rows of rank 0 and its supervisor, and among them, by the clock, the hangs that other ranks have noticed: of
    one of rank 0 nobody else knows when it was."""
    rows: list[Row] = list(rows_of_rank(run))
    for rank in ranks_of(run)[1:]:
        for row in rows_of_rank(run, rank):
            before = [at for at, other in enumerate(rows) if _is_before(other, row)] if row["kind"] == "hang" else []
            if before:
                rows.insert(before[-1] + 1, row)
    return rows


def _is_before(earlier: Row, later: Row) -> bool:
    return earlier.get("boot") == later.get("boot") and bool(earlier["clock"] <= later["clock"])


def told_by_other_ranks(run: Path) -> list[str]:
    """What befell ranks but the first, a line each."""
    lines = []
    for rank in ranks_of(run)[1:]:
        for row in rows_of_rank(run, rank):
            if row["kind"] in ("hang", "end") and row.get("cause") not in ("stopped", "lost a rank"):
                lines.append(f"rank {rank}: {row.get('cause')}: {row.get('what')}")
    return lines


def summary(run: Path) -> dict[str, Any]:
    """Everything that `llama3 ledger` tells of a run directory, as JSON values."""
    stages = accounts(witnessed(run))
    elapsed, useful = sum(stage.elapsed for stage in stages), sum(stage.useful for stage in stages)
    hits = [hit for stage in stages for hit in stage.interruptions]
    world = max((stage.world for stage in stages), default=1)
    return {
        "effective_training_time": useful / elapsed if elapsed else None,
        "useful_seconds": useful,
        "elapsed_seconds": elapsed,
        "saving_seconds": sum(stage.saving for stage in stages),
        "stages": [_stage(stage) for stage in stages],
        "interruptions": [
            {**asdict(hit), "category": hit.about.category, "planned": hit.about.planned} for hit in hits
        ],
        "causes": causes(hits),
        "ranks": [asdict(time) for time in rank_times(run)] if world > 1 else [],
        "other_ranks": told_by_other_ranks(run),
        "behind": behind(read_dumps(run / FOLDER), world),
    }


def causes(hits: Sequence[Interruption]) -> list[dict[str, Any]]:
    """A row for each category and cause, the most frequent first: the paper's table, with what each cost."""
    rows = []
    names = sorted({hit.cause for hit in hits})
    for name in names:
        of = [hit for hit in hits if hit.cause == name]
        costs = {part: sum(getattr(hit, part) for hit in of) / len(of) for part in
                 ("lost_steps", "detect", "restart", "load", "catch_up")}  # fmt: skip
        about = of[0].about
        rows.append({"category": about.category, "cause": name, "planned": about.planned, "count": len(of),
                     "share": len(of) / len(hits), **costs})  # fmt: skip
    return sorted(rows, key=lambda row: (-row["count"], row["cause"]))


def _stage(stage: Account) -> dict[str, Any]:
    return {
        "artifact": stage.artifact,
        "steps": stage.total,
        "finished": max({*stage.seconds, *stage.healed}, default=0),
        "done": stage.done,
        "world": stage.world,
        "effective_training_time": stage.share,
        "useful_seconds": stage.useful,
        "elapsed_seconds": stage.elapsed,
        "interruptions": len(stage.interruptions),
        "repeated_steps": stage.repeated,
        "healed_steps": len(stage.healed),
        "skipped": {str(step): why for step, why in sorted(stage.skipped.items())},
        "left_out": {str(data): documents for data, documents in sorted(stage.left_out.items())},
        "problems": stage.problems(),
    }
