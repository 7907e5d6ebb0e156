"""The suites of an evaluation: which failed, and what is measured already by the very same request.

An evaluation of which a suite failed is made again by the same command, and one that was killed goes on. Neither
measures a suite twice: what is finished lies in the artifact that is made again, or in the scratch folder.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from llama3.artifacts import Artifact, StageOutput
from llama3.artifacts.files import write_json_atomic

RESULTS, SAMPLES = "results.json", "samples.jsonl"
"""Files of an evaluation: figures by suite, and one row per suite and item."""
_CHANGING = re.compile(r"\w*\d\w*")


@dataclass(frozen=True, slots=True)
class MeasuredSuite:
    """A suite that did not fail."""

    suite: str
    figures: dict[str, Any]
    rows: list[str]
    """Lines of SAMPLES."""


def failures(results: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """The suites that could not be measured, with why. Words that have a digit are left out: an address, a port or a
    time differs whenever the same thing fails."""
    return {suite: _CHANGING.sub("#", str(row["error"])) for suite, row in results.items() if "error" in row}


def told_failures(evaluations: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Iterator[str]:
    """A line for people on each suite that could not be measured, of which models. `evaluations`: results by model."""
    models: dict[tuple[str, str], list[str]] = {}
    for model, results in evaluations.items():
        for suite, why in failures(results).items():
            models.setdefault((suite, why), []).append(model)
    for (suite, _), of in models.items():
        error = evaluations[of[0]][suite]["error"]
        yield f"Suite {suite} of {', '.join(of)} could not be measured: {error}. The same command measures it again."


def keep(measured: MeasuredSuite, place: Path) -> None:
    """Keep a suite in a file of the scratch folder, in case that this process is killed."""
    write_json_atomic(place, asdict(measured))


def kept(out: StageOutput) -> dict[str, MeasuredSuite]:
    """Every suite that is measured already."""
    earlier = [] if out.earlier is None else _of(out.earlier)
    return {one.suite: one for one in [*earlier, *_in(out.scratch)]}


def _of(evaluation: Artifact) -> Iterator[MeasuredSuite]:
    results = json.loads(evaluation.file(RESULTS).read_text(encoding="utf-8"))
    rows: dict[str, list[str]] = {}
    with evaluation.file(SAMPLES).open(encoding="utf-8") as file:
        for line in file:
            rows.setdefault(json.loads(line)["suite"], []).append(line.rstrip("\n"))
    return (MeasuredSuite(suite, row, rows.get(suite, [])) for suite, row in results.items() if "error" not in row)


def _in(scratch: Path) -> Iterator[MeasuredSuite]:
    for path in scratch.glob("suite-*.json"):
        with suppress(OSError, ValueError, TypeError):  # of a file that somebody broke: the suite is measured again
            yield MeasuredSuite(**json.loads(path.read_text(encoding="utf-8")))
