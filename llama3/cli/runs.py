"""`llama3 runs`: what has been run."""

from __future__ import annotations

import json as jsonlib
from pathlib import Path
from typing import Annotated, Any

import typer

from llama3.cli.output import JsonOption, note, print_json, print_table

app = typer.Typer(no_args_is_help=True, help="See what has been run.")


@app.command("list")
def list_(
    folder: Annotated[str, typer.Option("--dir", help="Directory that holds runs.")] = "runs",
    json: JsonOption = False,
) -> None:
    """All runs of a directory with their state and, where there is a report, the figures of the final model."""
    paths = sorted(path.parent for path in Path(folder).glob("*/config.yaml"))
    rows = [_row(path) for path in paths]
    if json:
        print_json({"runs": rows})
    elif rows:
        cells = [
            (
                row["name"],
                row["status"],
                row["last"],
                _told(row["bits_per_byte"], ".3f"),
                _told(row["pass_rate"], ".1%"),
            )
            for row in rows
        ]
        print_table(cells, ("RUN", "STATUS", "LAST EVENT", "BITS/BYTE", "PASS RATE"))
    else:
        note(f"no runs in {folder}; start one: llama3 run quickstart")


def _row(path: Path) -> dict[str, Any]:
    """What a run's own files say of it, both figures of its final model; one that is not known is null."""
    last = _last_event(path / "events.jsonl")
    report = _json(path / "report.json")
    return {
        "name": path.name,
        "path": str(path),
        "status": "finished" if report else "unfinished",
        "last": f"{last.get('time', '-')} {last.get('kind', '')}".strip(),
        "bits_per_byte": _number(_at(report, "bits_per_byte_by_model", "final")),
        "pass_rate": _number(_at(report, "pass_rate", "final", "rate")),
    }


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _told(value: float | None, form: str) -> str:
    return "-" if value is None else f"{value:{form}}"


def _last_event(path: Path) -> dict[str, Any]:
    try:
        lines = path.read_text("utf-8", "replace").splitlines()
    except OSError:
        return {}
    for line in reversed(lines):
        try:
            event = jsonlib.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(event, dict):
            return event
    return {}


def _json(path: Path) -> Any:
    try:
        return jsonlib.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


def _at(value: Any, *keys: str) -> Any:
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value
