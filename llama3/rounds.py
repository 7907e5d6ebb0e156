"""What a round of the recipe takes from rounds before it and from other models, and how models of one stage are
averaged."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from pydantic import BaseModel

from llama3.artifacts import Artifact, Stage
from llama3.config import Config
from llama3.execution import Executor
from llama3.outcome import Round
from llama3.posttraining.average import AverageOptions, average
from llama3.posttraining.joining import earlier, gathered, paced, taught
from llama3.posttraining.policies import PolicyOptions, policies
from llama3.posttraining.preferences import RoundPart
from llama3.posttraining.reject import RejectOptions, reject


@dataclass(frozen=True, slots=True)
class Lessons:
    """What a model has from other sizes of its herd; by default nothing."""

    start: Artifact | None = None
    """A checkpoint that pretraining begins with."""
    vocabulary: Artifact | None = None
    """What has its tokenizer."""
    teacher: Artifact | None = None
    """A model whose verified answers are learnt where the learner's own all fail."""
    judge: Artifact | None = None
    """A reward model that joins the rewards."""
    pace: Mapping[int, Artifact] = field(default_factory=dict)
    """By round, dialogs of which there shall be as many: those of the twin that has a teacher."""

    def join(self, make: Executor, config: Config, n: int, dialogs: Artifact, last: Round | None) -> Artifact:
        """The dialogs of a round with the teacher's answers to its prompts, or as many as the twin has."""
        if self.teacher is not None:
            rates = last.asked if last else None
            shown = make(reject, f"teach-{n}", RejectOptions.of(config, n), checkpoint=self.teacher, earlier=rates)
            dialogs = make(taught, f"taught-{n}", dialogs=dialogs, teacher=shown)
        if n in self.pace:
            dialogs = make(paced, f"paced-{n}", dialogs=dialogs, like=self.pace[n])
        return dialogs


ALONE = Lessons()


def chosen_policies(make: Executor, config: Config, n: int, final: Artifact, last: Round | None) -> dict[str, Artifact]:
    """What `reject` needs to let the best model of the round before answer each kind of task; by default `final` does
    (`post_training.reject.by_capability`)."""
    if last is None or not config.post_training.reject.by_capability:
        return {}
    others = {"sft": last.tuned, "prefer": last.preferred}
    found = make(policies, f"policies-{n}", PolicyOptions.of(config, n), checkpoint=final, **others)
    return {"chosen": found, **others}


def with_earlier(make: Executor, config: Config, n: int, dialogs: Artifact, last: Round | None) -> Artifact:
    """The dialogs of a round with the verified answers of those before (`post_training.reject.earlier`)."""
    if last is None or not config.post_training.reject.earlier:
        return dialogs
    return make(earlier, f"earlier-{n}", dialogs=dialogs, before=last.dialogs)


def parts_of(config: Config) -> list[RoundPart]:
    """The parts of the preference stage of a round: one, but where the reward model goes on learning in between
    (`post_training.reward.updates`)."""
    section = config.post_training.reward
    count = 1 + (section.updates if section is not None else 0)
    return [RoundPart(number, count) for number in range(1, count + 1)]


def pairs_so_far(make: Executor, config: Config, key: str, pairs: Artifact, before: Artifact | None) -> Artifact:
    """All preferences up to these, where a reward model learns from them."""
    if before is None or config.post_training.reward is None:
        return pairs
    return make(gathered, key, preferences=pairs, before=before)


def averaged(
    make: Executor,
    stage: Stage,
    key: str,
    members: int,
    options: Callable[[int], BaseModel],
    **inputs: Artifact | None,
) -> Artifact:
    """The mean of so many models of one stage that differ in the order of data (paper 4.1.5); of one, itself."""
    mean = make(stage, key, options(0), **inputs)
    make.warn(learnt_nothing(key, mean, inputs.get("checkpoint")))
    for m in range(1, members):
        model = make(stage, f"{key}-member{m + 1}", options(m), **inputs)
        weights = AverageOptions(weights=(m / (m + 1), 1 / (m + 1)))
        mean = make(average, f"{key}-mean{m + 1}", weights, a=mean, b=model)
    return mean


def learnt_nothing(key: str, made: Artifact, begun: Artifact | None) -> list[str]:
    """A line where a model has the weights that it began with."""
    before, after = (_weights(model) if model is not None else {} for model in (begun, made))
    if not after or before != after:
        return []
    why = "no answer was better than another, or every update was skipped"
    return [f"{key} learnt nothing: its weights are those that it began with ({why}; see metrics.jsonl)"]


def _weights(model: Artifact) -> dict[str, str]:
    return {entry.path: entry.blake3 for entry in model.manifest.files if entry.path.endswith(".safetensors")}
