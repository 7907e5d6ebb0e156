"""The stage `policies`: which model answers which kind of task in a round (paper 4.2.2, "the best checkpoint for that
capability").

The models of the round before answer some training tasks once; for each kind the one that solves most is chosen, and
the last one where it is not beaten.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Self

from llama3.artifacts import Artifact, Checkpoint, StageOutput, stage
from llama3.artifacts.files import write_json_atomic
from llama3.checkpoints.load import load_model, read_config
from llama3.config.schema import Config
from llama3.inference.engine import throughput_engine
from llama3.model.device import device_of
from llama3.posttraining.sampling import (
    SamplingOptions,
    build_reward,
    draw_tasks,
    sample_tasks,
    with_room,
)
from llama3.tasks import Task
from llama3.tasks.named_files import named_files
from llama3.tokenizer import Tokenizer

OWN = "checkpoint"
"""The role of the last model, which answers whatever no other is better at."""


class PolicyOptions(SamplingOptions):
    """How the models are compared: by one answer to each prompt, drawn as in the round."""

    @classmethod
    def of(cls, config: Config, round_number: int) -> Self:
        """From the whole config. The prompts are others than those of any round."""
        section = config.post_training.reject
        fields = cls.fields_of(section) | {"prompts": section.by_capability, "samples": 1}
        return cls(
            **fields,
            rewards=tuple(config.post_training.rewards),
            files=named_files(config.post_training.rewards),
            seed=config.run.seed * 1000 + 500 + round_number,
            device=str(device_of(config.run.device)),
            precision=section.precision,
        )


@stage(output="report")
def policies(checkpoint: Checkpoint, *, options: PolicyOptions, out: StageOutput, **others: Checkpoint) -> None:
    """Metrics: `solved` {kind: {role: share}}, `n` {kind: tasks} and `chosen` {kind: role}."""
    tokenizer, combined = Tokenizer.load(checkpoint.path), build_reward(options.rewards, None, options.device)
    room = read_config(checkpoint.path).max_seq_len
    tasks = draw_tasks(combined, options.prompts, options.seed, out)
    tasks = list(with_room(tasks, tokenizer, options.max_tokens, room, out))
    solved: defaultdict[str, dict[str, float]] = defaultdict(dict)
    count = Counter(capability(task.family) for task in tasks)
    for role, model in {OWN: checkpoint, **others}.items():
        engine = throughput_engine(load_model(model.path, device=options.device), options.precision)
        sampled = sample_tasks(engine, tokenizer, combined, tasks, options, out)
        right = Counter(capability(row.task.family) for row in sampled if any(one.passed for one in row.samples))
        for kind, n in sorted(count.items()):
            solved[kind][role] = round(right[kind] / n, 4)
    best = {kind: max(rates, key=lambda role: rates[role]) for kind, rates in solved.items()}
    out.metrics |= {"n": dict(sorted(count.items())), "solved": dict(solved), "chosen": best}
    write_json_atomic(out.path / "results.json", out.metrics)


def capability(family: str) -> str:
    """The kind of task that a family belongs to: its name up to the first point."""
    return family.partition(".")[0]


def by_policy(tasks: Sequence[Task], chosen: Artifact | None) -> dict[str, list[Task]]:
    """The tasks by the role of the model that answers them."""
    found: Mapping[str, Any] = {} if chosen is None else chosen.metrics["chosen"]
    groups: defaultdict[str, list[Task]] = defaultdict(list)
    for task in tasks:
        groups[found.get(capability(task.family), OWN)].append(task)
    return dict(groups)
