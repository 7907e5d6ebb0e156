"""Rows of tokens for training, as a pure function of (plan, phases, seed, row).

Letters: N rows, T tokens per row, D document segments of all N rows.
"""

from __future__ import annotations

import math
import os
import resource
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from typing import Any, NamedTuple

import numpy as np

from llama3 import _core
from llama3.artifacts.files import canonical_json
from llama3.data.plan import TokenPlan
from llama3.errors import DataError

DAMAGED = DataError.declare(
    "L3-DAT-203",
    "the shard cannot be read",
    why="{error}",
    fix="restore the file, or remove the shards artifact and run the same command again: it is rebuilt",
)
NO_SUCH_ROWS = DataError.declare("L3-DAT-204", "the shards cannot give these rows", why="{error}")
OTHER_SHARD = DataError.declare(
    "L3-DAT-205", "the shard is sound but not the one of this plan", fix="restore the plan's own"
)
OTHER_STREAM = DataError.declare(
    "L3-DAT-206",
    "the state does not fit this token stream",
    why="{differences}",
    fix="resume with the shards, mix, seed and row lengths it was saved with, or start anew",
)

NOT_A_ROW = DataError.declare(
    "L3-DAT-299",
    "no row is {given!r} tokens long",
    why="{why}",
    fix="give a seq_len of 1 to {most}",
)
NOT_A_SEED = DataError.declare("L3-DAT-300", "{given!r} is no seed", fix="give a number of 0 to 2^64 - 1")

STATE_VERSION = 3
SPARE_FILES = 512
ENDLESS = math.inf
CORE_ERRORS = (ValueError, OverflowError, OSError)


@dataclass(frozen=True, slots=True)
class RowPhase:
    """What rows are like from `from_row` on: `seq_len` tokens each, from sources by the weights of `mix` (default: the
    plan's)."""

    from_row: int
    seq_len: int
    mix: Mapping[str, float] | None = None


class Place(NamedTuple):
    """Where a row comes from: its source, how often that was read whole before, which window of the row's length."""

    source: str
    epoch: int
    window: int


@dataclass(frozen=True)
class TokenRows:
    """N rows of T tokens and their cut into documents.

    `torch.from_numpy(rows.tokens)` shares their memory, which the loader fills anew only when no array and no tensor of
    it is left. A row's first segment may begin in mid-document: it is a segment all the same, for nothing before it can
    be attended to.
    """

    tokens: np.ndarray
    """int32 [N, T]: what an embedding takes, and half the memory of int64."""
    source_ids: np.ndarray
    """int32 [N]: index of each row's source in the plan."""
    doc_ids: np.ndarray
    """uint64 [D]: first 8 bytes of the identity of each segment's document, row after row."""
    splits: np.ndarray
    """int64 [N + 1]: row r has the segments `splits[r]:splits[r + 1]`."""
    bounds: np.ndarray
    """int32 [D + N]: per row 0, the document starts inside it, T."""

    def __len__(self) -> int:
        return len(self.tokens)

    @cached_property
    def cu_seqlens(self) -> list[np.ndarray]:
        """Per row, int32: 0, each document start inside the row, T."""
        return [
            self.bounds[start + r : end + r + 1]
            for r, (start, end) in enumerate(zip(self.splits[:-1], self.splits[1:], strict=True))
        ]

    @cached_property
    def starts_D(self) -> np.ndarray:
        """int32 [D]: where each segment starts in the rows laid end to end, as `Batch.of_documents` takes
        it.
        """
        row_D = np.repeat(np.arange(len(self)), np.diff(self.splits))
        is_start = np.ones(len(self.bounds), bool)
        is_start[self.splits[1:] + np.arange(len(self))] = False  # each row's last bound is its length
        return (self.bounds[is_start] + row_D * self.tokens.shape[1]).astype(np.int32)

    @cached_property
    def positions(self) -> np.ndarray:
        """int32 [N, T]: place of each token in its segment."""
        flat = np.arange(self.tokens.size, dtype=np.int32)
        lengths_D = np.diff(np.append(self.starts_D, self.tokens.size))
        return (flat - np.repeat(self.starts_D, lengths_D)).astype(np.int32).reshape(self.tokens.shape)


