"""Whether a model's context has room for the answers that post-training draws, known before anything is trained."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from llama3.config.phases import parts_of
from llama3.config.schema import Config
from llama3.config.yaml import Path
from llama3.errors import ConfigError, LlamaError, Problem
from llama3.plugins.registry import Registry
from llama3.plugins.specs import AlgorithmSpec

LONG_ANSWERS = ConfigError.declare(
    "L3-SMP-002",
    "answers of {longest} tokens leave no room for a prompt",
    why="the model is made for {context} tokens",
    fix="set it below {context}{instead}",
)


def answers_without_room(
    config: Config, registry: Registry, place: Callable[[Path], str], context: int
) -> Iterator[Problem]:
    """Every `max_tokens` of `post_training` that is asked of the model and as long as its context; `context`: that of
    the model before long-context stages."""
    longest = context_in_the_end(config, context)
    instead = (
        "" if config.post_training.data else ", make model.max_seq_len longer, or write post_training: {rounds: 0}"
    )
    for path, asked in _asked(config, registry):
        if asked >= longest:
            yield LONG_ANSWERS.problem(place(path), longest=asked, context=longest, instead=instead)


def context_in_the_end(config: Config, context: int) -> int:
    """The context that the model has after long-context stages; `context`: that before them."""
    return max([context, *(part[0].seq_len for part in parts_of(config.pretrain)[1:])])


def _asked(config: Config, registry: Registry) -> Iterator[tuple[Path, int]]:
    """The longest answers that are asked for, each with where that is said."""
    post = config.post_training
    in_rounds = post.data is None and post.rounds > 0
    if not in_rounds and post.data is None:
        return
    if in_rounds:
        yield ("post_training", "reject", "max_tokens"), post.reject.max_tokens
    if in_rounds or _draws(registry, post.algorithm.name):
        yield ("post_training", "prefer", "max_tokens"), post.prefer.max_tokens
    if post.sft.own_answers is not None and _draws(registry, post.sft.algorithm.name):
        yield ("post_training", "sft", "own_answers", "max_tokens"), post.sft.own_answers.max_tokens
    if post.safety is not None:
        yield ("post_training", "safety", "max_tokens"), post.safety.max_tokens


def _draws(registry: Registry, algorithm: str) -> bool:
    try:
        spec: Any = registry.spec("algorithms", algorithm)
    except LlamaError:
        return False  # told by others
    return isinstance(spec, AlgorithmSpec) and "rollouts" in spec.needs
