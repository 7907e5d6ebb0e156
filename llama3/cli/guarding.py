"""The guards between a user and a model: the policy of the run that made the model, or the default policy."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from llama3.cli.output import note
from llama3.safety.engine import PolicyEngine


def open_policy(model: str | os.PathLike[str]) -> PolicyEngine:
    """The policy engine for a model's directory, opened, with its guards printed.

    Looks for the effective `config.yaml` of the run at or above `model`. Raises PluginError or ConfigError where the
    policy cannot be kept: nothing is answered unguarded by accident.
    """
    from llama3.plugins.registry import discover

    registry = discover()
    policy, source = _policy(Path(model).resolve())
    engine = PolicyEngine(policy, lambda name, options: registry.build("guards", name, options))
    engine.open()
    stages = [f"{stage}: {', '.join(engine.guards(stage)) or 'unguarded'}" for stage in engine.policy.stages]
    note(f"guards ({source}): {'; '.join(stages) or 'none'}")
    return engine


def _policy(path: Path) -> tuple[dict[str, Any], str]:
    from llama3.config import load
    from llama3.config.schema import SafetySection

    for folder in (path, *path.parents):
        if (folder / "config.yaml").is_file() and (folder / "artifacts").is_dir():
            return load(folder, environ={}).config.safety.policy, f"policy of {folder.name}"
    return SafetySection().policy, "default policy"
