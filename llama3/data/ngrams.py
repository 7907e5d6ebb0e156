"""Runs of tokens in the token shards of a plan: drawn by how often they occur, and counted exactly.

Letters: K runs, L tokens of each.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from llama3 import _core
from llama3.data.loader import CORE_ERRORS, explained
from llama3.data.plan import TokenPlan

EDGE = 1
"""Tokens at both ends of a document that are no text: BOS and EOS."""


@dataclass(frozen=True)
class DrawnRuns:
    """Runs of tokens of documents. `tokens`: uint32 [K, length]; `sources`: the name of each one's source; `ids`: its
    place in the plan."""

    tokens: np.ndarray
    sources: list[str]
    ids: list[str]


def draw_runs(plan: TokenPlan, length: int, count: int, seed: int) -> DrawnRuns:
    """At most `count` different places of the shards, each as likely as any other: what occurs often is drawn often.

    Raises DataError (L3-DAT-203, L3-DAT-204) as reading the shards does.
    """
    named = [(source.name, path) for source in plan.sources for path in plan.paths(source)]
    paths = [path for _, path in named]
    try:
        shards, starts, tokens = _core.draw_runs(paths, length=length, edge=EDGE, count=count, seed=seed)
    except CORE_ERRORS as error:
        raise explained(error) from error
    ids = [f"{shard}-{start}" for shard, start in zip(shards.tolist(), starts.tolist(), strict=True)]
    return DrawnRuns(tokens, [named[shard][0] for shard in shards.tolist()], ids)


def count_ngrams(plan: TokenPlan, runs_KL: np.ndarray, n: int) -> np.ndarray:
    """How often every `n` tokens that stand together in each run occur in a document of the shards, uint64
    [K, L - n + 1]. Exact: what the hash finds is compared. Reads all shards once; memory holds the runs, 80 bytes for
    each n-gram and a block of tokens per thread.

    Raises DataError (L3-DAT-203, L3-DAT-204) as reading the shards does.
    """
    paths = [path for source in plan.sources for path in plan.paths(source)]
    try:
        return _core.count_ngrams(paths, np.ascontiguousarray(runs_KL, np.uint32), n)
    except CORE_ERRORS as error:
        raise explained(error) from error
