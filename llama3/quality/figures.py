"""What was selected and why, in figures: before and after, by source, topic, quality, difficulty and sign."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from llama3.config.data_quality import Sign
from llama3.quality.cleaning import rates
from llama3.quality.judged import Judged
from llama3.quality.labels import LABELS, LEVELS

MANY_INTENTS = 6
"""Intentions from which on they are counted together."""


def not_applied(judged: Sequence[Judged], asked: Mapping[str, Mapping[str, Any]], dedup: bool) -> dict[str, str]:
    """By step, why it was not applied."""
    missing = {label: "no labeller is named" for label in LABELS if label not in asked}
    if "reward" not in asked:
        missing["reward"] = "no reward model is named"
    elif all(row.reward_rank is None for row in judged):
        missing["reward"] = "all rewards are equal"
    missing |= {label: f"{row['who']} told of no dialog" for label, row in asked.items() if not row["told"]}
    return missing if dedup else missing | {"dedup": "it is switched off"}


def _topic(row: Judged) -> str:
    topic = row.scores.get("topic")
    return "not known" if topic is None else f"{topic[0]}: {topic[1]}"


def _quality(row: Judged) -> str:
    return {True: "high", False: "low", None: "not known"}[row.high]


def _level(row: Judged) -> str:
    level = row.scores.get("difficulty")
    return "not known" if level is None else LEVELS[level - 1]


def _intents(row: Judged) -> str:
    said = row.scores.get("intents")
    return "not known" if said is None else f"{min(len(said), MANY_INTENTS)}{' or more' * (len(said) >= MANY_INTENTS)}"


TABLES: Mapping[str, Callable[[Judged], str]] = {
    "source": lambda row: row.dialog.source or "not known",
    "topic": _topic,
    "quality": _quality,
    "difficulty": _level,
    "intents": _intents,
}
"""What dialogs are counted by."""


def table(judged: Sequence[Judged], cell: Callable[[Judged], str]) -> list[dict[str, Any]]:
    """Dialogs of each kind before and after, and how often they are learnt."""
    counts: dict[str, list[int]] = {}
    for row in judged:
        cells = counts.setdefault(cell(row), [0, 0, 0])
        cells[0] += 1
        cells[1] += not row.reason
        cells[2] += 0 if row.reason else row.times
    return [
        {"is": name, "before": before, "kept": kept, "learnt": learnt}
        for name, (before, kept, learnt) in sorted(counts.items())
    ]


def of_signs(judged: Sequence[Judged], shares: Mapping[Sign, float]) -> dict[str, dict[str, Any]]:
    """Of each sign that has a share: the dialogs that show it before and after, and those that went for it."""
    learnt = [row for row in judged if not row.reason]
    return {
        sign: {
            "most": share,
            "before": sum(sign in row.signs for row in judged),
            "removed": sum(row.reason == sign for row in judged),
            "after": sum(sign in row.signs for row in learnt),
            "share_before": round(sum(sign in row.signs for row in judged) / len(judged), 6),
            "share_after": round(sum(sign in row.signs for row in learnt) / max(1, len(learnt)), 6),
        }
        for sign, share in shares.items()
    }


def marks(rows: Sequence[Judged]) -> dict[str, float]:
    return rates([row.dialog.answers for row in rows])
