"""The precision of a run: measured once and kept with it, so that the same command asks for the same artifacts and
training goes on as it began.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

import torch

from llama3.artifacts.files import write_json_atomic
from llama3.artifacts.run import RunDir
from llama3.config.precision import Work
from llama3.model.precision import ComputePrecision, Probe, probe

PRECISION_FILE = "precision.json"
"""What a run computes in where its config leaves that to the machine: {work: {precision, gflops}}."""


def kept_probe(run: RunDir, work: Work, device: torch.device) -> Probe:
    """The precision for a kind of work, measured once for a run."""
    file = run.path / PRECISION_FILE
    kept = _kept(file)
    if work not in kept:
        measured = probe(work, device)
        run.display.note(f"[dim]{work} in {measured}[/]")
        kept[work] = {"precision": measured.precision, "gflops": dict(measured.gflops)}
        write_json_atomic(file, kept)
        run.event("precision", work=work, **kept[work])
    return Probe(**kept[work])


def _kept(file: Path) -> dict[str, Any]:
    """What was measured before; nothing where that is not there yet, or not ours any more."""
    try:
        rows = json.loads(file.read_bytes()).items()
        return {work: asdict(Probe(**row)) for work, row in rows if row["precision"] in get_args(ComputePrecision)}
    except (OSError, ValueError, TypeError, AttributeError, KeyError, RecursionError):
        return {}
