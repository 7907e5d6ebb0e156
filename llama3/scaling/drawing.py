"""A pipeline's schedule as a picture: what each rank does when, as text and as SVG, from the strategy's own order.

A stage's forward takes one unit of time and its backward two, or one for each of its halves; messages are free.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from llama3.training.estimate import PipelineTurn

DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
HUES = {"forward": 210, "backward": 140, "weights": 40}
WIDTH, ROW, LABEL = 960, 22, 58
MOST_COLUMNS = 150


@dataclass(frozen=True, slots=True)
class Placed:
    """A turn with the units of time at which it begins and ends."""

    turn: PipelineTurn
    begin: int
    end: int

    @property
    def length(self) -> int:
        return self.end - self.begin


def placed(turns: Sequence[Sequence[PipelineTurn]]) -> list[list[Placed]]:
    """When each rank's turns begin: as soon as the rank is free and what they need is there.

    Raises ValueError where ranks wait for each other for ever.
    """
    ranks, halves = len(turns), any(turn.kind == "weights" for row in turns for turn in row)
    last = ranks * (1 + max(turn.chunk for row in turns for turn in row)) - 1
    done: dict[tuple[str, int, int], int] = {}
    found: list[list[Placed]] = [[] for _ in turns]
    left = [list(reversed(row)) for row in turns]
    while any(left):
        moved = False
        for rank, row in enumerate(left):
            while row and (ready := _ready(row[-1], rank, ranks, last, done)) is not None:
                turn = row.pop()
                begin = max(ready, found[rank][-1].end if found[rank] else 0)
                length = 2 if turn.kind == "backward" and not halves else 1
                found[rank].append(Placed(turn, begin, begin + length))
                done[turn.kind, turn.chunk * ranks + rank, turn.microbatch] = found[rank][-1].end
                moved = True
        if not moved:
            raise ValueError("every rank waits for another")
    return found


def _ready(turn: PipelineTurn, rank: int, ranks: int, last: int, done: dict[tuple[str, int, int], int]) -> int | None:
    """When what a turn needs is there; None while it is not."""
    stage = turn.chunk * ranks + rank
    if turn.kind == "forward":
        needs = [("forward", stage - 1, turn.microbatch)] if stage > 0 else []
    elif turn.kind == "weights":
        needs = [("backward", stage, turn.microbatch)]
    else:
        needs = [("forward", stage, turn.microbatch)]
        needs += [("backward", stage + 1, turn.microbatch)] if stage < last else []
    times = [done.get(need) for need in needs]
    return None if None in times else max([0, *(time for time in times if time is not None)])


def waiting(rows: Sequence[Sequence[Placed]]) -> float:
    """The time that ranks wait over the time that they work."""
    end = max(row[-1].end for row in rows)
    work = sum(one.length for one in rows[0])
    return (end - work) / work


def text(rows: Sequence[Sequence[Placed]]) -> list[str]:
    """A line for each rank, a column for each unit of time: the microbatch's digit (of 36, then again), a backward's
    with a dash behind it, the second half of one as a plus, a dot while the rank waits. A long schedule shows its
    beginning.
    """
    end = max(row[-1].end for row in rows)
    lines = []
    for rank, row in enumerate(rows):
        cells = ["."] * end
        for one in row:
            digit = DIGITS[one.turn.microbatch % len(DIGITS)]
            cells[one.begin : one.end] = ["+"] if one.turn.kind == "weights" else [digit, "-"][: one.length]
        line = "".join(cells)
        lines.append(f"rank {rank:<3} {line[:MOST_COLUMNS]}{' ...' if end > MOST_COLUMNS else ''}")
    return lines


def svg(rows: Sequence[Sequence[Placed]], title: str) -> str:
    """The same as a picture: forwards blue, backwards green, their second halves orange, later chunks darker. It names
    a turn on hovering."""
    end = max(row[-1].end for row in rows)
    unit = (WIDTH - LABEL) / end
    chunks = 1 + max(one.turn.chunk for row in rows for one in row)
    height = ROW * len(rows) + 30
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
        f'font-family="sans-serif" font-size="11"><title>{escape(title)}</title>',
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
    ]
    for rank, row in enumerate(rows):
        y = ROW * rank
        parts.append(f'<text x="4" y="{y + 15}" fill="#333333">rank {rank}</text>')
        for one in row:
            turn, width = one.turn, unit * one.length
            x, light = LABEL + unit * one.begin, 72 - 34 * turn.chunk / chunks
            colour = f"hsl({HUES[turn.kind]} 60% {light:.0f}%)"
            said = f"{turn.kind} of microbatch {turn.microbatch}, chunk {turn.chunk}"
            parts.append(
                f'<rect x="{x:.2f}" y="{y + 2}" width="{max(width - 0.5, 0.3):.2f}" height="{ROW - 4}" '
                f'fill="{colour}"><title>{said}</title></rect>'
            )
            if width >= 14:
                parts.append(f'<text x="{x + 3:.2f}" y="{y + 15}" fill="#111111">{turn.microbatch}</text>')
    parts.append(f'<text x="4" y="{height - 8}" fill="#333333">{escape(title)}</text></svg>')
    return "\n".join(parts) + "\n"
