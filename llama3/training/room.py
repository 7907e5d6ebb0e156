"""Whether a run's model fits where it is to be trained, asked before any work."""

from __future__ import annotations

import os
from collections.abc import Mapping

import torch

from llama3.checkpoints.formats import open_weights
from llama3.config.schema import Config, OptimizerSection
from llama3.errors import DoesNotFit, Problem
from llama3.model.activations import least_bytes
from llama3.model.config import ModelConfig
from llama3.model.needs import memory_here, shortage, size
from llama3.model.precision import chosen
from llama3.plugins.registry import discover
from llama3.training.estimate import StepShape
from llama3.training.parallel import Dims, ParallelStrategy, build_strategies, estimated

SMALL_BUDGET = DoesNotFit.declare(
    "L3-MEM-010",
    "activations of {tokens} tokens do not fit into {given}",
    why="where every block is computed again, their inputs and one block at a time still take {needed}",
    fix="{smaller}set parallelism.activation_bytes to {bytes} or more (0: as little as can be, whatever that is)",
)


def require_room(config: Config, device: torch.device) -> None:
    """Raises DoesNotFit, with the figures, for a model that this machine cannot hold."""
    section = config.model
    if section.path is None:
        model = ModelConfig.from_section(section, config.tokenizer.vocab_size)
    else:
        model = open_weights(section.path).config
    if problems := budget_problems(config, model, device):
        raise DoesNotFit.of(problems)
    share, place = local_share(config, model), "this machine"
    if device.type == "cuda":
        there = sum(torch.cuda.get_device_properties(i).total_memory for i in range(torch.cuda.device_count()))
        place = "its GPUs together"
    else:
        there = memory_here() or 0
    if there and (problems := shortage(config, model, there, place, share)):
        raise DoesNotFit.of(problems)


def budget_problems(config: Config, model: ModelConfig, device: torch.device) -> list[Problem]:
    """The stages whose microbatches need more than `parallelism.activation_bytes`, if that is a number."""
    given, tp, cp = (getattr(config.parallelism, name) for name in ("activation_bytes", "tp", "cp"))
    if given in ("auto", 0):
        return []
    problems = []
    for name, section in _trained(config).items():
        precision = chosen(section.precision, "training", device)
        tokens = -(-section.microbatch_tokens // (cp.size or 1))
        needed = least_bytes(model, tokens, precision=precision, tp=tp.size or 1)
        fitting = section.microbatch_tokens * given // needed
        if needed > given:
            problems.append(
                SMALL_BUDGET.problem(
                    "parallelism.activation_bytes",
                    tokens=tokens,
                    given=size(given),
                    needed=size(needed),
                    smaller=f"set {name}.microbatch_tokens to {fitting} or less, or " if fitting else "",
                    bytes=needed,
                )
            )
    return problems


def local_share(config: Config, model: ModelConfig, environ: Mapping[str, str] = os.environ) -> float:
    """How much of the model the processes on this machine hold together, by what its strategies say that a rank keeps:
    1 is one whole model. Ranks along tp and pp each have their part; along cp and dp each has a copy of it, or what is
    left of it where a strategy cuts it (whole in each group of as many ranks). A strategy that does not say what it
    keeps is taken for one that cuts over all of them, because only what is certain is counted."""
    if not environ.get("LOCAL_WORLD_SIZE"):
        return 1.0
    world, local = (_count(environ, name) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"))
    dims = Dims(**config.parallelism.sizes(world))
    step = StepShape(microbatches=1, tokens=config.pretrain.seq_len, seq_len=config.pretrain.seq_len)
    kept = 1.0
    for axis, strategy in build_strategies(config.parallelism, world, discover()).items():
        if axis in ("cp", "dp"):
            told = type(strategy).estimate is not ParallelStrategy.estimate
            kept *= estimated(axis, strategy, model, dims, step).states if told else 1 / (dims.cp * dims.dp)
    return min(local, world) * max(kept, 1 / (dims.cp * dims.dp)) / (dims.tp * dims.pp)


def _count(environ: Mapping[str, str], name: str) -> int:
    text = environ.get(name, "")
    return max(int(text), 1) if text.isdecimal() else 1


def _trained(config: Config) -> dict[str, OptimizerSection]:
    """The sections of the stages that a run trains in."""
    post = config.post_training
    sections: dict[str, OptimizerSection] = {} if config.model.path else {"pretrain": config.pretrain}
    if post.rounds:
        sections |= {"post_training.sft": post.sft, "post_training.prefer": post.prefer}
        sections |= {"post_training.reward": post.reward} if post.reward is not None else {}
    return sections
