"""How and where a model that learns answers. Torch-free."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from typing import Any, Literal

from pydantic import Field

from llama3.config.precision import SamplingPrecision
from llama3.config.section import Section
from llama3.errors import ConfigError, Problem

MODEL_IS_CUT = ConfigError.declare(
    "L3-ROL-001",
    "rollouts in {where} do not go with {axis}: {size}",
    why="a worker computes with the whole model, and ranks that share one ask for the same answers",
    fix="leave out parallelism.{axis}, or set post_training.rollouts.where to here",
)
NOT_ON_A_GPU = ConfigError.declare(
    "L3-ROL-002",
    "rollouts in {where} do not go with a model on {device}",
    why="weights are handed over in memory of the host",
    fix="set run.device to cpu, or post_training.rollouts.where to here",
)
NO_RAY = ConfigError.declare("L3-ROL-003", "Ray is not installed", fix="pip install 'llama3[ray]'")


class OwnAnswersSection(Section):
    """How the model that learns answers, where an algorithm compares its own answers with a teacher's."""

    temperature: float = Field(1.0, gt=0, description="of sampling, and of the distributions that are compared")
    top_p: float = Field(1.0, gt=0, le=1, description="smallest set of tokens with this probability is sampled from")
    max_tokens: int = Field(64, ge=1, le=1 << 30, description="longest answer")
    sampling_precision: SamplingPrecision = Field(
        "auto", description="of sampling; auto: what this machine multiplies few rows faster in"
    )


class RolloutsSection(Section):
    """Where answers are drawn while a model trains. Of the answers only their rounding follows from it, as from
    everything that computes in another order: `piece` and `threads` decide it, the place and the workers do not."""

    where: Literal["here", "processes", "ray"] = Field(
        "here", description="in the training process, in others of this machine, or on actors of Ray (extra [ray])"
    )
    workers: int = Field(2, ge=1, le=1024, description="processes or actors, of every rank")
    threads: int | None = Field(None, ge=1, le=4096, description="CPU threads of each; default: an equal share")
    piece: int | None = Field(
        None, ge=1, description="prompts that are answered together; default: here all, elsewhere 8"
    )


def rollout_problems(section: RolloutsSection, sizes: Mapping[Any, int], device: str, place: str) -> Iterator[Problem]:
    """What speaks against drawing answers elsewhere; `sizes`: ranks along each axis."""
    if section.where == "here":
        return
    for axis in ("tp", "cp", "pp"):
        if sizes.get(axis, 1) > 1:
            yield MODEL_IS_CUT.problem(place, where=section.where, axis=axis, size=sizes[axis])
    if device == "cuda":
        yield NOT_ON_A_GPU.problem(place, where=section.where, device=device)
    if section.where == "ray" and find_spec("ray") is None:
        yield NO_RAY.problem(place)
