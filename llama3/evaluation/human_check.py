"""What people found in the sample of synthetic text: how much of it they have seen, and how much of that is wrong.

A text is wrong where anybody who checked it rejected or edited it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llama3.annotating.folder import ANNOTATIONS, read_judgements
from llama3.annotating.items import run_at, texts_of_run
from llama3.annotating.judgements import KEEP
from llama3.data.sampling import CHECKED_SHARE
from llama3.errors import GateFailed
from llama3.evaluation.intervals import wilson

TOO_WRONG = GateFailed.declare(
    "L3-ANN-050",
    "the human check of {source} did not pass",
    why="{why}",
    fix="check the rest of the sample, or leave out the text and make it by another model or for other tasks",
)


def human_check(run: Path) -> dict[str, dict[str, Any]]:
    """By artifact of synthetic text in a run: its texts, those of the sample that were checked, and the share of wrong
    ones with Wilson's interval. Raises ArtifactError for what is no run, DataError where a file of judgements is
    broken."""
    judged = read_judgements(run / ANNOTATIONS, "check")
    verdicts = {name: {item: one.verdict for item, one in of.items()} for name, of in judged.items()}
    return {
        source: figures_of(count, {item.id for item in items}, verdicts)
        for source, (count, items) in texts_of_run(run_at(run)).items()
    }


def require_right(figures: Mapping[str, Mapping[str, Any]], most: float) -> None:
    """The gate, which is closed until the whole sample is checked and the upper end of the share of wrong texts is
    `most` or less. Raises GateFailed."""
    if not figures:
        raise TOO_WRONG("check", source="synthetic text", why="there is none")
    problems = [
        TOO_WRONG.problem(source, source=source, why=why)
        for source, row in figures.items()
        if (why := _why_closed(row, most))
    ]
    if problems:
        raise GateFailed.of(problems)


def figures_of(count: int, sample: set[str], verdicts: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
    """{texts, sample, checked, share_checked, wrong: {rate, low, high, n, count}, annotators} of `count` texts, from
    what annotators said of items."""
    said: dict[str, list[str]] = {}
    for of in verdicts.values():
        for item, verdict in of.items():
            if item in sample:
                said.setdefault(item, []).append(verdict)
    wrong = sum(any(verdict != KEEP for verdict in one) for one in said.values())
    return {
        "texts": count,
        "sample": len(sample),
        "checked": len(said),
        "share_checked": len(said) / max(1, count),
        "wrong": wilson(wrong, len(said)).to_json() | {"count": wrong},
        "annotators": sorted(name for name, of in verdicts.items() if of.keys() & sample),
    }


def _why_closed(row: Mapping[str, Any], most: float) -> str:
    if row["checked"] < row["sample"]:
        least = f"the sample is {100 * CHECKED_SHARE:g} % of the texts"
        return f"{row['checked']} of {row['sample']} texts are checked; {least}"
    if row["wrong"]["high"] > most:
        wrong = row["wrong"]
        interval = f"[{100 * wrong['low']:.1f}, {100 * wrong['high']:.1f}]"
        return f"{100 * wrong['rate']:.1f} % {interval} are wrong, at most {100 * most:g} % may be"
    return ""
