"""Exporters: what writes a checkpoint in another program's layout, and proves that what was written computes the same.
Torch-free.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True)
class ExportManifest:
    """What an exporter wrote."""

    layout: str
    dtype: str
    parameters: int
    files: tuple[str, ...]
    rounding: float = 0.0
    """Largest change of a probe's log-probability that the layout itself makes (fewer bits), in nats."""
    notes: tuple[str, ...] = ()
    """What the user should know of the result, in plain words."""


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What is left of the probe after writing and reading: the largest difference in nats, and how much is allowed."""

    difference: float
    tolerance: float
    log_probs: int
    tokens: int = 0
    """Greedily drawn tokens that were drawn again."""
    same_tokens: int = 0
    """How many of them came out the same, or as another token that is no less likely within the tolerance."""
    runtime: str = "llama3"
    """What computed from the written files."""
    not_verified: tuple[str, ...] = ()
    """What was written and could not be tried here, in plain words."""

    @property
    def passed(self) -> bool:
        return self.difference <= self.tolerance and self.same_tokens == self.tokens


class Exporter(Protocol):
    """Plugins of the family `exporters` build one."""

    def export(self, checkpoint: Path, folder: Path) -> ExportManifest:
        """Write the checkpoint directory `checkpoint` into the empty directory `folder`."""
        ...

    def verify(self, folder: Path) -> VerifyReport:
        """Read back what `export` wrote and compare."""
        ...
