"""Everything that can be known to be wrong before a run starts, found without importing torch.

`llama3.config` knows the schema and the plugins. What its sections mean to the stages (a policy's grammar, a model's
shape, files that must exist) is asked here of the stages' own torch-free readers.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llama3.config import Loaded, load
from llama3.config.crosscheck import world_problems
from llama3.config.merge import Override
from llama3.config.phases import parts_of, start_of
from llama3.errors import ConfigError, LlamaError, Problem
from llama3.plugins.registry import discover
from llama3.plugins.specs import AlgorithmSpec
from llama3.sized import pruning_problems, size_problems, sized

if TYPE_CHECKING:
    from llama3.model.config import ModelConfig

LOADED_ALREADY = ConfigError.declare(
    "L3-CFG-050", "a loaded config takes no overrides", fix="give them to llama3.config.load"
)
NO_TOKENIZER = ConfigError.declare("L3-CFG-051", "{path} does not exist")
NO_VOCABULARY = ConfigError.declare(
    "L3-DAT-247",
    "nothing says which tokenizer made these tokens",
    why="one that is trained now would give them other meanings",
    fix="set tokenizer.path, or start from a model by model.path",
)
NO_MODEL = ConfigError.declare("L3-CFG-052", "{path}: {what}", why="{why}", fix="{fix}")
OTHER_START = ConfigError.declare(
    "L3-CTX-003",
    "the stages begin at rows of {start} tokens, the base is made for {context}",
    fix="set pretrain.seq_len (or that of the phase before) to {context} or less",
)
SCALED_ALREADY = ConfigError.declare(
    "L3-CTX-004",
    "the base scales its rotary frequencies already, by {factor}",
    why="the stages' scaling, which stretches unscaled ones, would take its place",
    fix="give the phase a rope_scaling or a rope_theta",
)
OWN_ROLLOUTS = ConfigError.declare(
    "L3-CFG-054",
    "guards do not judge what {algorithm} draws",
    why="it learns from its answers as it draws them, by their rewards alone",
    fix="write safety.rollouts: false, and a reward that scores what must not be said; or choose an algorithm that "
    "learns from rows",
)
NO_JUDGE = ConfigError.declare(
    "L3-CFG-075",
    "the policy has no guard that judges answers",
    why="what a model draws to learn from is judged at {stages}, and at none of them stands a guard",
    fix="put a guard at one of them in safety.policy, or write safety.rollouts: false",
)
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

    def of_sizes(loaded: Loaded) -> Iterator[Problem]:
        return size_problems(loaded, CHECKS, add_own_suite, OF_SHAPE)

    return load(source, overrides, checks=(*CHECKS, *OF_SHAPE, of_sizes), completed=add_own_suite)


def ready(loaded: Loaded) -> Loaded:
    """The last look before work starts: the mesh must match the processes that are running now, and the model the
    mesh. All of it at once."""
    world = _processes() or 1
    problems = [*world_problems(loaded.config, world, loaded.place)]
    for one in [sized(loaded, name) for name in loaded.config.sizes] or [loaded]:
        problems += layout_problems(one, world)
        problems += _adopted_contexts(one) if one.config.model.path else ()
    for name in loaded.config.sizes:
        problems += pruning_problems(loaded, name, model_config)
    if problems:
        raise ConfigError.of(problems)
    return loaded


def _processes() -> int | None:
    """How many processes a launcher has started; None without one."""
    world = os.environ.get("WORLD_SIZE", "")
    return int(world) if world.isdecimal() else None


def launched_problems(loaded: Loaded) -> Iterator[Problem]:
    """Under a launcher, which says how large the mesh is: what `ready` asks before work starts."""
    world = _processes()
    if world is not None:
        yield from layout_problems(loaded, world)


def layout_problems(loaded: Loaded, world: int) -> Iterator[Problem]:
    """What the strategies of a mesh have against the model, and what cannot be trained in such a layout. Imports torch
    where there is a mesh at all; needs neither devices nor a process group."""
    section, post = loaded.config.parallelism, loaded.config.post_training
    sizes = section.sizes(world)
    if set(sizes.values()) == {1}:
        return
    from llama3.training.parallel import Dims, adapter_problems, build_strategies

    try:
        model, strategies = model_config(loaded), build_strategies(section, world, discover())
    except LlamaError:
        return  # told by others
    dims = Dims(**sizes)
    for axis, strategy in strategies.items():
        for problem in strategy.check(model, dims):
            yield replace(problem, where=loaded.place(("parallelism", axis)))
    for stage, lora in (("sft", post.sft.lora), ("prefer", post.prefer.lora)):
        if lora is not None:
            yield from adapter_problems(strategies, dims, loaded.place(("post_training", stage, "lora")))


def model_config(loaded: Loaded) -> ModelConfig:
    """The shape of the model that a config trains. Of one in model.path it imports torch."""
    from llama3.model.config import ModelConfig

    section = loaded.config.model
    if section.path is not None:
        from llama3.checkpoints.formats import open_weights

        return open_weights(section.path).config
    return ModelConfig.from_section(section, loaded.config.tokenizer.vocab_size)


def policy_problems(loaded: Loaded) -> Iterator[Problem]:
    """What the policy's own reader refuses."""
    from llama3.safety.answers import ANSWER_STAGES
    from llama3.safety.policy import parse_policy

    if loaded.config.safety.rollouts and _draws_itself(algorithm := loaded.config.post_training.algorithm.name):
        yield OWN_ROLLOUTS.problem(loaded.place("safety.rollouts"), algorithm=algorithm)
    try:
        stages = parse_policy(loaded.config.safety.policy).stages
        if loaded.config.safety.rollouts and all(stages.get(stage) is None for stage in ANSWER_STAGES):
            yield NO_JUDGE.problem(loaded.place("safety.rollouts"), stages=list(ANSWER_STAGES))
    except LlamaError as error:
        for problem in error.problems:
            yield replace(problem, where=loaded.place(problem.where))


