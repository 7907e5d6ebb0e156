"""Stages: functions from artifacts and options to one artifact, and the `out` they write to.

A stage is a declaration and a function `(inputs, options, out) -> None`. It knows nothing of runs: where
`out` lies, whether the stage is skipped, what happens after a crash, is decided by `run.RunDir`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from llama3.artifacts.artifact import TYPES, Artifact
from llama3.artifacts.progress import Display, ProgressBar
from llama3.errors import ArtifactError, Problem

StageFunction = Callable[[Mapping[str, Artifact], Any, "StageOutput"], None]


@dataclass(frozen=True, slots=True)
class Stage:
    """What a stage is called, reads and makes.

    `inputs` maps each role to the type of artifact that fills it; `options_of` takes the whole config and
    returns the stage's options (a pydantic model), whose JSON enters the artifact's `config_hash`.
    """

    name: str
    run: StageFunction
    inputs: Mapping[str, str]
    output: str
    options_of: Callable[[Any], BaseModel] | None = None

    def __post_init__(self) -> None:
        unknown = {self.output, *self.inputs.values()} - TYPES
        if unknown:
            raise ValueError(f"stage {self.name!r}: unknown artifact types {sorted(unknown)}")

    def check(self, inputs: Mapping[str, Artifact]) -> None:
        """Refuse inputs that do not fill the declared roles. Raises ArtifactError (L3-ART-009,
        L3-ART-007).
        """
        if set(inputs) != set(self.inputs):
            raise ArtifactError(
                Problem(
                    "L3-ART-009",
                    f"stage {self.name}",
                    f"the inputs {sorted(inputs)} do not fill the roles {sorted(self.inputs)}",
                )
            )
        for role, kind in self.inputs.items():
            inputs[role].expect(kind)


@dataclass(slots=True)
class StageOutput:
    """What a stage writes to (`out`).

    `metrics` enters the manifest and thus the artifact's identity: deterministic values only. Timings and
    anything else that differs between two equal runs belongs into `event` or a file in `logs`.
    """

    path: Path
    """An empty directory: the payload. It becomes visible, whole, when the stage returns."""
    scratch: Path
    """Survives kills of this very request (same inputs, options, plugins): for checkpoints inside the
    stage.
    """
    logs: Path | None = None
    """The run directory, where loggers put their files; None where a stage runs outside a run."""
    metrics: dict[str, Any] = field(default_factory=dict)
    record: Callable[..., None] = lambda kind, **fields: None
    display: Display = field(default_factory=Display.silent)

    def event(self, kind: str, **fields: Any) -> None:
        """Write one line to the run's events.jsonl."""
        self.record(kind, **fields)

    def progress(self, description: str, total: int | None = None) -> AbstractContextManager[ProgressBar]:
        """Show how far a loop is: `with out.progress("tokenise", n) as task: task.advance(1, loss=2.3)`."""
        return self.display.task(description, total)
