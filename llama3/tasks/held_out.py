"""The held-out tasks that a config measures models on: what no training text may hold. Torch-free."""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, ConfigDict

from llama3.config.schema import Config
from llama3.config.slot_types import RewardSlot
from llama3.data.curate import CurateOptions
from llama3.tasks.rewards import CombinedReward, TaskReward, build_rewards
from llama3.tasks.task import Task


class TasksOfRewards(BaseModel):
    """At most `limit` held-out tasks of some rewards."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rewards: list[RewardSlot]
    limit: int


class HeldOutTasks(BaseModel):
    """The held-out tasks of all suites."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    asked: list[TasksOfRewards]
    seed: int

    @classmethod
    def of(cls, config: Config) -> Self:
        """From the whole config: the tasks that its rewards give to evaluators, and those of suites with rewards of
        their own."""
        limit = config.evaluation.limit
        asked = [TasksOfRewards(rewards=config.post_training.rewards, limit=limit)]
        for slot in config.evaluation.tasks:
            if own := slot.options.get("rewards"):
                asked.append(TasksOfRewards(rewards=own, limit=slot.options.get("limit") or limit))
        return cls(asked=asked, seed=config.run.seed)

    def tasks(self) -> list[Task]:
        """All of them, each once."""
        found: dict[str, Task] = {}
        for asked in self.asked:
            built = build_rewards(asked.rewards)
            asking = {name: reward for name, reward in built.items() if isinstance(reward, TaskReward)}
            if asking:
                tasks = CombinedReward(asking).tasks("held_out", asked.limit, self.seed)
                found |= {task.id: task for task in tasks}
        return list(found.values())


def corpus_options(config: Config) -> CurateOptions:
    """The options of a config's corpus, with the held-out tasks that are taken out of it (`data.decontaminate.tasks`).
    Raises ConfigError as `CurateOptions.of` does."""
    asked = HeldOutTasks.of(config).tasks() if config.data.decontaminate.tasks else []
    return CurateOptions.of(config, [task.prompt for task in asked])
