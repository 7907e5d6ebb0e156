"""What is known and decided of a dialog, and how good it is beside the others (paper 4.2.3).

An answer is of high quality where its reward is in the top share or the labeller gives it all points: either says so.
Difficulty is the mean of what is known of the level and of the number of intentions (Lu et al. 2023), each from 0 to 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from llama3.config.data_quality import Sign
from llama3.quality.dialogs import DialogRow
from llama3.quality.labels import LEVELS

UNKNOWN = 0.5
"""Quality or difficulty of a dialog of which nothing is known."""


@dataclass
class Judged:
    """A dialog with what is known and decided of it."""

    dialog: DialogRow
    scores: Mapping[str, Any]
    reward_rank: float | None = None
    """Share of the known rewards that are no higher."""
    intents_rank: float | None = None
    """Share of the known numbers of intentions that are no higher."""
    high: bool | None = None
    """Whether it is of high quality; None: nobody tells."""
    signs: list[Sign] = field(default_factory=list)
    cluster: int | None = None
    reason: str = ""
    """Why it is not learnt; "": it is."""
    of: str = ""
    """The id of the dialog that it repeats."""
    similarity: float | None = None
    times: int = 1

    @property
    def points(self) -> float | None:
        """Share of the points that the labeller gave."""
        said = self.scores.get("points")
        return None if said is None else sum(said) / len(said)

    @property
    def quality(self) -> float:
        """From 0 to 1: the better of what reward and labeller say."""
        known = [value for value in (self.reward_rank, self.points) if value is not None]
        return max(known, default=UNKNOWN)

    @property
    def difficulty(self) -> float:
        """From 0 to 1."""
        level = self.scores.get("difficulty")
        known = [value for value in (level and level / len(LEVELS), self.intents_rank) if value is not None]
        return sum(known) / len(known) if known else UNKNOWN

    @property
    def key(self) -> tuple[float, str, str]:
        """Best first. Equal dialogs differ in their ids."""
        return (-self.quality * self.difficulty, self.dialog.digest, self.dialog.id)

    def decision(self) -> dict[str, Any]:
        """The row of decisions.jsonl."""
        known = {name: self.scores.get(name) for name in ("topic", "intents", "difficulty", "points", "reward")}
        return {
            "id": self.dialog.id,
            "source": self.dialog.source,
            **known,
            "quality": round(self.quality, 6),
            "hardness": round(self.difficulty, 6),
            "high": self.high,
            "signs": self.signs,
            "cluster": self.cluster,
            "kept": not self.reason,
            "times": self.times,
            "reason": self.reason,
            "of": self.of,
            "similarity": self.similarity,
        }


def rank(judged: Sequence[Judged], top_share: float) -> None:
    """Ranks among all that are known, and who is of high quality: the reward's top share, or all points."""
    rewards = [row.scores.get("reward") for row in judged]
    intents = [None if row.scores.get("intents") is None else len(row.scores["intents"]) for row in judged]
    for row, reward, count in zip(judged, _ranks(rewards), _ranks(intents), strict=True):
        row.reward_rank, row.intents_rank = reward, count
        says = [] if reward is None else [reward > 1 - top_share]
        says += [] if row.points is None else [row.points == 1]
        row.high = any(says) if says else None


def _ranks(values: Sequence[float | None]) -> list[float | None]:
    """Of each value the share of known ones that are no higher; None where all are equal, which tells nothing."""
    known = np.sort([value for value in values if value is not None])
    if not len(known) or known[0] == known[-1]:
        return [None] * len(values)
    return [
        None if value is None else float(np.searchsorted(known, value, side="right")) / len(known) for value in values
    ]
