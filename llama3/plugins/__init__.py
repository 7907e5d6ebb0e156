"""Plugins: what a third party implements (`hookimpl`, the specs) and how the system finds, checks and builds them.

Everything importable from here is torch-free, so that plugin modules stay cheap to discover.
"""

from llama3.plugins.hookspecs import hookimpl
from llama3.plugins.specs import (
    AlgorithmSpec,
    AttackerSpec,
    CapabilitySpec,
    CommandSpec,
    DataKindSpec,
    EvaluatorSpec,
    ExporterSpec,
    FilterSpec,
    GuardSpec,
    LoggerSpec,
    ParallelSpec,
    PluginSpec,
    PresetSpec,
    QuantizationSpec,
    RewardSpec,
    SourceSpec,
)

__all__ = [
    "AlgorithmSpec",
    "AttackerSpec",
    "CapabilitySpec",
    "CommandSpec",
    "DataKindSpec",
    "EvaluatorSpec",
    "ExporterSpec",
    "FilterSpec",
    "GuardSpec",
    "LoggerSpec",
    "ParallelSpec",
    "PluginSpec",
    "PresetSpec",
    "QuantizationSpec",
    "RewardSpec",
    "SourceSpec",
    "hookimpl",
]
