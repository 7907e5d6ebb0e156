"""The guard policy that a model carries: `policy.json` beside its weights, which a release always has.

Models that guards of a config name by relative paths are looked for from the working directory, as all paths of a
config are. What carries a policy carries them too: they lie under `guards/` beside `policy.json`, which names them
relative to itself, so that the folder may be moved.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from llama3.config.crosscheck import MISPLACED_GUARD
from llama3.errors import ConfigError, LlamaError
from llama3.foreign import UnusableFile, read_json
from llama3.plugins.registry import discover
from llama3.plugins.specs import GuardSpec
from llama3.safety.engine import PolicyEngine
from llama3.safety.policy import Policy, parse_policy

NOT_READABLE = ConfigError.declare(
    "L3-SAF-014",
    "the policy of this model cannot be read ({error})",
    why="nothing is answered without the guards that a model was released with",
    fix="restore the file from the release",
)
NO_POLICY = ConfigError.declare(
    "L3-SAF-015",
    "this release has no {file}",
    why="nothing is answered without the guards that a model was released with",
    fix="restore the file from the release",
)

POLICY_FILE = "policy.json"
LINEAGE_FILE = "lineage.json"
"""Only releases have it: what does, must have a policy."""


def open_carried(folder: Path) -> PolicyEngine | None:
    """The guards that the model in a folder was released with, opened; None for a model that is no release.

    Raises ConfigError and PluginError where they cannot stand.
    """
    policy = policy_of(folder)
    return None if policy is None else opened_policy(policy)


def try_policy(policy: Mapping[str, Any]) -> None:
    """Open and close the guards of a policy, before work whose result needs them. Raises as `PolicyEngine.open`."""
    opened_policy(policy).close()


def policy_of(model: Path) -> Mapping[str, Any] | None:
    """The policy that a model carries, or the release that it lies in. Raises as `carried_policy`."""
    policy = carried_policy(model)
    if policy is None:
        policy = carried_policy(model.resolve().parent)  # a quantized model lies within its release
    return policy


def opened_policy(policy: Mapping[str, Any]) -> PolicyEngine:
    """The guards of a policy, opened. Raises as `PolicyEngine.open`."""
    registry = discover()
    engine = PolicyEngine(policy, lambda name, options: registry.build("guards", name, options))
    engine.open()
    return engine


def carried_policy(folder: Path) -> Mapping[str, Any] | None:
    """The policy of the model in a folder, as plain data, with the places where its guards' models lie; None for a
    model that is no release and has none.

    Raises ConfigError where it is missing from a release, is no policy, or has a guard at a stage that is none of its.
    """
    if folder.is_file():  # GGUF: what lies beside it is asked for next
        return None
    file = folder / POLICY_FILE
    try:
        policy = read_json(file, once=True)
    except FileNotFoundError:
        if (folder / LINEAGE_FILE).exists():
            raise NO_POLICY(folder, file=POLICY_FILE) from None
        return None
    except UnusableFile as error:
        raise NOT_READABLE(file, error=error) from error
    require_places(parse_policy(policy, str(file)), str(file))
    return with_models(policy, lambda guard, path: str(folder.resolve() / path))


def require_places(policy: Policy, where: str) -> None:
    """Raises ConfigError naming every guard that stands at a stage for which it is not made; one that is not installed
    is named when the policy is opened."""
    problems = []
    for stage, leaf in policy.leaves():
        try:
            spec = discover().spec("guards", leaf.guard)
        except LlamaError:
            continue
        if isinstance(spec, GuardSpec) and stage not in spec.stages:
            stages = " or ".join(sorted(spec.stages))
            problems.append(MISPLACED_GUARD.problem(f"{where}.{stage}", name=leaf.guard, stage=stage, stages=stages))
    if problems:
        raise ConfigError.of(problems)


def with_models(policy: Mapping[str, Any], place: Callable[[str, str], str]) -> dict[str, Any]:
    """The policy, where the models that guards name are what `place` makes of each guard and path."""
    return {stage: _placed(tree, place) for stage, tree in policy.items()}


def _placed(tree: Any, place: Callable[[str, str], str]) -> Any:
    if isinstance(tree, list):
        return [_placed(child, place) for child in tree]
    if not isinstance(tree, Mapping):
        return tree
    if "guard" not in tree:
        return {key: _placed(child, place) for key, child in tree.items()}
    guard = tree["guard"]
    if not isinstance(guard, Mapping) or "name" not in guard:
        return tree
    changed = {key: place(guard["name"], guard[key]) for key in _models_of(guard["name"]) if guard.get(key)}
    return {**tree, "guard": {**guard, **changed}}


def _models_of(guard: str) -> frozenset[str]:
    """The options of a guard that name models; of one that is not installed none are known."""
    try:
        spec = discover().spec("guards", guard)
    except LlamaError:
        return frozenset()
    return spec.models if isinstance(spec, GuardSpec) else frozenset()
