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
    from llama3.testing.conformance import Conformance
    from llama3.testing.data_kinds import DataKindConformance
    from llama3.testing.guards import GuardConformance
    from llama3.testing.quantization import QuantizationConformance

__all__ = [
    "AlgorithmConformance",
    "Conformance",
    "DataKindConformance",
    "GuardConformance",
    "QuantizationConformance",
    "conformance_of",
]

_HOMES = {
    "AlgorithmConformance": "llama3.testing.algorithms",
    "Conformance": "llama3.testing.conformance",
    "DataKindConformance": "llama3.testing.data_kinds",
    "GuardConformance": "llama3.testing.guards",
    "QuantizationConformance": "llama3.testing.quantization",
}
_FAMILIES = {
    "algorithms": "AlgorithmConformance",
    "data_kinds": "DataKindConformance",
    "guards": "GuardConformance",
    "quantization": "QuantizationConformance",
}


def conformance_of(family: str) -> type[Conformance] | None:
    """The conformance class of a family, or None where there is none."""
    return getattr(importlib.import_module(__name__), _FAMILIES[family]) if family in _FAMILIES else None


def __getattr__(name: str) -> Any:
    """Each class lives beside the toy parts of its family, some of which need torch."""
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(name)
