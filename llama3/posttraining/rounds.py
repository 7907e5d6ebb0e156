"""The stages of a post-training round, in the order in which they run (paper 4, figure 7):

    base ──> reject ──> sft ──> preferences ──> prefer ──> average
              (dialogs)  │                         │          │
                         └─────────────────────────┴──────────┘

`reject` samples from the best model so far (in round 1 the base model); `sft` always starts from the base model, as
the paper does. What samples is given by the caller, so that these stages know nothing of the engine.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

from llama3.artifacts import Stage
from llama3.posttraining.average import AverageOptions, average
from llama3.posttraining.finetune import PreferOptions, RewardOptions, SFTOptions, prefer, reward, sft
from llama3.posttraining.preferences import PreferencesOptions, preferences
from llama3.posttraining.reject import RejectOptions, reject
from llama3.posttraining.services import OpenGenerate


@dataclass(frozen=True)
class Stages:
    """The six stages; `options_of` of each takes the whole config."""

    reject: Stage
    sft: Stage
    preferences: Stage
    reward: Stage
    prefer: Stage
    average: Stage


def stages(open_generate: OpenGenerate) -> Stages:
    """The stages of a round, sampling with `open_generate`. Sampling options take the round's number too."""
    return Stages(
        reject=Stage(
            "reject",
            partial(reject, open_generate=open_generate),
            inputs={"checkpoint": "checkpoint"},
            output="dialogs",
            options_of=RejectOptions.of,
        ),
        sft=Stage(
            "sft",
            sft,
            inputs={"checkpoint": "checkpoint", "dialogs": "dialogs"},
            output="checkpoint",
            options_of=SFTOptions.of,
        ),
        preferences=Stage(
            "preferences",
            partial(preferences, open_generate=open_generate),
            inputs={"checkpoint": "checkpoint"},
            output="preferences",
            options_of=PreferencesOptions.of,
        ),
        reward=Stage(
            "reward",
            reward,
            inputs={"checkpoint": "checkpoint", "preferences": "preferences"},
            output="checkpoint",
            options_of=RewardOptions.of,
        ),
        prefer=Stage(
            "prefer",
            partial(prefer, open_generate=open_generate),
            inputs={"checkpoint": "checkpoint", "preferences": "preferences"},
            output="checkpoint",
            options_of=PreferOptions.of,
        ),
        average=Stage(
            "average",
            average,
            inputs={"a": "checkpoint", "b": "checkpoint"},
            output="checkpoint",
            options_of=AverageOptions.of,
        ),
    )


def rewarded(stage: Stage) -> Stage:
    """`reject`, `preferences` or `prefer` with a further input `reward`: a checkpoint with a score head, such as the
    stage `reward` makes, that joins the rewards of the config."""
    return replace(stage, inputs={**stage.inputs, "reward": "checkpoint"})


def anchored(stage: Stage) -> Stage:
    """`average` with a further input `base`: the model that the other two were trained from."""
    return replace(stage, inputs={**stage.inputs, "base": "checkpoint"})
