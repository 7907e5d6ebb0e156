"""What a card tells of the guards in front of a model: whose code they are, and the models that they open, with the
figures of those models' own cards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llama3.artifacts import Artifact
from llama3.artifacts.artifact import MANIFEST
from llama3.errors import LlamaError
from llama3.plugins.registry import discover
from llama3.safety.policy import Leaf, parse_policy


@dataclass(frozen=True, slots=True)
class CarriedGuard:
    """A guard at a stage. `figures`: what the artifact that it opens measured of itself, where it is one of ours."""

    stage: str
    name: str
    dist: str
    version: str
    model: str = ""
    hash: str = ""
    figures: Mapping[str, Any] | None = None


def guards_of(policy: Mapping[str, Any], release: Path) -> list[CarriedGuard]:
    """The guards of a policy, stage by stage, whose models lie in the folder of a release, as the policy names them."""
    return [_guard(stage, leaf, release) for stage, leaf in parse_policy(policy).leaves()]


def _guard(stage: str, leaf: Leaf, release: Path) -> CarriedGuard:
    identity = discover().identity("guards", leaf.guard)
    model = leaf.options.get("model")
    known = _artifact(release / model) if isinstance(model, str) else None
    return CarriedGuard(
        stage=stage,
        name=leaf.guard,
        dist=identity["dist"],
        version=identity["version"],
        model=model if isinstance(model, str) else "",
        hash="" if known is None else known.hash,
        figures=None if known is None else known.metrics,
    )


def _artifact(model: Path) -> Artifact | None:
    """The artifact that a model is, where a stage of ours made it."""
    try:
        return Artifact(model) if (model / MANIFEST).is_file() else None
    except LlamaError:
        return None


def figure_lines(figures: Mapping[str, Any]) -> Sequence[str]:
    """The figures of a trained guard in a sentence each, as its own card has them; none where it is of another kind."""
    return [*_of_prompt_guard(figures), *_of_llama_guard(figures)]


def _of_prompt_guard(figures: Mapping[str, Any]) -> Sequence[str]:
    lines = []
    for side, told in (("test", "texts of its own sources that it never saw"), ("elsewhere", "texts from elsewhere")):
        found = figures.get(side)
        if isinstance(found, Mapping) and "separation" in found:
            auc, recall, fpr = (found["separation"].get("auc"), found.get("recall"), found.get("fpr"))
            lines.append(
                f"{told}: AUC {auc['value']:.3f} [{auc['low']:.3f}, {auc['high']:.3f}], "
                f"finds {_share(recall)} of the attacks and {_share(fpr)} of the harmless texts"
            )
    return lines


def _of_llama_guard(figures: Mapping[str, Any]) -> Sequence[str]:
    found = figures.get("all")
    if not (isinstance(found, Mapping) and {"f1", "recall", "fpr", "attacks", "harmless"} <= found.keys()):
        return []
    lines = [
        f"rows that it never saw: F1 {found['f1']:.3f}, finds {found['recall']:.1%} of {found['attacks']} unsafe and "
        f"{found['fpr']:.1%} of {found['harmless']} safe ones"
    ]
    names = figures.get("taxonomy", {})
    for category, row in figures.get("categories", {}).items():
        lines.append(
            f"{category} {names.get(category, '')}: F1 {row['f1']:.3f}, false positives {row['fpr']:.1%} "
            f"({row['attacks']} rows violate it)"
        )
    return lines


def _share(rate: Mapping[str, Any] | None) -> str:
    return "-" if rate is None else f"{rate['rate']:.1%} [{rate['low']:.1%}, {rate['high']:.1%}]"
