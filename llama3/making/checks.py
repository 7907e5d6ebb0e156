"""What `post_training.capabilities` would stumble over, found before a run starts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from llama3.config.schema import Config
from llama3.config.slot_types import CapabilitySlot
from llama3.errors import ConfigError, LlamaError, Problem
from llama3.evaluation.served import ServedChat
from llama3.plugins.registry import discover
from llama3.plugins.specs import CapabilitySpec, RewardSpec
from llama3.synthesis.writers import is_served

TWICE = ConfigError.declare("L3-CAP-003", "{name!r} is there twice", fix="keep one, with more prompts")
NO_ROUND = ConfigError.declare(
    "L3-CAP-004", "no round would learn it", why="{why}", fix="remove post_training.capabilities, or {fix}"
)
LACKS = ConfigError.declare("L3-CAP-005", "{name!r} needs {need}, and there is none", fix="{fix}")
NO_MODEL = ConfigError.declare("L3-CAP-006", "there is no model at {path!r}", fix="name a folder or a file that is one")
ALL_OF_IT = ConfigError.declare(
    "L3-CAP-007", "the shares sum up to {total}", why="nothing is left for the round itself", fix="keep below 1"
)
FIXES = {
    "tasks": ("tasks", "name a reward that has tasks under post_training.rewards"),
    "score": ("a reward that ranks answers", "add `post_training: {{reward: {{}}}}`, or a reward model to its rewards"),
    "judge": ("another model as its judge", "name one beside it: `judge: PATH or URL`"),
}
HERE = "post_training.capabilities"


def capability_problems(config: Config) -> Iterator[Problem]:
    """Recipes that no round would learn from, that lack what they need, or whose models are not there. Torch-free."""
    post = config.post_training
    if not post.capabilities:
        return
    if post.data is not None or not post.rounds:
        why, fix = ("there is no round", "set post_training.rounds above 0")
        if post.data is not None:
            why, fix = ("post_training.data is learnt in place of rounds", "post_training.data")
        yield NO_ROUND.problem(HERE, why=why, fix=fix)
    if (total := sum(slot.share or 0 for slot in post.capabilities)) >= 1:
        yield ALL_OF_IT.problem(HERE, total=f"{total:g}")
    seen: set[str] = set()
    for index, slot in enumerate(post.capabilities):
        if slot.name in seen:
            yield TWICE.problem(f"{HERE}.{index}", name=slot.name)
        seen.add(slot.name)
        yield from _lacking(config, slot, f"{HERE}.{index}")
        yield from _models(slot, f"{HERE}.{index}")


def _lacking(config: Config, slot: CapabilitySlot, where: str) -> Iterator[Problem]:
    try:
        spec = discover().spec("capabilities", slot.name)
    except LlamaError:
        return  # told by others
    post = config.post_training
    specs = [_reward(one.name) for one in post.rewards]
    there = {
        "documents": True,
        "tasks": any(one is None or one.has_tasks for one in specs),
        "score": post.reward is not None or any(one is None or not one.has_tasks for one in specs),
        "judge": slot.judge is not None,
    }
    for need in sorted(spec.needs if isinstance(spec, CapabilitySpec) else ()):
        if not there[need]:
            what, fix = FIXES[need]
            yield LACKS.problem(where, name=slot.name, need=what, fix=fix.format())


def _reward(name: str) -> RewardSpec | None:
    try:
        spec = discover().spec("rewards", name)
    except LlamaError:
        return None  # told by others
    return spec if isinstance(spec, RewardSpec) else None


def _models(slot: CapabilitySlot, where: str) -> Iterator[Problem]:
    for key, model in (("model", slot.model), ("judge", slot.judge)):
        try:
            if model is not None and not is_served(model) and not Path(model).exists():
                yield NO_MODEL.problem(f"{where}.{key}", path=model)
        except LlamaError as error:  # an address that is none
            yield from (replace(problem, where=f"{where}.{key}") for problem in error.problems)


def try_capabilities(config: Config) -> None:
    """Build every recipe, and ask every server for a word, before work that they could end starts. Raises what is
    wrong, with the key."""
    for index, slot in enumerate(config.post_training.capabilities):
        where = f"{HERE}.{index}"
        try:
            discover().build("capabilities", slot.name, slot.options)
            for model, served in ((slot.model, slot.served), (slot.judge, slot.served_judge)):
                if model is not None and is_served(model):
                    ServedChat(model, served, "server").complete("How are you?", max_tokens=1)
        except LlamaError as error:
            raise type(error).of([replace(told, where=f"{where}: {told.where}") for told in error.problems]) from error
