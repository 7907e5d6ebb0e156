"""Whose lines are whose in the logs of a run, and how long each artifact took.

`metrics.jsonl` and `samples.jsonl` only grow. What a logger writes need not say more than the kind of stage: lines of
six rounds, and those of an earlier config, then look alike. So every `stage_start` in `events.jsonl` notes where the
logs ended when it began.
"""

from __future__ import annotations

import bisect
import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from llama3.artifacts.artifact import Artifact
from llama3.artifacts.files import read_json_lines

EVENTS = "events.jsonl"
LOGS = ("metrics", "samples")
ENDED = ("stage_done", "stage_failed", "stage_interrupted")


def begun(folder: Path, artifact: str) -> dict[str, Any]:
    """What a `stage_start` says beside its key: the directory that is made, and the size of each log so far."""
    sizes = {}
    for name in LOGS:
        with suppress(OSError):
            sizes[name] = (folder / f"{name}.jsonl").stat().st_size
    return {"artifact": artifact, "logs": sizes}


def key_now(folder: Path) -> str | None:
    """The key of the artifact that is being made in a run directory; None where no start was noted."""
    return _last_start(folder).get("key")


def artifact_now(folder: Path) -> str | None:
    """The directory under `artifacts` that is being made in a run directory: its key with the hash of the request, so
    that an earlier config's is another one. None where no start was noted."""
    return _last_start(folder).get("artifact")


def _last_start(folder: Path) -> dict[str, Any]:
    starts = [event for event in read_json_lines(folder / EVENTS) if event.get("kind") == "stage_start"]
    return starts[-1] if starts else {}


def rows_of(folder: Path, name: str, made: Mapping[str, Artifact]) -> Iterator[dict[str, Any]]:
    """The rows of `<name>.jsonl` that tell of artifacts in `made`, each with the `key` of its artifact.

    Rows from before starts were noted have no `key`; those of artifacts that are not in `made` are left out.
    """
    keys = {artifact.location.name: key for key, artifact in made.items()}
    starts = [
        (event["logs"].get(name, 0), str(event.get("artifact")))
        for event in read_json_lines(folder / EVENTS)
        if event.get("kind") == "stage_start" and isinstance(event.get("logs"), dict)
    ]
    for offset, row in _placed_rows(folder / f"{name}.jsonl"):
        index = bisect.bisect_right(starts, offset, key=lambda start: start[0]) - 1
        if index < 0:
            yield row
        elif (key := keys.get(starts[index][1])) is not None:
            yield {**row, "key": key}


def _placed_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Each whole row of a log with the byte that its line begins at."""
    if not path.exists():
        return
    offset = 0
    with path.open("rb") as file:
        for line in file:
            with suppress(ValueError):
                row = json.loads(line)
                if isinstance(row, dict):
                    yield offset, row
            offset += len(line)


def seconds_of(folder: Path, made: Mapping[str, Artifact]) -> dict[str, float]:
    """How long each artifact in `made` took by key, attempts that were stopped included, and that of the artifact whose
    place it took because parts of it had failed. What is not known is left out."""
    names = {key: artifact.location.name for key, artifact in made.items()}
    spent: dict[str, float] = {}
    total: dict[str, float] = {}
    earlier: dict[str, float] = {}
    for event in read_json_lines(folder / EVENTS):
        if event.get("kind") == "stage_start" and event.get("after") in total:
            earlier[str(event.get("artifact"))] = total[event["after"]]
        if event.get("kind") not in ENDED:
            continue
        name = event.get("artifact") or names.get(event.get("key", ""), "")
        spent[name] = spent.get(name, 0.0) + float(event.get("seconds") or 0.0)
        if event["kind"] == "stage_done":
            total[name] = spent.pop(name) + earlier.pop(name, 0.0)
    return {key: round(total[name], 3) for key, name in names.items() if name in total}
