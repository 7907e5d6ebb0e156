"""Every hook a plugin may implement. Implement any of them in a module and point the entry-point group
`llama3.plugins` at it.

Registration hooks are called once after discovery and return a list of specs (return, do not yield; no default
values in the signature). Observer hooks are told what happens and return nothing; an observer that raises is
named, switched off, and the run goes on.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pluggy

from llama3.plugins import specs

PROJECT = "llama3"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def llama3_sources() -> list[specs.SourceSpec]:
    """Readers of raw documents, chosen under `data.sources`. On failure: the shard is quarantined and named."""
    raise AssertionError("specification only")


@hookspec
def llama3_filters() -> list[specs.FilterSpec]:
    """Document filters, chosen under `data.filters`. On failure: the command ends (exit code 4)."""
    raise AssertionError("specification only")


@hookspec
def llama3_parallel_strategies() -> list[specs.ParallelSpec]:
    """Parallelism strategies, chosen under `parallelism`. On failure: before weights load."""
    raise AssertionError("specification only")


@hookspec
def llama3_data_kinds() -> list[specs.DataKindSpec]:
    """Kinds of data, named by `AlgorithmSpec.data` and known by the columns of `post_training.data`. On failure: before
    weights load."""
    raise AssertionError("specification only")


@hookspec
def llama3_algorithms() -> list[specs.AlgorithmSpec]:
    """Training algorithms, chosen under `post_training.algorithm`. On failure: before weights load."""
    raise AssertionError("specification only")


@hookspec
def llama3_rewards() -> list[specs.RewardSpec]:
    """Rewards, chosen under `post_training.rewards`. On failure: hard."""
    raise AssertionError("specification only")


@hookspec
def llama3_capabilities() -> list[specs.CapabilitySpec]:
    """Recipes that make dialogs for one skill, chosen under `post_training.capabilities`. On failure: hard."""
    raise AssertionError("specification only")


@hookspec
def llama3_quantization_schemes() -> list[specs.QuantizationSpec]:
    """Quantization schemes, chosen under `quantization`. On failure: before weights load."""
    raise AssertionError("specification only")


@hookspec
def llama3_guards() -> list[specs.GuardSpec]:
    """Safety guards, chosen in `safety.policy`. On failure: closed (the text is blocked)."""
    raise AssertionError("specification only")


@hookspec
def llama3_attackers() -> list[specs.AttackerSpec]:
    """Writers of attacks, chosen by `llama3 redteam --attacker`. On failure: the red team ends, and goes on when it is
    begun again."""
    raise AssertionError("specification only")


@hookspec
def llama3_evaluators() -> list[specs.EvaluatorSpec]:
    """Evaluators, chosen under `evaluation.tasks`. On failure: that task only."""
    raise AssertionError("specification only")


@hookspec
def llama3_exporters() -> list[specs.ExporterSpec]:
    """Exporters, chosen under `release.exports`. On failure: nothing appears."""
    raise AssertionError("specification only")


@hookspec
def llama3_loggers() -> list[specs.LoggerSpec]:
    """Metric loggers, chosen under `logging`. On failure: open (warned once, switched off)."""
    raise AssertionError("specification only")


@hookspec
def llama3_commands() -> list[specs.CommandSpec]:
    """Commands of the `llama3` program. On failure: that command only."""
    raise AssertionError("specification only")


@hookspec
def llama3_presets() -> list[specs.PresetSpec]:
    """Packages of config presets. On failure: that preset only."""
    raise AssertionError("specification only")


@hookspec
def llama3_run_start(run_dir: Path, config: dict[str, Any]) -> None:
    """Observer: a run begins, after its config was validated."""


@hookspec
def llama3_step_end(stage: str, step: int, metrics: dict[str, float]) -> None:
    """Observer: an optimizer step ended and its metrics were logged."""


@hookspec
def llama3_checkpoint_saved(stage: str, step: int, path: Path) -> None:
    """Observer: a checkpoint was committed. Told between two steps, some steps after the one it is of: checkpoints are
    written behind training."""


@hookspec
def llama3_eval_done(task: str, result: dict[str, Any]) -> None:
    """Observer: an evaluator finished."""


@hookspec
def llama3_request_end(request_id: str, outcome: str, timings: dict[str, float], request: dict[str, Any]) -> None:
    """Observer: a request to a server ended. `outcome` is an error's code, or why its answers ended; `timings` are in
    seconds, of the whole, until the first token, and as far as it came of the queue, the prompts and the answers.
    `request` has its route, model, status, the beginning of its key's hash, tokens, why each answer ended, when it
    ended (seconds since 1970), and as `parent` the headers of the trace that it is a part of; nothing of what was
    said."""


@hookspec
def llama3_run_end(run_dir: Path, status: str, error: str | None) -> None:
    """Observer: the run ended; `status` is "ok", "failed" or "interrupted"."""


REGISTRATION: dict[str, type[specs.PluginSpec]] = {
    "llama3_sources": specs.SourceSpec,
    "llama3_filters": specs.FilterSpec,
    "llama3_parallel_strategies": specs.ParallelSpec,
    "llama3_data_kinds": specs.DataKindSpec,
    "llama3_algorithms": specs.AlgorithmSpec,
    "llama3_rewards": specs.RewardSpec,
    "llama3_capabilities": specs.CapabilitySpec,
    "llama3_quantization_schemes": specs.QuantizationSpec,
    "llama3_guards": specs.GuardSpec,
    "llama3_attackers": specs.AttackerSpec,
    "llama3_evaluators": specs.EvaluatorSpec,
    "llama3_exporters": specs.ExporterSpec,
    "llama3_loggers": specs.LoggerSpec,
    "llama3_commands": specs.CommandSpec,
    "llama3_presets": specs.PresetSpec,
}
"""Registration hook -> the spec it returns a list of."""

OBSERVERS = (
    "llama3_run_start",
    "llama3_step_end",
    "llama3_checkpoint_saved",
    "llama3_eval_done",
    "llama3_request_end",
    "llama3_run_end",
)
"""Hooks that are told what happens and return nothing."""
