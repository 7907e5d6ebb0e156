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
NO_POLICY = ConfigError.declare(
    "L3-CLI-026",
    "there is no policy to be read",
    why="{error}",
    fix="write a policy (input: GUARD) or a config with one (safety: {{policy: {{input: GUARD}}}}), or name a run or a "
    "release",
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


def policy_named(given: str) -> tuple[Mapping[str, Any], str]:
    """The policy that an option names, and whose it is: that in a file, of a config, a run, a release or any other
    model. Raises ConfigError where it is none of them, and as `carried_policy` and `load`."""
    from llama3.config import load
    from llama3.safety.policy import parse_policy

    path = Path(given)
    if path.is_dir():
        try:
            return policy_for(path)
        except ArtifactError:  # a run that has no model yet
            if not (path / "config.yaml").is_file():
                raise NO_POLICY(path, error="this folder is no release, run or model") from None
    elif (path.suffix or path.exists()) and (policy := _bare_policy(path)) is not None:
        parse_policy(policy, given)
        return policy, given
    return load(given).config.safety.policy, f"policy of {given}"


def _bare_policy(file: Path) -> Mapping[str, Any] | None:
    """The policy in a file; None where it is a config, which may have one. Raises ConfigError where it is neither."""
    from llama3.config import Config
    from llama3.config.yaml import parse
    from llama3.safety.policy import STAGES

    try:
        found = parse(file.read_text(encoding="utf-8"), str(file)).data
    except (OSError, UnicodeDecodeError) as error:
        raise NO_POLICY(file, error=error) from None
    if not isinstance(found, Mapping):
        raise NO_POLICY(file, error="it has no keys")
    sections, stages = set(found) & {*Config.model_fields, "extends"}, set(found) & set(STAGES)
    if sections and stages:
        raise NO_POLICY(file, error=f"a policy has no {min(sections)}, and a config no {min(stages)}")
    if found and not sections and not stages:
        raise NO_POLICY(
            file, error=f"{', '.join(map(str, found))}: neither a stage of a policy nor a section of a config"
        )
    return None if sections else found
