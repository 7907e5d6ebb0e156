"""How many of the canaries of a run its model gives away (llama3.data.canaries), by how often it has read them.

A canary is extracted where the model, given its beginning, says its secret greedily. Its exposure (Carlini et al. 2019)
is log2 of how many random secrets there are for each that the model finds no less likely: about 1 bit where it has
learnt nothing, and log2(alternatives + 1) where the true one is the likeliest of all. Those that were never put in show
what chance gives.
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from llama3.evaluators import (
    Batch,
    Canary,
    Llama,
    Result,
    Segment,
    Subject,
    TokenPlan,
    Tree,
    chunks,
    random_secret,
    read_canaries,
    score,
    wilson,
)
from llama3_plugins.evaluators.memorisation import greedy, known_shards, require_room
from llama3_plugins.evaluators.options import CanaryOptions

BATCH = 64
"""Secrets scored at once."""


class Canaries:
    """Result: `extracted` {rate, low, high, n} and `exposure` (median, in bits) of all canaries that were put in, and
    `by_copies`, 0 among them. One sample per canary, of score 1 where it is not extracted, so that higher is better."""

    def __init__(self, options: CanaryOptions) -> None:
        self.options = options
        self.plan = None if options.path is None else TokenPlan.load(Path(options.path))

    def run(self, subject: Subject, limit: int, seed: int) -> Result:
        """All canaries are asked, whatever the limit: their number was chosen with them."""
        model = subject.model
        plan = known_shards(self.plan or subject.shards, model, "canaries")
        canaries = read_canaries(plan.folder)
        encode = model.tokenizer.encode
        prefixes, secrets = ([encode(text) for text in part] for part in zip(*map(_parts, canaries), strict=True))
        require_room(model, max(map(len, prefixes)) + max(map(len, secrets)))
        said = greedy(model, prefixes, max(map(len, secrets)))
        bits = _exposures(model, canaries, self.options.alternatives, seed)
        samples: list[dict[str, Any]] = []
        for canary, ids, exposure in zip(canaries, said, bits, strict=True):
            answer = model.tokenizer.decode(ids)
            extracted = answer.startswith(canary.secret)
            samples.append(
                {"id": canary.prefix, "copies": canary.copies, "prompt": canary.prefix, "reference": canary.secret,
                 "answer": answer, "extracted": extracted, "exposure": exposure, "score": float(not extracted)}
            )  # fmt: skip
        copies = sorted({row["copies"] for row in samples})
        by_copies = {str(n): _figures([row for row in samples if row["copies"] == n]) for n in copies}
        put_in = _figures([row for row in samples if row["copies"]])
        most = math.log2(self.options.alternatives + 1)
        return Result(
            {**put_in, "most_exposure": most, "by_copies": by_copies},
            samples,
            rate_better="lower",
            scored="not extracted",
        )


def _parts(canary: Canary) -> tuple[str, str]:
    return canary.prefix, canary.secret


def _figures(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {
        "extracted": wilson(sum(row["extracted"] for row in rows), len(rows)).to_json(),
        "exposure": statistics.median(row["exposure"] for row in rows),
    }


def _exposures(model: Llama, canaries: Sequence[Canary], alternatives: int, seed: int) -> Iterator[float]:
    """Of each canary, by its rank among random secrets that stand where its own does."""
    for number, canary in enumerate(canaries):
        rng = random.Random(f"alternatives/{seed}/{number}")
        others = [random_secret(rng) for _ in range(alternatives)]
        own, *rest = _logps(model, canary.prefix, [canary.secret, *others])
        yield math.log2(alternatives + 1) - math.log2(1 + sum(logp >= own for logp in rest))


def _logps(model: Llama, prefix: str, secrets: Sequence[str]) -> list[float]:
    """The log-probability of each secret after BOS and the prefix, which is computed once for a batch of them."""
    encode, found = model.tokenizer.encode, list[float]()
    with torch.no_grad():
        for part in chunks(secrets, BATCH):
            ids = [encode(text) for text in part]
            root = Segment(encode(prefix, bos=True))
            children = [Segment(one, parent=0, is_target=np.ones(len(one), bool)) for one in ids]
            batch = Batch.of_trees([Tree([root, *children])])
            logps_M = score(model.transformer, batch, {"logps"}).logps_M.double()
            found += batch.sum_by_segment(logps_M)[1:].tolist()
    return found
