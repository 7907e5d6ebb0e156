"""The order in which a rank of a pipeline runs the parts of an update: 1F1B, its interleaved form, and ZB-H1.

A model of S = ranks x chunks stages stands round the ranks in turn: stage s is chunk s // ranks of rank s % ranks. With
F and B forwards and backwards, a rank of one chunk begins with as many F as ranks follow it, alternates F and B, and
ends with B (Narayanan et al. 2021). With several chunks, N microbatches of one chunk follow each other before the next
chunk's turn; N is free (Llama 3, section 3.3.2): ranks (depth first) up to all microbatches (breadth first). It need
not divide the number of microbatches, and there may be fewer of these than ranks.

A rank waits (ranks - 1) / (chunks x microbatches) of the time that it works, and longer where microbatches are fewer
than ranks: `bubble`. ZB-H1 (Qi et al. 2023) is 1F1B with each backward in two: the gradient of the input goes to the
stage before at once, those of the weights are computed while the rank would wait. Rank r is r microbatches behind with
them, so that it holds no more than with 1F1B.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Action:
    """One forward or backward of one microbatch through one of a rank's chunks; of a backward in two halves the second
    one is of kind "weights"."""

    kind: Literal["forward", "backward", "weights"]
    chunk: int
    microbatch: int


def order(rank: int, ranks: int, chunks: int, microbatches: int, consecutive: int) -> list[Action]:
    """What a rank does in one update."""
    groups = _groups(ranks, microbatches, consecutive)
    forwards = forward_order(ranks, chunks, microbatches, consecutive)
    # The last chunk's backwards come first.
    backwards = [Action("backward", chunks - 1 - action.chunk, action.microbatch) for action in forwards]
    longest = max((len(group) for group in groups), default=0)
    ahead = ranks - 1 - rank if chunks == 1 else 2 * (ranks - 1 - rank) + (chunks - 1) * longest
    ahead = min(ahead, len(forwards))
    steady = [action for pair in zip(forwards[ahead:], backwards, strict=False) for action in pair]
    return [*forwards[:ahead], *steady, *backwards[len(forwards) - ahead :]]


def split_order(rank: int, ranks: int, microbatches: int) -> list[Action]:
    """What a rank of one chunk does in one update, where its backwards are in two halves."""
    actions: list[Action] = []
    waiting: list[Action] = []
    for action in order(rank, ranks, 1, microbatches, ranks):
        actions.append(action)
        waiting += [Action("weights", 0, action.microbatch)] if action.kind == "backward" else []
        if action.kind == "backward" and len(waiting) > rank:
            actions.append(waiting.pop(0))
    return actions + waiting


def in_flight(rank: int, ranks: int, chunks: int, consecutive: int, *, split: bool = False) -> int:
    """Of how many forwards a rank keeps what their backwards need at once, at most, however many microbatches. `split`:
    backwards are in two halves, of which the second one lets go of it."""
    alive = most = 0
    longest = 2 * max(consecutive, ranks) - 1  # group of microbatches, which is the worst case
    actions = split_order(rank, ranks, longest) if split else order(rank, ranks, chunks, longest, consecutive)
    ends = "weights" if split else "backward"
    for action in actions:
        alive += (action.kind == "forward") - (action.kind == ends)
        most = max(most, alive)
    return most


def forward_order(ranks: int, chunks: int, microbatches: int, consecutive: int) -> list[Action]:
    """The forwards of a rank: all that it does where nothing is learnt."""
    groups = _groups(ranks, microbatches, consecutive)
    return [Action("forward", chunk, number) for group in groups for chunk in range(chunks) for number in group]


def _groups(ranks: int, microbatches: int, consecutive: int) -> list[range]:
    """Microbatches that one chunk runs in a row: `consecutive` of them, at least one per rank, for with fewer ranks
    would wait for each other for ever. What would be left over joins the last group."""
    size = max(consecutive, ranks)
    count = max(microbatches // size, min(microbatches, 1))
    ends = [*range(size, count * size, size), microbatches] if count else []
    return [range(first, end) for first, end in zip([0, *ends], ends, strict=False)]


def bubble(ranks: int, chunks: int, microbatches: int, *, split: bool = False) -> float:
    """The time that a rank waits over the time that it works, where all stages and microbatches take as long, and as
    many microbatches as ranks follow each other. With fewer microbatches than ranks, each turn of a chunk waits for the
    first of them to come round. `split`: with backwards in halves that each take as long as a forward, and as many
    microbatches as ranks at least."""
    waits = ranks - 1 + (chunks - 1) * max(0, ranks - microbatches)
    return waits / (chunks * microbatches) / (3 if split else 1)