def _draws_itself(algorithm: str) -> bool:
    try:
        spec = discover().spec("algorithms", algorithm)
    except LlamaError:
        return False  # told by others
    return isinstance(spec, AlgorithmSpec) and "rollouts" in spec.needs


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
    section = loaded.config.model
    for name in section.model_dump(exclude_none=True, exclude={"path", "preset"}):
        yield OWN_SHAPE.problem(loaded.place(f"model.{name}"), path=path)
    yield from _not_there(loaded.place("model.path"), path)


def teacher_problems(loaded: Loaded) -> Iterator[Problem]:
    """Teachers that are named must be there."""
    post = loaded.config.post_training
    for stage, teacher in (("sft", post.sft.teacher), ("prefer", post.prefer.teacher)):
        if teacher is not None:
            yield from _not_there(loaded.place(("post_training", stage, "teacher", "path")), teacher.path)


def _not_there(where: str, path: str) -> Iterator[Problem]:
    """What keeps a path from being that of a model."""
    from llama3.checkpoints.layouts import layout_of

    try:
        layout_of(path)
    except LlamaError as error:
        for found in error.problems:
            fix = _model_within(path) or found.fix
            yield NO_MODEL.problem(where, path=path, what=found.what, why=found.why, fix=fix)


def _model_within(path: str) -> str:
    """What to write in place of a run that has a model, which a command takes as it is. Imports torch for a run."""
    if not (Path(path) / "artifacts").is_dir():
        return ""
    from llama3.inference.llama import find_model

    try:
        return f"a config names the model within a run: write {find_model(Path(path))}"
    except LlamaError:
        return ""


def context_problems(loaded: Loaded) -> Iterator[Problem]:
    """What long-context stages have against a new model; `ready` asks of one in model.path, which imports torch."""
    if loaded.config.model.path is None:
        yield from start_problems(loaded)


def suite_problems(loaded: Loaded) -> Iterator[Problem]:
    """Suites that have no room in the contexts of a new model; of one in model.path, what is certain of any."""
    from llama3.evaluation.room import suites_without_room

    base = None
    if loaded.config.model.path is None:
        try:
            base = model_config(loaded).max_seq_len
        except LlamaError:
            return  # told by others
    yield from suites_without_room(loaded.config, discover(), loaded.place, base)


