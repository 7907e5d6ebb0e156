"""What a round learns beside its own answers: the stages `earlier` (verified answers of rounds before), `taught` (those
of a teacher), `paced` (as many examples as another, for a control) and `gathered` (all preferences so far)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import cycle, islice
from typing import Any

from llama3.artifacts import Artifact, Dialogs, Preferences, StageOutput, stage
from llama3.tasks.rows import read_rows, write_rows

DIALOGS, PAIRS, PROMPTS = "dialogs.jsonl", "preferences.jsonl", "prompts.jsonl"
VERIFIED = ("rejection_sampling", "teacher")
"""Sources of answers that a model has drawn and a verifier has passed."""


@stage(output="dialogs")
def earlier(dialogs: Dialogs, before: Dialogs, *, out: StageOutput) -> None:
    """The rows of `dialogs`, and the verified answers of the round `before` to other prompts, each once."""
    rows = _rows(dialogs)
    there = {row["id"] for row in rows}
    kept = {row["id"]: row for row in _rows(before) if row.get("source") in VERIFIED and row["id"] not in there}
    _write([*rows, *kept.values()], out)


@stage(output="dialogs")
def taught(dialogs: Dialogs, teacher: Dialogs, *, out: StageOutput) -> None:
    """The rows of `dialogs`, and what the teacher has drawn and a verifier has passed for prompts that they lack: those
    that the learner itself has no right answer to."""
    rows = _rows(dialogs)
    there = {row["id"] for row in rows}
    more = [row for row in _rows(teacher) if row.get("source") == "rejection_sampling" and row["id"] not in there]
    _write([*rows, *({**row, "source": "teacher"} for row in more)], out)


@stage(output="dialogs")
def paced(dialogs: Dialogs, like: Dialogs, *, out: StageOutput) -> None:
    """The rows of `dialogs`, again from the first on until there are as many as `like` has: the same number of examples
    without what made `like` longer."""
    rows = _rows(dialogs)
    most = max(len(rows), len(_rows(like)))
    numbered = ((row, n // len(rows)) for n, row in enumerate(islice(cycle(rows), most)))
    _write([row if again == 0 else {**row, "id": f"{row['id']}-{again}"} for row, again in numbered], out)


@stage(output="preferences")
def gathered(preferences: Preferences, before: Preferences, *, out: StageOutput) -> None:
    """The pairs of `preferences` and those `before`: what a reward model learns from (paper 4.1.2); with the prompts
    that they were drawn to, where both have some."""
    both = (before, preferences)
    rows = [row for artifact in both for row in read_rows(artifact.file(PAIRS))]
    write_rows(out.path / PAIRS, rows)
    out.metrics["pairs"] = len(rows)
    if all((artifact.path / PROMPTS).exists() for artifact in both):
        write_rows(out.path / PROMPTS, [row for artifact in both for row in read_rows(artifact.file(PROMPTS))])


def _rows(dialogs: Artifact) -> list[dict[str, Any]]:
    return list(read_rows(dialogs.file(DIALOGS)))


def _write(rows: Iterable[Mapping[str, Any]], out: StageOutput) -> None:
    rows = list(rows)
    write_rows(out.path / DIALOGS, rows)
    out.metrics["dialogs"] = dict(sorted(Counter(str(row.get("source", "")) for row in rows).items()))
