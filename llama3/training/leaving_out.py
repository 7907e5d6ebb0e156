"""Data that somebody wants a run to leave out: written down in the run directory, obeyed when the run goes on.

    runs/<name>/reliability/leave_out.jsonl      {artifact, data, why, time}; append-only

What training really left out stands in the ledger, with the documents, and in the metrics of what it made. Torch-free.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from llama3.artifacts.files import append_json_line, fsync_file, read_json_lines
from llama3.training.ledger import FOLDER
from llama3.training.recovery import ASKED, GoBack

ASKS = "leave_out.jsonl"


def ask(run: Path, artifact: str, data: Sequence[int], why: str) -> Path:
    """Write down that a stage is to leave out `data` (0-based steps that would have read it); where."""
    file = run / FOLDER / ASKS
    file.parent.mkdir(exist_ok=True)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    append_json_line(file, {"artifact": artifact, "data": list(data), "why": why, "time": now})
    fsync_file(file)
    return file


def asked_of(run: Path, artifact: str) -> dict[int, str]:
    """What a stage is to leave out, and why."""
    rows = (row for row in read_json_lines(run / FOLDER / ASKS) if row.get("artifact") == artifact)
    return {int(data): str(row.get("why", "")) for row in rows for data in row.get("data", [])}


def order_of(asked: Mapping[int, str], left_out: Sequence[int]) -> GoBack | None:
    """The order to leave out what is asked for and not left out yet; None: there is nothing."""
    new = sorted(set(asked) - set(left_out))
    if not new:
        return None
    why = "; ".join(dict.fromkeys(asked[data] for data in new))
    first = new[0] - sum(data < new[0] for data in left_out)
    return GoBack("data left out", ASKED("training", count=len(new), why=why), first, new)
