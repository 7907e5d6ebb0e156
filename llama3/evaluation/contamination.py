"""Contamination of held-out tasks: how much of each occurs in what was trained on (paper 5.1.4).

Three questions. Against the pretraining text: the share of a task's tokens that lie in an 8-gram of tokens that the
text contains. Against the data of post-training: prompts that occur there word for word (paper 4.2.3), which no release
survives; and the share of a task's own 8-grams that occur there. Tasks made from templates share most of their words
with all tasks of their family, trained on or not; so only 8-grams that stand in one held-out task tell it apart.

A task whose share reaches the threshold counts as contaminated.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np

from llama3.artifacts import Artifact
from llama3.data.covering import ExampleNgrams
from llama3.data.decontaminate import strings_of
from llama3.errors import GateFailed

TRAINED_ON = GateFailed.declare(
    "L3-EVL-030",
    "this held-out task is among the training data",
    why="{prompt}",
    fix="take it out of the data, or evaluate on other tasks",
)

DATA_TYPES = ("dialogs", "preferences")
"""Artifacts that hold data of post-training."""
NOT_LEARNT = ("samples.jsonl", "held_out.jsonl")
"""Files of such artifacts that no stage learns from."""
THRESHOLD = 0.8
"""Share of covered tokens from which a task counts as contaminated."""


def contaminated_share(examples: ExampleNgrams, found_G: np.ndarray) -> dict[str, float | int]:
    """The figures of a set of tasks, by the n-grams of them that were found."""
    return _figures(examples, examples.coverage(found_G), int(examples.too_short_E.sum()))


def own_share(examples: ExampleNgrams, found_G: np.ndarray) -> dict[str, float | int]:
    """The same figures over each task's own n-grams only: those that no other of the tasks has. A task without any
    counts as too short."""
    share_E, count_E = examples.own(found_G)
    return _figures(examples, share_E, int((count_E == 0).sum()))


def _figures(examples: ExampleNgrams, share_E: np.ndarray, too_short: int) -> dict[str, float | int]:
    shares = share_E.tolist()
    return {
        "n": len(shares),
        "too_short": too_short,
        "contaminated": sum(share >= THRESHOLD for share in shares),
        "mean_coverage": sum(shares) / len(shares) if shares else 0.0,
        "max_coverage": max(shares, default=0.0),
        "ngram": examples.n,
        "threshold": THRESHOLD,
    }


def trained_texts(data: Artifact) -> Iterator[str]:
    """Every text in the rows that a stage may learn from, whatever kind of data they are."""
    for path in sorted(data.path.glob("*.jsonl")):
        if path.name not in NOT_LEARNT:
            with data.file(path.name).open(encoding="utf-8") as file:
                for row in map(json.loads, file):
                    yield from strings_of(row)


def require_clean(found: Artifact) -> None:
    """The gate: nothing happens where no held-out task was trained on. Raises GateFailed naming some that were."""
    problems = [
        TRAINED_ON.problem(f"{role}: {leak['id']}", prompt=leak["prompt"])
        for role in DATA_TYPES
        for leak in found.metrics.get(role, {}).get("leaks", [])
    ]
    if problems:
        raise GateFailed.of(problems)
