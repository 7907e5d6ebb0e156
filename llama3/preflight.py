"""Everything that can be known to be wrong before a run starts, found without importing torch.

`llama3.config` knows the schema and the plugins. What its sections mean to the stages (a policy's grammar, a model's
shape, files that must exist) is asked here of the stages' own torch-free readers.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from llama3.config import Loaded, load
from llama3.config.crosscheck import world_problems
from llama3.config.merge import Override
from llama3.errors import ConfigError, LlamaError, Problem

LOADED_ALREADY = ConfigError.declare(
    "L3-CFG-050", "a loaded config takes no overrides", fix="give them to llama3.config.load"
)
NO_TOKENIZER = ConfigError.declare("L3-CFG-051", "{path} does not exist")
NO_MODEL = ConfigError.declare("L3-CFG-052", "{path}: {what}", why="{why}", fix="{fix}")
OWN_SHAPE = ConfigError.declare(
    "L3-CFG-053",
    "cannot be set beside model.path ({path})",
    why="an adopted model has its own shape",
    fix="remove one of the two",
)


def load_config(
    source: str | os.PathLike[str] | Mapping[str, Any] | Loaded, overrides: Sequence[str | Override] = ()
) -> Loaded:
    """Load a config and check it with everything that needs no run. Raises as `llama3.config.load` does."""
    if isinstance(source, Loaded):
        if overrides:
            raise LOADED_ALREADY(source.source)
        return source
    from llama3.evaluation.own_suite import add_own_suite

    checks = (policy_problems, model_problems, tokenizer_problems, source_problems, data_problems)
    return load(source, overrides, checks=checks, completed=add_own_suite)


def ready(loaded: Loaded) -> Loaded:
    """The last look before work starts: the mesh must match the processes that are running now."""
    world = os.environ.get("WORLD_SIZE", "1")
    problems = list(world_problems(loaded.config, int(world) if world.isdecimal() else 1, loaded.place))
    if problems:
        raise ConfigError.of(problems)
    return loaded


def policy_problems(loaded: Loaded) -> Iterator[Problem]:
    """What the policy's own reader refuses."""
    from llama3.safety.policy import parse_policy

    try:
        parse_policy(loaded.config.safety.policy)
    except LlamaError as error:
        for problem in error.problems:
            yield replace(problem, where=loaded.place(problem.where))


def model_problems(loaded: Loaded) -> Iterator[Problem]:
    """An unknown preset, a shape that cannot be built, or no model where one is to be adopted."""
    from llama3.model.config import ModelConfig

    section = loaded.config.model
    if section.path is not None:
        yield from _adopted_problems(loaded, section.path)
        return
    try:
        ModelConfig.from_section(section, loaded.config.tokenizer.vocab_size)
    except LlamaError as error:
        for problem in error.problems:
            yield replace(problem, where=loaded.place(problem.where or "model"))


def _adopted_problems(loaded: Loaded, path: str) -> Iterator[Problem]:
    """A model to adopt must be there, and its shape is its own."""
    from llama3.checkpoints.layouts import layout_of

    section = loaded.config.model
    for name in section.model_dump(exclude_none=True, exclude={"path", "preset"}):
        yield OWN_SHAPE.problem(loaded.place(f"model.{name}"), path=path)
    try:
        layout_of(path)
    except LlamaError as error:
        for found in error.problems:
            where = loaded.place("model.path")
            yield NO_MODEL.problem(where, path=path, what=found.what, why=found.why, fix=found.fix)


def tokenizer_problems(loaded: Loaded) -> Iterator[Problem]:
    """A tokenizer to load must be there."""
    path = loaded.config.tokenizer.path
    if path is not None and not Path(path).exists():
        yield NO_TOKENIZER.problem(loaded.place("tokenizer.path"), path=path)


def source_problems(loaded: Loaded) -> Iterator[Problem]:
    """A source that reads files must find some."""
    from llama3.data.reading import FileOptions, files_of

    for choice in loaded.choices:
        if isinstance(choice.options, FileOptions):
            try:
                files_of(choice.options)
            except ConfigError as error:
                place = loaded.place((*choice.path, "path"))
                yield from (replace(problem, where=f"{place}: {problem.where}") for problem in error.problems)


def data_problems(loaded: Loaded) -> Iterator[Problem]:
    """The user's own rows must be readable, and fit the algorithm that learns from them."""
    from llama3.tasks.user_data import own_data_problems

    yield from own_data_problems(loaded.config)
