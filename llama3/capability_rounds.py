"""Capability recipes in a round of the recipe: what they make, and where it joins the rest."""

from __future__ import annotations

from collections.abc import Mapping

from llama3.artifacts import Artifact
from llama3.config import Config
from llama3.execution import Executor
from llama3.given import curated
from llama3.making.joining import SharesOptions, with_made, with_made_pairs, with_steps
from llama3.making.stage import CapabilityOptions, capability, told

Skills = Mapping[str, Artifact]
"""What each recipe made, by its name."""


def practised(make: Executor, config: Config, n: int, checkpoint: Artifact, reward: Artifact | None) -> Skills:
    """The dialogs of the recipes of `post_training.capabilities`; that one of them keeps nothing is told every time."""
    made: dict[str, Artifact] = {}
    for slot in config.post_training.capabilities:
        known = {"corpus": curated(make, config), "reward": reward}
        options = CapabilityOptions.of(config, slot, n)
        made[slot.name] = make(capability, f"capability-{slot.name}-{n}", options, checkpoint=checkpoint, **known)
        make.warn(told(made[slot.name].metrics))
    return made


def with_skills(make: Executor, config: Config, n: int, dialogs: Artifact, skills: Skills) -> Artifact:
    """The dialogs of a round, and those of the recipes, each within its share."""
    if not any(made.metrics["kept"] for made in skills.values()):
        return dialogs
    return make(with_made, f"skills-{n}", SharesOptions.of(config), dialogs=dialogs, **skills)


def with_skill_pairs(make: Executor, suffix: str, pairs: Artifact, skills: Skills) -> Artifact:
    """The preferences of a round, and those of the recipes."""
    if not any(made.metrics["pairs"] for made in skills.values()):
        return pairs
    return make(with_made_pairs, f"skill-pairs{suffix}", preferences=pairs, **skills)


def with_skill_steps(make: Executor, config: Config, suffix: str, pairs: Artifact, skills: Skills) -> Artifact:
    """All preferences so far, and the steps that the recipes compared, where a reward model learns from them."""
    if config.post_training.reward is None or not any(made.metrics["steps"] for made in skills.values()):
        return pairs
    return make(with_steps, f"skill-steps{suffix}", preferences=pairs, **skills)
