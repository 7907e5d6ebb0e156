"""The guards between a user and a model: the policy that the model carries, else that of the run that made it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llama3.cli.output import note
from llama3.errors import ArtifactError, ConfigError
from llama3.safety.audit import AuditLog
from llama3.safety.engine import PolicyEngine

TEXTS_OF_WHAT = ConfigError.declare(
    "L3-CLI-023", "there is no audit log for texts", fix="name one: --audit FILE --audit-texts"
)


def open_policy(model: str | os.PathLike[str], audit: Path | None = None, *, audit_texts: bool = False) -> PolicyEngine:
    """The policy engine for a model, opened, with its guards printed.

    A release carries its policy, and no other takes its place. Raises PluginError or ConfigError where the policy
    cannot be kept, or `audit` not written: nothing is answered unguarded by accident.
    """
    from llama3.plugins.registry import discover

    registry = discover()
    log = log_at(audit, texts=audit_texts)
    policy, source = policy_for(Path(model))
    engine = PolicyEngine(policy, lambda name, options: registry.build("guards", name, options), log)
    engine.open()
    stages = [f"{stage}: {', '.join(engine.guards(stage)) or 'unguarded'}" for stage in engine.policy.stages]
    note(f"guards ({source}): {'; '.join(stages) or 'none'}")
    return engine


def log_at(path: Path | None, *, texts: bool) -> AuditLog | None:
    """The audit log that was asked for. Raises ConfigError for texts without one."""
    if path is None and texts:
        raise TEXTS_OF_WHAT("--audit-texts")
    return None if path is None else AuditLog(path, texts=texts)


def policy_for(path: Path) -> tuple[Mapping[str, Any], str]:
    """The policy of a model, and whose it is. Raises as `carried_policy`."""
    from llama3.config import load
    from llama3.config.schema import SafetySection
    from llama3.inference.llama import find_model
    from llama3.safety.carried import carried_policy

    folder = find_model(path)
    for place in (folder, folder.resolve().parent):  # a quantized model lies within its release
        if (policy := carried_policy(place)) is not None:
            return policy, f"policy of {place.name}"
    for place in (path.resolve(), *path.resolve().parents):
        if (place / "config.yaml").is_file() and (place / "artifacts").is_dir():
            return load(place, environ={}).config.safety.policy, f"policy of {place.name}"
    return SafetySection().policy, "default policy"


def policy_named(given: str) -> Mapping[str, Any]:
    """The policy of a config, a run, a release or any other model. Raises as `carried_policy` and `load`."""
    from llama3.config import load

    if Path(given).is_dir():
        try:
            return policy_for(Path(given))[0]
        except ArtifactError:  # a run that has no model yet
            pass
    return load(given).config.safety.policy
