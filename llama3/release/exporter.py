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


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What is left of the probe after writing and reading: the largest difference in nats, and how much is allowed."""

    difference: float
    tolerance: float
    log_probs: int

    @property
    def passed(self) -> bool:
        return self.difference <= self.tolerance


class Exporter(Protocol):
    """Plugins of the family `exporters` build one."""

    def export(self, checkpoint: Path, folder: Path) -> ExportManifest:
        """Write the checkpoint directory `checkpoint` into the empty directory `folder`."""
        ...

    def verify(self, folder: Path) -> VerifyReport:
        """Read back what `export` wrote and compare."""
        ...
