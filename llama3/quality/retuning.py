"""The stage `retune`: a round's dialogs, more of what the model of the round before fails at and less of what it can
(paper 4.2.2: the mix of each round follows topic, complexity and quality).

    need(group)   = 1 - share of its right answers to the prompts of this round
    factor(group) = need(group) / mean need over the dialogs, between `least` and `most`

What the model can do is told by training prompts that nobody has learnt yet, so that held-out tasks steer nothing. With
several columns the groups are their combinations and the factors are multiplied. Which dialogs of a group are repeated
or dropped is decided by quality times difficulty: nothing is drawn.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from pydantic import BaseModel, ConfigDict

from llama3.artifacts import Dialogs, StageOutput, stage
from llama3.config.retune import By
from llama3.config.schema import Config
from llama3.evaluation.data_table import category
from llama3.quality.dialogs import FILE, DialogRow, read_dialogs
from llama3.quality.labels import LEVELS
from llama3.quality.selecting import DECISIONS
from llama3.tasks.rows import read_rows, write_rows

SAMPLES = "samples.jsonl"


class RetuneOptions(BaseModel):
    """The columns and the limits."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    by: tuple[By, ...]
    least: float
    most: float

    @classmethod
    def of(cls, config: Config) -> Self:
        """From the whole config, which has `post_training.retune`."""
        section = config.post_training.retune
        assert section is not None
        return cls(by=tuple(section.by), least=section.least, most=section.most)


@dataclass
class Row:
    """A dialog with the groups that it belongs to, and how good it is."""

    dialog: DialogRow
    groups: dict[str, str]
    worth: float
    times: int = 1

    @property
    def key(self) -> tuple[float, str]:
        """Best first."""
        return -self.worth, self.dialog.digest


@dataclass
class Group:
    """A group of one column: its dialogs, and the share of answers to its prompts that passed."""

    dialogs: int = 0
    solved: list[float] = field(default_factory=list)

    @property
    def need(self) -> float | None:
        return 1 - sum(self.solved) / len(self.solved) if self.solved else None


@stage(output="dialogs")
def retune(dialogs: Dialogs, asked: Dialogs, *, options: RetuneOptions, out: StageOutput) -> None:
    """Write the dialogs, each as often as its groups need it. `asked` holds every answer of the round's models.

    Metrics: `groups` {column: {group: {dialogs, solved, factor}}} (null where no prompt of the group was asked),
    `dialogs`, `learnt`, and the shares of the categories of the data table `before`, in percent.
    """
    rates = _pass_rates(read_rows(asked.file(SAMPLES)))
    rows = _rows(dialogs, options.by)
    groups = {column: _groups(rows, column, rates) for column in options.by}
    factors = {column: _factors(found, options) for column, found in groups.items()}
    together: defaultdict[tuple[str, ...], list[Row]] = defaultdict(list)
    for row in rows:
        together[tuple(row.groups.get(column, "") for column in options.by)].append(row)
    for members in together.values():
        factor = math.prod(factors[column].get(members[0].groups.get(column, ""), 1.0) for column in options.by)
        _repeat(members, min(max(factor, options.least), options.most))
    write_rows(out.path / FILE, [row.dialog.row for row in rows for _ in range(row.times)])
    counts = Counter(category(row.dialog.row) for row in rows)
    out.metrics |= {
        "dialogs": len(rows),
        "learnt": sum(row.times for row in rows),
        "groups": {column: _told(found, factors[column]) for column, found in groups.items()},
        "before": {name: round(100 * count / len(rows), 2) for name, count in sorted(counts.items())},
    }


def _pass_rates(samples: Iterable[Mapping[str, Any]]) -> dict[str, tuple[str, float]]:
    """Of each prompt its family and the share of its answers that passed."""
    passed: defaultdict[tuple[str, str], list[bool]] = defaultdict(list)
    for row in samples:
        passed[str(row["id"]), str(row["family"])].append(bool(row["passed"]))
    return {name: (family, sum(found) / len(found)) for (name, family), found in passed.items()}


def _rows(dialogs: Dialogs, by: Sequence[By]) -> list[Row]:
    labels: dict[str, Mapping[str, Any]] = {}
    if (dialogs.path / DECISIONS).exists():
        labels = {str(row["id"]): row for row in read_rows(dialogs.file(DECISIONS))}
    return [_row(dialog, labels.get(dialog.id, {}), by) for dialog in read_dialogs(dialogs.path)]


def _row(dialog: DialogRow, label: Mapping[str, Any], by: Sequence[By]) -> Row:
    known = {
        "family": dialog.row.get("family"),
        "topic": label.get("topic") and ": ".join(label["topic"]),
        "difficulty": label.get("difficulty") and LEVELS[label["difficulty"] - 1],
    }
    worth = float(label.get("quality", 0)) * float(label.get("hardness", 0))
    return Row(dialog, {column: str(known[column]) for column in by if known[column]}, worth)


def _groups(rows: Sequence[Row], column: str, rates: Mapping[str, tuple[str, float]]) -> dict[str, Group]:
    """Groups of a column. Of a family every prompt that was asked tells, of another column those of its dialogs."""
    groups: defaultdict[str, Group] = defaultdict(Group)
    told: dict[tuple[str, str], float] = {}
    for row in rows:
        if column in row.groups:
            groups[row.groups[column]].dialogs += 1
            if row.dialog.id in rates:
                told[row.groups[column], row.dialog.id] = rates[row.dialog.id][1]
    if column == "family":
        told = {(family, name): rate for name, (family, rate) in rates.items() if family in groups}
    for (name, _), rate in told.items():
        groups[name].solved.append(rate)
    return dict(sorted(groups.items()))


def _factors(groups: Mapping[str, Group], options: RetuneOptions) -> dict[str, float]:
    known = {name: need for name, group in groups.items() if (need := group.need) is not None}
    dialogs = sum(groups[name].dialogs for name in known)
    mean = sum(need * groups[name].dialogs for name, need in known.items()) / dialogs if dialogs else 0.0
    if mean == 0:
        return {}
    return {name: min(max(need / mean, options.least), options.most) for name, need in known.items()}


def _repeat(rows: Sequence[Row], factor: float) -> None:
    """So often that there are `factor` times as many, the best ones first."""
    whole, more = divmod(round(factor * len(rows)), len(rows))
    for place, row in enumerate(sorted(rows, key=lambda row: row.key)):
        row.times = whole + (place < more)


def _told(groups: Mapping[str, Group], factors: Mapping[str, float]) -> dict[str, dict[str, Any]]:
    return {
        name: {
            "dialogs": group.dialogs,
            "solved": None if group.need is None else round(1 - group.need, 4),
            "factor": round(factors.get(name, 1.0), 4),
        }
        for name, group in groups.items()
    }
