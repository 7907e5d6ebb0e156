"""A model in another program's layout: written beside its place, read back and compared, then renamed."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Real
from pathlib import Path
from typing import Any

from llama3.artifacts.new_directory import new_directory, require_new
from llama3.checkpoints.companions import carry_policy
from llama3.checkpoints.license import copy_terms
from llama3.errors import GateFailed
from llama3.plugins.asking import asked, what
from llama3.plugins.registry import discover
from llama3.release.exporter import Exporter, ExportManifest, VerifyReport

DIFFERENT_EXPORT = GateFailed.declare(
    "L3-REL-004",
    "{name}: reading back changes log-probabilities by {difference} nats",
    why="at most {tolerance} is allowed",
    fix="report this with the model's config.json",
)
OTHER_TOKENS = GateFailed.declare(
    "L3-REL-010",
    "{name}: {runtime} draws {same} of {tokens} greedy tokens as the engine does",
    why="all must be the same",
    fix="report this with the model's config.json",
)


def export(
    checkpoint: Path, folder: Path, name: str, options: Mapping[str, Any] | None = None
) -> tuple[ExportManifest, VerifyReport]:
    """Write the model at `checkpoint`, of any layout, into the new directory `folder` by the exporter called `name`.

    Raises ConfigError where `folder` holds something, PluginError where the exporter lacks a package or fails,
    GateFailed where what was written does not compute the same; then nothing appears.
    """
    require_new(folder)
    exporter = discover().build("exporters", name, options)
    with new_directory(folder) as place:
        done = write_and_verify(exporter, name, checkpoint, place)
        copy_terms(checkpoint, place)
        carry_policy(checkpoint, place)
    return done


def write_and_verify(
    exporter: Exporter, name: str, checkpoint: Path, folder: Path
) -> tuple[ExportManifest, VerifyReport]:
    """Export into an empty directory, read back and compare. Raises GateFailed."""
    exporter = asked(f"exporters.{name}", exporter, {"export": _made_fault, "verify": _report_fault})
    made = exporter.export(checkpoint, folder)
    report = exporter.verify(folder)
    if not report.difference <= report.tolerance:  # NaN too
        difference, tolerance = f"{report.difference:.3g}", f"{report.tolerance:g}"
        raise DIFFERENT_EXPORT(folder, name=name, difference=difference, tolerance=tolerance)
    if not report.passed:
        raise OTHER_TOKENS(folder, name=name, runtime=report.runtime, same=report.same_tokens, tokens=report.tokens)
    return made, report


def _made_fault(made: object, checkpoint: Path, folder: Path) -> str:
    if not isinstance(made, ExportManifest):
        return f"{what(made)}, not an ExportManifest"
    root = folder.resolve()
    places = {file: (root / file).resolve() for file in made.files}
    lost = [file for file, place in places.items() if not (place.is_relative_to(root) and place.is_file())]
    return f"there is no file {lost[0]!r} in its folder" if lost else ""


def _report_fault(report: object, *_: object) -> str:
    if not isinstance(report, VerifyReport):
        return f"{what(report)}, not a VerifyReport"
    numbers = all(isinstance(number, Real) for number in (report.difference, report.tolerance))
    return "" if numbers else f"its difference and tolerance are no numbers: {report}"
