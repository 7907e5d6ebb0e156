"""The sizes of a herd as configs of their own: the whole config with what a size has other laid over it.

Torch-free. `order` says who comes before whom; `size_problems` what a config's sizes lack, before any work.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from llama3.config import Loaded, load
from llama3.config.loading import Check
from llama3.config.merge import Layers
from llama3.config.partial import PartialConfig
from llama3.config.schema import Config
from llama3.errors import ConfigError, LlamaError, Problem, did_you_mean
from llama3.model.config import ModelConfig

NO_SIZE = ConfigError.declare("L3-HRD-001", "there is no size {name!r}", why="{near}", fix="name one of {sizes}")
CIRCLE = ConfigError.declare(
    "L3-HRD-002", "the sizes {names} wait for each other", fix="let one of them learn from none of the others"
)
NO_ROUNDS = ConfigError.declare(
    "L3-HRD-003",
    "{learner!r} learns from {teacher!r}, and {which!r} has no rounds of its own answers",
    fix="set post_training.rounds above 0, and no post_training.data",
)
NO_JUDGE = ConfigError.declare(
    "L3-HRD-004", "{name!r} trains no reward model", fix="add `post_training: {{reward: {{}}}}` to it"
)
OWN_START = ConfigError.declare(
    "L3-HRD-005", "a pruned model has the shape that `prune` gives it", fix="take `model` out of this size"
)
NOT_A_NAME = ConfigError.declare(
    "L3-HRD-006", "{name!r} cannot begin the names of a size's artifacts", fix="use letters, digits and -"
)
TWIN = ConfigError.declare(
    "L3-HRD-020",
    "no size can be called {name!r}",
    why="so is the twin called that `control` raises of {of!r} without its teacher",
    fix="choose a name that does not end in -alone",
)
OWN_LESSON = ConfigError.declare(
    "L3-HRD-021", "{name!r} cannot learn from itself", fix="name another size, or take `{role}` out"
)
NOT_SMALLER = ConfigError.declare(
    "L3-HRD-022", "{wanted} is more than the {there} of {of!r}", fix="give at most {there}, or leave it out"
)
SAME_KEYS = ConfigError.declare(
    "L3-HRD-007",
    "artifacts of {name!r} could have the names of those of {other!r}",
    fix="let no size be called as another one with - and more behind it, nor as it but for capitals",
)

Completed = Callable[[Layers], None]
CONTROL = "-alone"
"""Ends the name of a size that is raised a second time without its teacher."""


def sized(loaded: Loaded, name: str, checks: tuple[Check, ...] = (), completed: Completed = lambda _: None) -> Loaded:
    """The config of one size. Raises as `llama3.config.load` does, with the place of the size before each problem."""
    layers, size = _without_sizes(loaded), loaded.config.sizes[name]
    over: Mapping[str, Any] = size.overrides
    if size.prune is not None:
        over = {**over, "model": {"path": None}}
    layers.add(over, "file", f"sizes.{name}")
    try:
        found = load(layers.values, environ={}, checks=checks, completed=completed)
    except LlamaError as error:
        place = loaded.place(("sizes", name))
        moved = [replace(told, where=f"{place}: {told.where.removeprefix('config: ')}") for told in error.problems]
        raise type(error).of(moved) from error
    return found


def _without_sizes(loaded: Loaded) -> Layers:
    layers = Layers()
    layers.add({**loaded.values, "sizes": {}}, "default", "")
    return layers


def order(config: Config) -> list[str]:
    """The sizes as they are written, but those that another learns from before it. Raises ConfigError for a circle."""
    done: list[str] = []

    def visit(name: str, above: tuple[str, ...]) -> None:
        if name in above:
            raise CIRCLE("sizes", names=", ".join(map(repr, (*above[above.index(name) :], name))))
        for other in sorted((config.sizes[name].after & config.sizes.keys()) - {name}):
            visit(other, (*above, name))
        if name not in done:
            done.append(name)

    for name in config.sizes:
        visit(name, ())
    return done


def size_problems(
    loaded: Loaded, checks: tuple[Check, ...], completed: Completed, of_shape: tuple[Check, ...] = ()
) -> Iterator[Problem]:
    """What the sizes lack in themselves, and what is wrong with the config of each that is not wrong with all.
    `of_shape`: checks of sizes that have a shape of their own, which one that is pruned does not say."""
    if not loaded.config.sizes:
        return
    between = list(_between(loaded))
    yield from between
    if isinstance(loaded.config, PartialConfig):
        return
    of_all: set[tuple[str, str, str]] = set()  # told by others
    try:
        load(_without_sizes(loaded).values, environ={}, checks=checks, completed=completed)
    except LlamaError as error:
        of_all = {(told.code, told.what, told.why) for told in error.problems}
    sound: dict[str, Config] = {}
    for name, size in loaded.config.sizes.items():
        try:
            sound[name] = sized(loaded, name, (*checks, *(() if size.prune else of_shape)), completed).config
        except LlamaError as error:
            yield from (told for told in error.problems if (told.code, told.what, told.why) not in of_all)
    for name in sound:
        yield from _lessons(loaded, name, sound)
        if not between and len(sound) == len(loaded.config.sizes):  # a shape may hang on any other
            yield from pruning_problems(loaded, name)


def _between(loaded: Loaded) -> Iterator[Problem]:
    """Sizes that are named and not there, and circles."""
    sizes = loaded.config.sizes
    for name, size in sizes.items():
        if not name.replace("-", "").isalnum():
            yield NOT_A_NAME.problem(loaded.place(("sizes", name)), name=name)
        elif name.endswith(CONTROL):
            yield TWIN.problem(loaded.place(("sizes", name)), name=name, of=name.removesuffix(CONTROL))
        roles = {"teacher": size.teacher, "judge": size.judge, "prune": size.prune and size.prune.of}
        for role in (role for role, other in roles.items() if other == name):
            yield OWN_LESSON.problem(loaded.place(("sizes", name, role)), name=name, role=role)
        for other in sizes:
            if name != other and f"{name}-".casefold().startswith(f"{other}-".casefold()):
                yield SAME_KEYS.problem(loaded.place(("sizes", name)), name=name, other=other)
        for other in sorted(size.after - sizes.keys()):
            near = did_you_mean(other, sizes) or "nothing under `sizes` has this name"
            yield NO_SIZE.problem(loaded.place(("sizes", name)), name=other, near=near, sizes=", ".join(sizes))
    try:
        order(loaded.config)
    except ConfigError as error:
        yield from (replace(told, where=loaded.place(("sizes",))) for told in error.problems)


def _lessons(loaded: Loaded, name: str, sound: Mapping[str, Config]) -> Iterator[Problem]:
    """Whether a size can learn what it shall from whom it shall. `sound`: the configs of the sizes that load."""
    size = loaded.config.sizes[name]
    if size.prune is not None and size.model:
        yield OWN_START.problem(loaded.place(("sizes", name, "model")))
    for role in ("teacher", "judge"):
        other = getattr(size, role)
        if other not in sound or other == name:
            continue
        place, theirs = loaded.place(("sizes", name, role)), sound[other]
        for which, config in ((name, sound[name]), (other, theirs)):
            if not config.post_training.rounds or config.post_training.data is not None:
                yield NO_ROUNDS.problem(place, learner=name, teacher=other, which=which)
        if role == "judge" and theirs.post_training.reward is None:
            yield NO_JUDGE.problem(place, name=other)


def pruning_problems(
    loaded: Loaded, name: str, whole: Callable[[Loaded], ModelConfig | None] | None = None
) -> Iterator[Problem]:
    """What a size keeps that the one it is cut out of does not have. `whole` as for `shape_of`; by default that of new
    models."""
    section = loaded.config.sizes[name].prune
    there = shape_of(loaded, section.of, whole or _new_shape) if section is not None else None
    if section is None or there is None:
        return
    for key, wanted in section.model_dump(exclude={"of"}, exclude_none=True).items():
        if wanted > getattr(there, key):
            place = loaded.place(("sizes", name, "prune", key))
            yield NOT_SMALLER.problem(place, wanted=wanted, there=getattr(there, key), of=section.of)


def shape_of(loaded: Loaded, name: str, whole: Callable[[Loaded], ModelConfig | None]) -> ModelConfig | None:
    """The shape of a size's model; of one that is pruned, what is left. `whole` gives that of a config, or None where
    it is not known."""
    section = loaded.config.sizes[name].prune
    if section is None:
        return whole(sized(loaded, name))
    larger = shape_of(loaded, section.of, whole)
    kept = section.model_dump(exclude={"of"}, exclude_none=True)
    return replace(larger, **kept) if larger is not None else None


def _new_shape(size: Loaded) -> ModelConfig | None:
    model = size.config.model
    return None if model.path is not None else ModelConfig.from_section(model, size.config.tokenizer.vocab_size)
