"""The kit of plugin authors: a conformance class per family, and the toy parts that they run on.

Subclass the class of your family in a test file, name your plugin, and run pytest:

    from llama3.testing import AlgorithmConformance

    class TestSimPO(AlgorithmConformance):
        plugin = "simpo"

`llama3 plugins check NAME` runs the same checks without a test file.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llama3.testing.algorithms import AlgorithmConformance
    from llama3.testing.attackers import AttackerConformance
    from llama3.testing.capabilities import CapabilityConformance
    from llama3.testing.commands import CommandConformance
    from llama3.testing.conformance import Conformance
    from llama3.testing.data_kinds import DataKindConformance
    from llama3.testing.evaluators import EvaluatorConformance
    from llama3.testing.exporters import ExporterConformance
    from llama3.testing.filters import FilterConformance
    from llama3.testing.guards import GuardConformance
    from llama3.testing.loggers import LoggerConformance
    from llama3.testing.parallelism import ParallelConformance
    from llama3.testing.presets import PresetConformance
    from llama3.testing.quantization import QuantizationConformance
    from llama3.testing.rewards import RewardConformance
    from llama3.testing.sources import SourceConformance

__all__ = [
    "AlgorithmConformance",
    "AttackerConformance",
    "CapabilityConformance",
    "CommandConformance",
    "Conformance",
    "DataKindConformance",
    "EvaluatorConformance",
    "ExporterConformance",
    "FilterConformance",
    "GuardConformance",
    "LoggerConformance",
    "ParallelConformance",
    "PresetConformance",
    "QuantizationConformance",
    "RewardConformance",
    "SourceConformance",
    "conformance_of",
]

_HOMES = {
    "AlgorithmConformance": "llama3.testing.algorithms",
    "AttackerConformance": "llama3.testing.attackers",
    "CapabilityConformance": "llama3.testing.capabilities",
    "CommandConformance": "llama3.testing.commands",
    "Conformance": "llama3.testing.conformance",
    "DataKindConformance": "llama3.testing.data_kinds",
    "EvaluatorConformance": "llama3.testing.evaluators",
    "ExporterConformance": "llama3.testing.exporters",
    "FilterConformance": "llama3.testing.filters",
    "GuardConformance": "llama3.testing.guards",
    "LoggerConformance": "llama3.testing.loggers",
    "ParallelConformance": "llama3.testing.parallelism",
    "PresetConformance": "llama3.testing.presets",
    "QuantizationConformance": "llama3.testing.quantization",
    "RewardConformance": "llama3.testing.rewards",
    "SourceConformance": "llama3.testing.sources",
}
_FAMILIES = {home.rpartition(".")[2]: name for name, home in _HOMES.items()}


def conformance_of(family: str) -> type[Conformance]:
    """The conformance class of a family: its module has the family's name."""
    found: type[Conformance] = getattr(importlib.import_module(__name__), _FAMILIES[family])
    return found


def __getattr__(name: str) -> Any:
    """Each class lives beside the toy parts of its family, some of which need torch."""
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(name)
