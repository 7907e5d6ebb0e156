"""Answers of a model that is trained, drawn where the config says: here, in other processes, or on actors of Ray."""

from __future__ import annotations

from contextlib import ExitStack

import torch

from llama3.config.precision import AutoPrecision
from llama3.config.rollouts import RolloutsSection, rollout_problems
from llama3.errors import ConfigError
from llama3.inference.completion import Generator
from llama3.inference.engine import Engine
from llama3.inference.fleet import PIECE, Crew, Fleet, ProcessCrew
from llama3.inference.pieces import PieceByPiece
from llama3.inference.working_copy import refresh, sampling_dtype
from llama3.training.placed import PlacedModel

PIECES_OF_PARTS = ConfigError.declare(
    "L3-ROL-005",
    "does not go with a model that is sharded and answers here",
    fix="leave it out, or set post_training.rollouts.where to processes",
)

PLACE = "post_training.rollouts"


def generator(model: PlacedModel, precision: AutoPrecision, section: RolloutsSection, closing: ExitStack) -> Generator:
    """Samples with the weights as they are at each call; workers end with `closing`. Every rank must call it together,
    each with prompts of its own, or none. Raises ConfigError where the model does not go with workers."""
    require_fit(model, section)
    if section.where == "here":
        here = model.generator(precision)
        if section.piece is None:
            return here
        if not isinstance(here, Engine):
            raise PIECES_OF_PARTS(f"{PLACE}.piece")
        return PieceByPiece(here, section.piece)
    crew = _crew(model, sampling_dtype(model.module, precision), section)
    fleet = Fleet(crew, lambda: _bring(model, crew), section.piece or PIECE)
    closing.callback(fleet.close)
    return fleet


def require_fit(model: PlacedModel, section: RolloutsSection) -> None:
    """Raises ConfigError for what the config could not know, such as the device."""
    dims = model.context.dims
    sizes = {"tp": dims.tp, "cp": dims.cp, "pp": dims.pp}
    if problems := list(rollout_problems(section, sizes, model.context.device.type, PLACE)):
        raise ConfigError.of(problems)


def _crew(model: PlacedModel, dtype: torch.dtype, section: RolloutsSection) -> Crew:
    if section.where == "processes":
        return ProcessCrew(model.config, dtype, section.workers, section.threads)
    from llama3.inference.ray_crew import RayCrew

    return RayCrew(model.config, dtype, section.workers, section.threads)


@torch.no_grad()
def _bring(model: PlacedModel, crew: Crew) -> None:
    """Write the weights of now. A sharded model's come one at a time, each whole."""
    if not model.is_sharded:
        refresh(crew.module, model.module)
        return
    parameters = dict(crew.module.named_parameters())
    for name, weight in model.weights():
        if name in parameters:
            parameters[name].copy_(weight)
