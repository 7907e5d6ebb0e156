"""Stages: typed functions from artifacts and options to one artifact, and the `out` they write to.

    @stage(output="checkpoint")
    def average(sft: Checkpoint, base: Checkpoint | None = None, *, options: AverageOptions, out: StageOutput) -> None:

The signature says everything: each parameter but `options` and `out` is an input, its annotation the type of artifact
that fills it (a plain `Artifact`: any), a default of None makes it optional, and `**others: Artifact` takes whatever
else is given. A stage knows nothing of runs: where `out` lies, whether the stage is skipped, what happens after a
crash, is decided by `run.RunDir`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, get_args, get_type_hints

from pydantic import BaseModel

from llama3.artifacts.artifact import TYPES, Artifact
from llama3.artifacts.progress import Display, ProgressBar, Unit
from llama3.errors import ArtifactError

ODD_INPUTS = ArtifactError.declare(
    "L3-ART-009", "the inputs {given!s} do not fill the roles {required!s}", why="further roles: {optional}"
)


@dataclass(frozen=True, slots=True)
class OfType:
    """Marks an input of a stage with the type of artifact that fills it."""

    name: str


Checkpoint = Annotated[Artifact, OfType("checkpoint")]
CorpusArtifact = Annotated[Artifact, OfType("corpus")]
Dialogs = Annotated[Artifact, OfType("dialogs")]
Preferences = Annotated[Artifact, OfType("preferences")]
Report = Annotated[Artifact, OfType("report")]
Shards = Annotated[Artifact, OfType("shards")]
Texts = Annotated[Artifact, OfType("texts")]
TokenizerArtifact = Annotated[Artifact, OfType("tokenizer")]
# `Corpus` and `Tokenizer` are what reads the artifacts of these types.


Failures = Callable[[Mapping[str, Any]], Mapping[str, str]]
"""Of an artifact's metrics, the parts that could not be made, each with why."""


def _none(metrics: Mapping[str, Any]) -> Mapping[str, str]:
    return {}


@dataclass(frozen=True, slots=True)
class Stage:
    """What a stage is called, makes and reads. Calling it calls its function.

    `required` and `optional` map roles to types of artifacts (None: any); with `others` it takes artifacts in further
    roles. `every_rank`: under `torchrun` all processes call it together, else the first one alone. `failures` tells, by
    the metrics of an artifact, which parts it lacks (see `stage`).
    """

    name: str
    function: Callable[..., None]
    output: str
    required: Mapping[str, str | None] = field(default_factory=dict)
    optional: Mapping[str, str | None] = field(default_factory=dict)
    others: bool = False
    every_rank: bool = False
    failures: Failures = _none

    def __post_init__(self) -> None:
        known = {*self.required.values(), *self.optional.values()} - {None}
        if unknown := {self.output, *known} - TYPES:
            raise ValueError(f"stage {self.name!r}: unknown artifact types {sorted(map(str, unknown))}")

    def __call__(self, **given: Any) -> None:
        self.function(**given)

    def run(self, inputs: Mapping[str, Artifact], options: BaseModel | None, out: StageOutput) -> None:
        """Call the function; None stands for the options of a stage that has none."""
        given = {} if options is None else {"options": options}
        self(**inputs, **given, out=out)

    def check(self, inputs: Mapping[str, Artifact]) -> None:
        """Refuse inputs that the function does not take. Raises ArtifactError."""
        known = {**self.required, **self.optional}
        if not self.required.keys() <= inputs.keys() or not (self.others or inputs.keys() <= known.keys()):
            required, optional = sorted(self.required), sorted(self.optional) or ["none"]
            raise ODD_INPUTS(f"stage {self.name}", given=sorted(inputs), required=required, optional=optional)
        for role, artifact in inputs.items():
            if (kind := known.get(role)) is not None:
                artifact.expect(kind)


def stage(
    *, output: str, every_rank: bool = False, failures: Failures = _none
) -> Callable[[Callable[..., None]], Stage]:
    """Declare a stage: it has the name of its function and makes an artifact of the type `output`.

    One whose artifact may lack parts tells which by `failures`. Such an artifact is used like any other, and made
    again the next time that it is asked for: what failed may have been passing. The stage then finds it in
    `StageOutput.earlier`, to take over what it has. The new one takes its place unless its failures are the same.

    Raises ValueError for a type that no artifact has.
    """

    def declare(function: Callable[..., None]) -> Stage:
        hints = get_type_hints(function, include_extras=True)
        required: dict[str, str | None] = {}
        optional: dict[str, str | None] = {}
        others = False
        for name, parameter in inspect.signature(function).parameters.items():
            if parameter.kind is parameter.VAR_KEYWORD:
                others = True
            elif name not in ("options", "out"):
                roles = required if parameter.default is parameter.empty else optional
                roles[name] = next(_types(hints[name]), None)
        return Stage(function.__name__, function, output, required, optional, others, every_rank, failures)

    return declare


def _types(annotation: Any) -> Iterator[str]:
    """The type that an annotation is marked with, `X | None` too."""
    for part in (annotation, *get_args(annotation)):
        yield from (mark.name for mark in getattr(part, "__metadata__", ()) if isinstance(mark, OfType))


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
    earlier: Artifact | None = None
    """The artifact of this very request that is made again, because parts of it failed (see `stage`)."""

    def event(self, kind: str, **fields: Any) -> None:
        """Write one line to the run's events.jsonl."""
        self.record(kind, **fields)

    def progress(
        self, description: str, total: int | None = None, unit: Unit = ""
    ) -> AbstractContextManager[ProgressBar]:
        """Show how far a loop is: `with out.progress("tokenise", n) as task: task.advance(1, loss=2.3)`."""
        return self.display.task(description, total, unit)
