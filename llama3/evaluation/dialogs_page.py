"""Which dialogs were learnt and why, for the report of a run: the figures of every `select_dialogs`, with samples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llama3.artifacts import Artifact
from llama3.tasks.rows import read_rows

STAGE, REMOVED = "select_dialogs", "quality/removed.jsonl"
SAMPLES, LONGEST = 2, 600
"""Removed dialogs that are shown of each reason, and characters of each."""


def dialog_figures(artifacts: Mapping[str, Artifact]) -> dict[str, dict[str, Any]]:
    """By the key of an artifact of chosen dialogs its metrics, and samples of what went: {reason, id, of, similarity,
    text}."""
    return {
        key: {**artifact.metrics, "samples": _samples(artifact)}
        for key, artifact in artifacts.items()
        if artifact.manifest.stage == STAGE
    }


def _samples(artifact: Artifact) -> list[dict[str, Any]]:
    taken: dict[str, list[dict[str, Any]]] = {}
    for row in read_rows(artifact.file(REMOVED)):
        shown = taken.setdefault(row["reason"], [])
        if len(shown) < SAMPLES:
            text = "\n\n".join(f"{message['role']}: {message['content']}" for message in row["messages"])
            known = {name: row[name] for name in ("reason", "of", "similarity")}
            shown.append({**known, "id": row.get("id"), "text": text[:LONGEST] + "…" * (len(text) > LONGEST)})
    return [row for _, rows in sorted(taken.items()) for row in rows]
