"""A finished study on disk: the files of the artifact `forecast`. Torch-free."""

from __future__ import annotations

import json
from typing import Any

from llama3.artifacts import Artifact

RUNS, FITS, PAGE = "runs.jsonl", "fits.json", "forecast.html"
"""The table of runs, everything that was fitted, and a page with the plots."""


def read_fits(artifact: Artifact) -> dict[str, Any]:
    """What was fitted. Raises ArtifactError for what is no forecast, or a damaged one."""
    fits: dict[str, Any] = json.loads(artifact.expect("forecast").file(FITS).read_bytes())
    return fits