def answer_problems(loaded: Loaded) -> Iterator[Problem]:
    """Answers of post-training that are as long as the context of a new model; `ready` asks of one in model.path."""
    from llama3.posttraining.room import answers_without_room

    if loaded.config.model.path is None and not loaded.config.sizes:
        try:
            context = model_config(loaded).max_seq_len
        except LlamaError:
            return  # told by others
        yield from answers_without_room(loaded.config, discover(), loaded.place, context)


def _adopted_contexts(loaded: Loaded) -> Iterator[Problem]:
    """Stages that do not begin where the model in model.path ends, and suites and answers that it has no room for."""
    from llama3.evaluation.room import suites_without_room
    from llama3.posttraining.room import answers_without_room

    try:
        model = model_config(loaded)
    except LlamaError:
        return  # told by others
    yield from start_problems(loaded)
    yield from suites_without_room(loaded.config, discover(), loaded.place, model.max_seq_len)
    yield from answers_without_room(loaded.config, discover(), loaded.place, model.max_seq_len)


def start_problems(loaded: Loaded) -> Iterator[Problem]:
    """Long-context stages that do not begin where the base ends: rows longer than its context, or a scaling of the
    rotary frequencies that would take the place of the base's own."""
    _, *parts = parts_of(loaded.config.pretrain)
    if not parts:
        return
    try:
        model = model_config(loaded)
    except LlamaError:
        return  # told by others
    number = parts[0][0].number
    start, where = start_of(loaded.config.pretrain, number), loaded.place(("pretrain", "phases", number))
    if start > model.max_seq_len:
        yield OTHER_START.problem(where, start=start, context=model.max_seq_len)
    written = loaded.config.pretrain.phases[number]
    if written.extend and model.rope_scaling and written.rope_scaling is None and written.rope_theta is None:
        yield SCALED_ALREADY.problem(where, factor=model.rope_scaling.factor)


def tokenizer_problems(loaded: Loaded) -> Iterator[Problem]:
    """A tokenizer to load must be there."""
    path = loaded.config.tokenizer.path
    if path is not None and not Path(path).exists():
        yield NO_TOKENIZER.problem(loaded.place("tokenizer.path"), path=path)


def token_problems(loaded: Loaded) -> Iterator[Problem]:
    """Token files must be sound, and their tokenizer known."""
    from llama3.data.datatrove import NO_INDEX
    from llama3.data.imported import token_files

    given, config = loaded.config.data.tokens, loaded.config
    if given is None:
        return
    if config.tokenizer.path is None and config.model.path is None:
        yield NO_VOCABULARY.problem(loaded.place("data.tokens"))
    for path in given.paths:
        try:
            token_files(Path(path).expanduser(), given.format)
        except LlamaError as error:
            # Where documents end is known when the tokenizer is.
            yield from (problem for problem in error.problems if problem.code != NO_INDEX.code)


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


def safety_problems(loaded: Loaded) -> Iterator[Problem]:
    """Prompts of `post_training.safety` must be readable, and something of it be learnt."""
    from llama3.alignment.checks import safety_data_problems

    for problem in safety_data_problems(loaded.config):
        own = problem.where.startswith("post_training.")
        yield replace(problem, where=loaded.place(problem.where)) if own else problem


def quality_control_problems(loaded: Loaded) -> Iterator[Problem]:
    """The labeller and the encoder of `post_training.quality` must be there, and dialogs to choose from."""
    from llama3.quality.checks import quality_problems

    for problem in quality_problems(loaded.config):
        yield replace(problem, where=loaded.place(problem.where))


def skill_problems(loaded: Loaded) -> Iterator[Problem]:
    """What `post_training.capabilities` lacks, and models of it that are not there."""
    from llama3.making.checks import capability_problems

    for problem in capability_problems(loaded.config):
        yield replace(problem, where=loaded.place(problem.where))


CHECKS = (
    policy_problems,
    model_problems,
    teacher_problems,
    context_problems,
    suite_problems,
    tokenizer_problems,
    token_problems,
    source_problems,
    data_problems,
    safety_problems,
    quality_control_problems,
    skill_problems,
    launched_problems,
)
"""Of any config, that of one size too."""
OF_SHAPE = (answer_problems,)
"""Of a config whose model is that of its own section: not of what sizes have in common, nor of one that is pruned."""