class TokenLoader:
    """Reads the token shards of a plan.

    Row i does not depend on who asks, how often, or what was read before: a mixture decides the source
    (its share kept within one row at every point), a keyed permutation the window of its tokens (each
    exactly once per epoch). So a run resumes at any row, on any number of ranks, from a state of one number.

    Where phases differ in row length, a window is the least common multiple of the lengths that its source gives: the
    longest row, where each length divides the next. A phase reads whole windows: of those that it takes from an epoch
    all first rows, then all second rows, and so on. So within an epoch no token comes twice, and a change of length
    leaves out less than one window of each source.
    """

    def __init__(
        self,
        plan: TokenPlan | str | os.PathLike[str],
        *,
        seq_len: int = 0,
        phases: Sequence[RowPhase] = (),
        seed: int = 0,
        window: int = 1,
    ) -> None:
        """Open the shards of `plan` (a TokenPlan, or the directory of a `shards` artifact), to be read in rows of
        `seq_len` tokens, or in `phases`, of which the first begins at row 0.

        With a `window` above 1, which the lengths of all phases divide, also of those to come, each phase takes windows
        of its own; then what rows are does not depend on phases after the next.

        Raises DataError: L3-DAT-201 for a plan that cannot be read, L3-DAT-203 for a missing or damaged
        shard, L3-DAT-204 for a mix that the shards cannot fill, L3-DAT-205 for a shard that is not the plan's,
        L3-DAT-299 for rows that no source fills, L3-DAT-300 for a seed that is none.
        """
        self.plan = plan if isinstance(plan, TokenPlan) else TokenPlan.load(plan)
        self.seed = seed
        self._given = {"seq_len": seq_len, "phases": tuple(phases), "seed": seed, "window": window}
        self.next_row = 0
        """The first row that `batches` has not handed out."""
        self._skipped: list[tuple[int, int]] = []
        sources = [(source.name, self.plan.paths(source)) for source in self.plan.sources]
        phases = phases or [RowPhase(0, seq_len)]
        _require_rows(self.plan, phases)
        if not _is_row(seed) or seed >= 1 << 64:
            raise NOT_A_SEED("seed", given=seed)
        order = [
            (phase.from_row, phase.seq_len, self.plan.weights(max(phase.seq_len, 1), phase.mix)) for phase in phases
        ]
        _allow_files(sum(len(paths) for _, paths in sources))
        try:
            self._core = _core.TokenLoader(sources, order, seed, window)
        except CORE_ERRORS as error:
            raise explained(error) from error
        self._order = _core.blake3_bytes(canonical_json(order if window == 1 else [order, window]))
        self._check_shards()

    @cached_property
    def _plan_hash(self) -> str:
        return self.plan.hash

    def _check_shards(self) -> None:
        found = [root for roots in self._core.roots() for root in roots]
        wanted = [
            (shard.root, path)
            for s in self.plan.sources
            for shard, path in zip(s.shards, self.plan.paths(s), strict=True)
        ]
        problems = [
            OTHER_SHARD.problem(path) for root, (expected, path) in zip(found, wanted, strict=True) if root != expected
        ]
        if problems:
            raise DataError.of(problems)

    def __repr__(self) -> str:
        left_out = f"; shorter than a row: {', '.join(self.left_out)}" if self.left_out else ""
        read = ", ".join(name for name, rows in self.epoch_rows.items() if rows)
        return f"TokenLoader({len(self)} rows of {read}{left_out}; next_row={self.next_row})"

    def __reduce__(self) -> tuple[Any, ...]:
        """What a worker of `torch.utils.data.DataLoader` gets where it is started anew: it opens the shards itself."""
        return _opened_again, (self.plan, self._given, self.next_row, self._skipped)

    def __len__(self) -> int:
        """Rows of one pass: as many as all sources have. With a mix, some sources are read oftener in it."""
        return sum(self._core.windows())

    def __getitem__(self, row: int) -> np.ndarray:
        """The tokens of a row of the first pass, int32 [T]; what `torch.utils.data.DataLoader` asks for. Where its
        documents begin is told by `rows`."""
        count = len(self)
        if not -count <= row < count:
            raise IndexError(f"row {row} of {count}")
        return self.rows(row % count, 1).tokens[0]

    def __iter__(self) -> Iterator[np.ndarray]:
        """The tokens of the rows of one pass. `batches` goes on for ever, makes rows ahead with their cut into
        documents, and can be resumed."""
        return (self[row] for row in range(len(self)))

    @property
    def sources(self) -> list[str]:
        """Names of the sources; `TokenRows.source_ids` index this."""
        return [source.name for source in self.plan.sources]

    @property
    def left_out(self) -> list[str]:
        """The sources that are never read because they have fewer tokens than a row."""
        return [name for name, rows in self.epoch_rows.items() if not rows]

    @property
    def epoch_rows(self) -> dict[str, int]:
        """Whole windows of one epoch of each source; rows, where all have one length."""
        return dict(zip(self.sources, self._core.windows(), strict=True))

    def place(self, row: int) -> Place:
        """Where row `row` comes from."""
        _require_numbers(row=row)
        try:
            source, epoch, window = self._core.place(row)
        except CORE_ERRORS as error:
            raise explained(error) from error
        return Place(self.sources[source], epoch, window)

    def rows(self, start: int, count: int, stride: int = 1) -> TokenRows:
        """Rows start, start + stride, ..., `count` of them, all of one length. Does not move `next_row`.

        Rank r of a world of w takes `rows(step * batch + r, batch // w, w)`. Raises DataError (L3-DAT-203)
        naming the shard and the place in it when its content is damaged.
        """
        _require_numbers(start=start, count=count, stride=stride)
        try:
            return _rows(self._core.rows(start, count, stride))
        except CORE_ERRORS as error:
            raise explained(error) from error

    def batches(
        self, batch: int, *, rank: int = 0, world: int = 1, prefetch: int = 4, threads: int = 1
    ) -> Iterator[TokenRows]:
        """Endless batches of this rank's share of `batch` rows, from `next_row` on, made ahead by threads.

        `next_row` counts whole batches as they are handed out, never those that are only prefetched.
        """
        while True:
            start, whole = self._stretch(batch)
            if not whole:
                yield self._across(batch, rank, world)
                continue
            try:
                stream = self._core.stream(start, batch, rank, world, prefetch, threads)
            except CORE_ERRORS as error:
                raise explained(error) from error
            for number in count() if whole is ENDLESS else range(int(whole)):
                try:
                    rows = _rows(next(stream))
                except CORE_ERRORS as error:
                    raise explained(error) from error
                self.next_row = start + (number + 1) * batch
                yield rows

    def skip(self, rows: range) -> None:
        """Leave `rows` out: `batches` that are asked for from now on pass them over, on any world size the same ones.
        Batches keep their size: the rows that follow move up. The state remembers them.

        Raises DataError (L3-DAT-204) for what is no range of rows.
        """
        if rows.step != 1 or not 0 <= rows.start <= rows.stop:
            raise NO_SUCH_ROWS("skip", error=f"{rows} is no range of rows")
        self._skipped = _merged([*self._skipped, (rows.start, rows.stop)])

    def _gap(self, row: int) -> tuple[int, float]:
        """The first row from `row` on that is not skipped, and where the next skipped ones begin."""
        for start, stop in self._skipped:
            if start > row:
                return row, start
            row = max(row, stop)
        return row, ENDLESS

    def _stretch(self, batch: int) -> tuple[int, float]:
        """The next row that is not skipped, and how many whole batches follow without a gap."""
        row, end = self._gap(self.next_row)
        return row, ENDLESS if end is ENDLESS else (int(end) - row) // max(batch, 1)

    def _across(self, batch: int, rank: int, world: int) -> TokenRows:
        """This rank's share of a batch whose rows do not lie together."""
        if not 0 <= rank < world <= batch:
            raise NO_SUCH_ROWS("token stream", error=f"a batch of {batch} rows has none for rank {rank} of {world}")
        parts, taken = [], 0
        while taken < batch:
            row, end = self._gap(self.next_row)
            size = int(min(batch - taken, end - row))
            first = (rank - taken) % world
            if first < size:
                parts.append(self.rows(row + first, -(-(size - first) // world), world))
            self.next_row, taken = row + size, taken + size
        return _joined(parts)

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on: under 1 KB of JSON values, whatever was read, and two numbers for each range of
        rows that is skipped."""
        return {
            "version": STATE_VERSION,
            "plan_hash": self._plan_hash,
            "seed": self.seed,
            "order": self._order,
            "next_row": self.next_row,
            "skipped": [list(gap) for gap in self._skipped],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken, on any world size. Raises DataError (L3-DAT-206) if the stream is
        another.

        Iterators that `batches` returned before go on from where they were.
        """
        if not isinstance(state, Mapping):
            raise OTHER_STREAM("loader state", differences=f"it is a {type(state).__name__}")
        mine = self.state_dict()
        differences = [
            f"{name} is {mine[name]!r} here, {state.get(name)!r} in the state"
            for name in ("version", "plan_hash", "seed", "order")
            if state.get(name) != mine[name]
        ]
        row, skipped = state.get("next_row"), state.get("skipped")
        if not (_is_row(row) and isinstance(row, int) and row < 1 << 64):
            differences.append(f"next_row is {row!r}")
        if not (isinstance(skipped, list) and all(map(_is_gap, skipped))):
            differences.append(f"skipped is {skipped!r}")
        if differences:
            raise OTHER_STREAM("loader state", differences="; ".join(differences))
        assert isinstance(row, int)
        assert isinstance(skipped, list)
        self.next_row, self._skipped = row, _merged([(start, stop) for start, stop in skipped])


def _require_rows(plan: TokenPlan, phases: Sequence[RowPhase]) -> None:
    """Raises DataError (L3-DAT-299) for a length of which no source has a row."""
    most = max(source.tokens for source in plan.sources)
    for phase in phases:
        if not _is_row(phase.seq_len) or phase.seq_len < 1:
            raise NOT_A_ROW("seq_len", given=phase.seq_len, why="a row has at least one token", most=f"{most:,}")
        if phase.seq_len > most and not (phase.mix or plan.mix):  # with a mix, its sources are told by name
            raise NOT_A_ROW(
                "seq_len", given=phase.seq_len, why=f"the longest source has {most:,} tokens", most=f"{most:,}"
            )


def _opened_again(
    plan: TokenPlan, given: Mapping[str, Any], next_row: int, skipped: list[tuple[int, int]]
) -> TokenLoader:
    loader = TokenLoader(plan, **given)
    loader.next_row, loader._skipped = next_row, skipped
    return loader


def _allow_files(count: int) -> None:
    """Lets the process hold `count` shards open beside what it holds, as far as the system allows: systems allow 1024
    files at first, and a plan of a trillion tokens has thousands of shards."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + SPARE_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(
            resource.RLIMIT_NOFILE, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard)
        )


def _require_numbers(**given: int) -> None:
    """Raises DataError that names the number which the core cannot take: one below 0 or beyond 64 bits."""
    for name, value in given.items():
        if not 0 <= value < 1 << 64:
            raise NO_SUCH_ROWS("token stream", error=f"{name} is {value}, not a number of 0 to 2^64 - 1")


def _is_row(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_gap(value: object) -> bool:
    return isinstance(value, list | tuple) and len(value) == 2 and all(map(_is_row, value)) and value[0] <= value[1]


def _merged(gaps: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The same rows in ranges that neither touch nor overlap, ascending; empty ones go."""
    merged: list[tuple[int, int]] = []
    for start, stop in sorted(gap for gap in gaps if gap[0] < gap[1]):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(stop, merged[-1][1]))
        else:
            merged.append((start, stop))
    return merged


def _joined(parts: Sequence[TokenRows]) -> TokenRows:
    """Rows one after the other. Raises DataError (L3-DAT-204) where they are not of one length."""
    lengths = sorted({part.tokens.shape[1] for part in parts})
    if len(lengths) != 1:
        raise NO_SUCH_ROWS("token stream", error=f"a batch would have rows of {lengths} tokens")
    counts = np.concatenate([np.diff(part.splits) for part in parts])
    tokens, source_ids, doc_ids, bounds = (
        np.concatenate([getattr(part, name) for part in parts])
        for name in ("tokens", "source_ids", "doc_ids", "bounds")
    )
    return TokenRows(tokens, source_ids, doc_ids, np.concatenate([[0], np.cumsum(counts)]), bounds)


def _rows(arrays: tuple[np.ndarray, ...]) -> TokenRows:
    tokens, bounds, doc_ids, splits, source_ids = arrays
    return TokenRows(tokens, source_ids, doc_ids, splits, bounds)


def explained(error: Exception) -> DataError:
    """What the Rust core says, as this project's error."""
    if isinstance(error, _core.ShardError):
        return DAMAGED("token shard", error=error)
    if isinstance(error, OSError):
        return DAMAGED(error.filename or "token shard", error=error)
    return NO_SUCH_ROWS("token stream", error=error)
