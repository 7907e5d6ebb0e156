"""The same tokens once: a smaller forest that gives the hidden states of a larger one.

A hidden state depends on the path of tokens from the root to it and on nothing else. So examples that begin alike (a
system message, the instruction of a task, the same prompt in several pairs) need their common beginning only once,
and what follows the last token that is read is not needed at all. `share` cuts a batch's paths anew:

    [system, question 1, answer 1]        [system] <- [question 1, answer 1]
    [system, question 2, answer 2]   ->            <- [question 2, answer 2]

Gradients stay exact: a shared token receives the sum over all who read it.

Legend: T tokens, S segments, N tokens that are read.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from llama3.model.batch import Batch

Ids = npt.NDArray[np.int64]

WORTH_A_SEGMENT = 16
"""Tokens that a common beginning must save to become a segment: about what one more segment costs in attention."""
WORTH_A_FOREST = 32
"""A new forest is made if it saves at least one token in this many."""


def share(batch: Batch, read_N: Tensor) -> tuple[Batch, Tensor]:
    """A forest (without targets and columns) in which no long beginning stands twice, and where in it the tokens
    `read_N` of `batch` stand. The batch itself, and `read_N`, where there is too little to save."""
    if not len(read_N):
        return batch, read_N
    paths, leaf_S = _paths(batch, read_N)
    segments, places = _forest(paths)
    tokens = sum(len(segment) for segment, _ in segments)
    if batch.num_tokens - tokens < batch.num_tokens / WORTH_A_FOREST:
        return batch, read_N
    device = batch.tokens_T.device
    starts = np.cumsum([0, *(len(segment) for segment, _ in segments)], dtype=np.int32)
    forest = Batch(
        tokens_T=torch.from_numpy(np.concatenate([segment for segment, _ in segments])),
        starts_S1=torch.from_numpy(starts),
        parents_S=torch.tensor([parent for _, parent in segments], dtype=torch.int32),
        targets_M=torch.empty(0, dtype=torch.int64),
    )
    first_S = torch.from_numpy(np.cumsum([0, *map(len, places)])[leaf_S]).to(device)
    place = torch.from_numpy(np.concatenate(places)).to(device)
    return forest.to(device), place[first_S[batch.segment_T[read_N]] + batch.positions_T[read_N]]


def _paths(batch: Batch, read_N: Tensor) -> tuple[list[Ids], Ids]:
    """The distinct paths of tokens from a root to the last token read of a segment, in lexicographic order and without
    those that are the beginning of another; and for each segment the number of the path that its tokens lie on (0 for
    those that are not read)."""
    tokens, starts, parents = (x.cpu().numpy() for x in (batch.tokens_T, batch.starts_S1, batch.parents_S))
    ends = np.zeros(batch.num_segments, np.int64)
    np.maximum.at(ends, batch.segment_T[read_N].cpu().numpy(), read_N.cpu().numpy() + 1)
    whole: list[Ids] = []
    for segment, parent in enumerate(parents.tolist()):
        own = tokens[starts[segment] : starts[segment + 1]]
        whole.append(np.concatenate([whole[parent], own]) if parent >= 0 else own)
    read = np.flatnonzero(ends)
    cut = {s: path[: len(path) - int(starts[s + 1] - ends[s])] for s in read.tolist() for path in [whole[s]]}
    # Big-endian bytes are ordered as the tokens are.
    order = sorted(cut, key=lambda s: cut[s].astype(">u4").tobytes())
    paths: list[Ids] = []
    leaf_S = np.zeros(batch.num_segments, np.int64)
    for segment in reversed(order):
        path = cut[segment]
        if not paths or _common(path, paths[-1]) < len(path):
            paths.append(path)
        leaf_S[segment] = len(paths) - 1
    return paths, leaf_S


def _forest(paths: Sequence[Ids]) -> tuple[list[tuple[Ids, int]], list[Ids]]:
    """Segments (tokens, parent) that hold the ordered paths, and the place of each path's tokens in them."""
    common = np.array([_common(a, b) for a, b in pairwise(paths)], np.int64)
    segments: list[tuple[Ids, int]] = []
    places: list[list[Ids]] = [[] for _ in paths]
    used = 0
    # Paths first to last share their beginning up to `depth`, which ends in segment `parent`.
    groups = [(0, len(paths), 0, -1)] if paths else []
    while groups:
        first, last, depth, parent = groups.pop()
        alike = common[first : last - 1]
        end = int(alike.min()) if len(alike) else len(paths[first])
        if last - first == 1 or (end - depth) * (last - first - 1) >= WORTH_A_SEGMENT:
            segments.append((paths[first][depth:end], parent))
            for place in places[first:last]:
                place.append(np.arange(used, used + end - depth))
            used, depth, parent = used + end - depth, end, len(segments) - 1
        if len(alike):
            cuts = [first, *(first + 1 + np.flatnonzero(alike == end)).tolist(), last]
            groups += [(a, b, depth, parent) for a, b in pairwise(cuts)][::-1]
    return segments, [np.concatenate(place) for place in places]


def _common(a: Ids, b: Ids) -> int:
    """Tokens with which both begin."""
    shorter = min(len(a), len(b))
    differs = a[:shorter] != b[:shorter]
    return int(differs.argmax()) if differs.any() else shorter
