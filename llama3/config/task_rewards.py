"""Whether anything has tasks to ask, by what specs say: rounds need some, and so do suites that measure a pass rate."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from llama3.config.schema import Config, PostTrainingSection
from llama3.config.slot_types import Slot
from llama3.config.yaml import Path
from llama3.errors import ConfigError, LlamaError, Problem
from llama3.plugins.registry import Registry
from llama3.plugins.specs import AlgorithmSpec, EvaluatorSpec, RewardSpec

NO_TASKS = ConfigError.declare(
    "L3-CFG-044",
    "a round needs prompts, and {rewards} has none of its own",
    fix="add {asking} or `post_training: {{data: prompts.jsonl}}`",
)
NOT_MEASURABLE = ConfigError.declare(
    "L3-CFG-045",
    "the suite {name!r} cannot be measured",
    why="it asks held-out tasks of rewards, and {rewards} has none",
    fix="give the suite `rewards` that have tasks, or take it out here",
)


def have_tasks(rewards: Sequence[Slot], registry: Registry) -> bool:
    """Whether one of the rewards has tasks of its own; a plugin that is not usable is told of by others."""
    specs = [_spec(registry, "rewards", slot.name) for slot in rewards]
    return any(not isinstance(spec, RewardSpec) or spec.has_tasks for spec in specs)


def names_of(rewards: Sequence[Slot]) -> str:
    """The rewards as a sentence names them."""
    return ", ".join(slot.name for slot in rewards) or "an empty post_training.rewards"


def asking_line() -> str:
    """The YAML that names rewards which have tasks: the default ones."""
    return f"`post_training: {{rewards: [{', '.join(slot.name for slot in PostTrainingSection().rewards)}]}}`"


def is_measurable(suite: Slot, rewards: Sequence[Slot], registry: Registry) -> bool:
    """Whether a suite that asks tasks has some: of its own rewards, or else of the run's."""
    spec = _spec(registry, "evaluators", suite.name)
    asks = isinstance(spec, EvaluatorSpec) and spec.with_tasks and not suite.options.get("rewards")
    return not asks or have_tasks(rewards, registry)


def unmeasured_notes(config: Config, registry: Registry) -> Iterator[str]:
    """What a user is told before work starts of suites that will not be measured."""
    rewards = config.post_training.rewards
    for suite in config.evaluation.tasks:
        if not is_measurable(suite, rewards, registry):
            yield f"suite {suite.label} will not be measured: {names_of(rewards)} has no tasks to ask"


def task_problems(config: Config, registry: Registry, place: Callable[[Path], str]) -> Iterator[Problem]:
    """Rounds that no reward gives prompts to, and suites that the audit names and nothing can measure."""
    post = config.post_training
    if post.rounds and post.data is None and not have_tasks(post.rewards, registry):
        if not _is_told(config, registry):
            where = place(("post_training", "rewards"))
            yield NO_TASKS.problem(where, rewards=names_of(post.rewards), asking=asking_line())
        return  # rewards that have tasks mend the suites too
    suites = {suite.label: suite for suite in config.evaluation.tasks}
    for index, name in enumerate(config.audit.must_improve):
        if name in suites and not is_measurable(suites[name], post.rewards, registry):
            where = place(("audit", "must_improve", index))
            yield NOT_MEASURABLE.problem(where, name=name, rewards=names_of(post.rewards))


def _is_told(config: Config, registry: Registry) -> bool:
    """Whether the check of the algorithm says what is missing already."""
    post = config.post_training
    spec = _spec(registry, "algorithms", post.algorithm.name)
    if not isinstance(spec, AlgorithmSpec):
        return False
    asks = "rollouts" in spec.needs and spec.data == "prompts"
    return asks or ("reward" in spec.needs and not post.rewards and post.reward is None)


def _spec(registry: Registry, family: str, name: str) -> object:
    """The spec, or None where it is told elsewhere that there is none."""
    try:
        return registry.spec(family, name)
    except LlamaError:
        return None
