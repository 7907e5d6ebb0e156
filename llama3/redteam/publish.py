"""What a red team leaves in its folder beside the attempts: archive, finds, report and page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llama3.artifacts.files import write_bytes_atomic, write_json_atomic
from llama3.evaluation.safety_rows import SafetyPrompt
from llama3.redteam.archive import Archive
from llama3.redteam.figures import red_team_figures
from llama3.redteam.finds import finds
from llama3.redteam.red_team_page import render_red_team

FINDS, ARCHIVE, REPORT, PAGE = "finds.jsonl", "archive.json", "report.json", "report.html"


def publish(
    folder: Path,
    head: Mapping[str, Any],
    archive: Archive,
    attempts: Sequence[Mapping[str, Any]],
    rows: Sequence[SafetyPrompt],
    cost: Mapping[str, float],
) -> dict[str, Any]:
    """Write all four, and return the report. `head`: model, attacker, judge and styles; `rows`: seeds and twins. All
    but `cost`, which is in seconds, follows from the attempts."""
    found = finds(attempts, rows)
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in found)
    cells = archive.to_json()
    report = {
        **head,
        "finds": sum(row["kind"] == "adversarial" for row in found),
        "cells": {"tried": cells["tried"], "of": cells["of"]},
        "figures": red_team_figures(attempts),
        "cost_of_last_call": dict(cost),
    }
    write_bytes_atomic(folder / FINDS, lines.encode("utf-8", "backslashreplace"))
    write_json_atomic(folder / ARCHIVE, cells)
    write_json_atomic(folder / REPORT, report)
    write_bytes_atomic(folder / PAGE, render_red_team(report).encode())
    return report
