"""Pass 3: what no single key can know. Every check returns problems with the lines that would mend the config."""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from llama3.config.partial import found_by
from llama3.config.phases import base_problems, parts_of, phase_problems
from llama3.config.rollouts import rollout_problems
from llama3.config.schema import Config
from llama3.config.slot_types import Slot
from llama3.config.slots import choices
from llama3.config.synthesis import SYNTHETIC
from llama3.config.task_rewards import asking_line, have_tasks, task_problems
from llama3.config.yaml import Path
from llama3.errors import ConfigError, LlamaError, Problem, did_you_mean
from llama3.plugins.registry import Registry
from llama3.plugins.specs import (
    AlgorithmSpec,
    DataKindSpec,
    GuardSpec,
    ParallelSpec,
    PluginSpec,
    QuantizationSpec,
    SourceSpec,
)

NO_KIND = ConfigError.declare(
    "L3-CFG-034",
    "{name!r} learns from {kind!r}, a kind of data that no plugin brings",
    why="{near}",
    fix="install the plugin that brings it",
)
OTHER_DATA = ConfigError.declare(
    "L3-CFG-020", "{name!r} learns from {data}, this stage has {read}", fix="choose one of {fitting}{home}"
)
NOT_SUPPLIED = ConfigError.declare(
    "L3-CFG-022", "{name!r} needs a {needs}, which this stage does not supply", fix="choose one of {fitting}{home}"
)
NO_REWARD_MODEL = ConfigError.declare(
    "L3-CFG-035", "{name!r} makes no model that a reward scores with", fix="choose one of {fitting}{home}"
)
NOT_SAMPLED = ConfigError.declare(
    "L3-CFG-036",
    "{name!r} learns from {data}, which no round makes",
    fix="add `post_training: {{data: {data}.jsonl}}`",
)
NO_REWARD = ConfigError.declare(
    "L3-CFG-021",
    "{name!r} needs a reward and post_training.rewards is empty",
    fix="add {asking}",
)
NO_PROMPTS = ConfigError.declare(
    "L3-CFG-033",
    "{name!r} needs prompts, and {rewards} has none of its own",
    fix="add {asking} or `post_training: {{data: prompts.jsonl}}`",
)
NO_TEACHER = ConfigError.declare(
    "L3-CFG-070",
    "{name!r} needs a teacher and none is named",
    fix="add `post_training: {{{stage}: {{teacher: {{path: FOLDER}}}}}}`",
)
IDLE_TEACHER = ConfigError.declare(
    "L3-CFG-071", "{name!r} learns from no teacher", fix="take it out, or choose an algorithm that needs one"
)
OTHER_AXIS = ConfigError.declare("L3-CFG-024", "{name!r} is a strategy for {supplied}, not {axis}")
OTHER_WORLD = ConfigError.declare(
    "L3-CFG-025",
    "the mesh ({mesh}) needs {wanted} processes, there are {world}",
    fix="torchrun --nproc-per-node {wanted} -m llama3 run ..., or another size of {axis}",
)
MISPLACED_GUARD = ConfigError.declare(
    "L3-CFG-026",
    "guard {name!r} does not stand at {stage!r}",
    fix="move it to {stages}, or name a guard that stands at {stage!r}",
)
OTHER_DEVICE = ConfigError.declare(
    "L3-CFG-027", "{name!r} does not run on {device}", fix="set run.device to {devices}, or choose another scheme"
)
NO_LABEL = ConfigError.declare("L3-CFG-028", "no source has the label {label!r}", why="{near}")
TWO_MEANINGS = ConfigError.declare(
    "L3-CFG-080",
    "{name!r} is the label of a source and a class with other sources",
    why="a mix that names it could mean either",
    fix="give the class another name",
)
NEGATIVE_WEIGHT = ConfigError.declare("L3-CFG-029", "a weight cannot be {weight}", fix="give 0 or more")
NO_WEIGHT = ConfigError.declare("L3-CFG-043", "all weights are 0", fix="give one source a weight above 0")
SAME_SUITE = ConfigError.declare(
    "L3-CFG-060", "the suite {label!r} is there twice", fix="give each its own name: {{name: {name}, suite: ...}}"
)
NO_SUITE = ConfigError.declare("L3-CFG-061", "no suite {name!r} is evaluated", why="{near}")
SMALL_VOCABULARY = ConfigError.declare(
    "L3-CFG-030", "{size} is too small", fix="at least {least}: 256 bytes and num_special"
)
NO_AVERAGE = ConfigError.declare(
    "L3-CFG-032",
    "{weights!s} are no weights of the sft and the preference checkpoint, and of their base",
    fix="two numbers, such as [0.5, 0.5], or three, such as [0.25, 0.25, 0.5]",
)
NO_REPLAY = ConfigError.declare(
    "L3-CFG-090",
    "no text can be replayed",
    why="{why}",
    fix="set it to 0; post_training.reject.rehearsal guards a model from elsewhere",
)

NO_UPDATES = ConfigError.declare(
    "L3-PST-200",
    "the reward model cannot go on learning",
    why="{why}",
    fix="take `updates` out{instead}",
)
NO_NOISE = ConfigError.declare(
    "L3-CFG-091",
    "embeddings get no noise where they are cut over ranks",
    why="parallelism.{axis} is {ranks}",
    fix="take neftune out, or share the work by dp or pp alone",
)

Place = Callable[[Path], str]
S = TypeVar("S", bound=PluginSpec)


def cross_check(config: Config, registry: Registry, place: Place, environ: Mapping[str, str]) -> list[Problem]:
    """All problems between sections; `place` gives "file:line:col: dotted.path" of a path. Each check stands alone, so
    that a section that is wrong ends only those that ask for it (llama3.config.partial)."""
    checks: list[Callable[[], Iterator[Problem]]] = [
        *(partial(_algorithm, learner, config, registry, place) for learner in _LEARNERS),
        lambda: _mesh(config, registry, place, environ),
        lambda: _guards(config, registry, place),
        lambda: _quantization(config, registry, place),
        lambda: _weights(config.data.mix, ("data", "mix"), place),
        lambda: _phase_weights(config, place),
        lambda: _labels(config, registry, place),
        lambda: _suites(config, place),
        lambda: phase_problems(config.pretrain, place),
        lambda: base_problems(config.pretrain, config.model, place),
        lambda: task_problems(config, registry, place),
        lambda: _rollouts(config, place),
        lambda: _vocabulary(config, place),
        lambda: _average(config, place),
        lambda: _replay(config, registry, place),
        lambda: _noise(config, place),
        lambda: _updates(config, place),
    ]
    return [problem for check in checks for problem in found_by(check)]


def _spec(registry: Registry, family: str, name: str) -> PluginSpec | None:
    """The spec, or None where pass 2 has reported it already."""
    try:
        return registry.spec(family, name)
    except LlamaError:
        return None


def _specs(registry: Registry, family: str, kind: type[S]) -> dict[str, S]:
    """The usable plugins of a family, by the name that a config writes."""
    found = [(name, _spec(registry, family, name)) for name in registry.names(family)]
    return {name: spec for name, spec in found if isinstance(spec, kind)}


@dataclass(frozen=True)
class _Learner:
    """A place where a config names an algorithm: the artifact that its stage reads, and the needs that it supplies."""

    path: tuple[str, ...]
    artifact: str
    needs: frozenset[str] = frozenset()
    makes_reward: bool = False
    """Whether the model that is trained here joins the rewards."""
    stage: str = ""
    """The section of `post_training` that names its teacher."""

    def suits(self, spec: AlgorithmSpec, kinds: Mapping[str, DataKindSpec]) -> bool:
        kind = kinds.get(spec.data)
        reads = kind is not None and kind.artifact == self.artifact
        return reads and spec.needs <= self.needs and self.makes_reward == (spec.reward is not None)

    def line(self, name: str) -> str:
        """The YAML that names an algorithm here."""
        text = name
        for key in reversed(self.path):
            text = f"{{{key}: {text}}}"
        return f"`{text[1:-1]}`"


_LEARNERS = (
    _Learner(("pretrain", "algorithm"), "shards"),
    _Learner(
        ("post_training", "algorithm"),
        "preferences",
        # The current model samples and has the value head, a frozen copy of it is the reference.
        frozenset({"rollouts", "reward", "reference", "value", "teacher"}),
        stage="prefer",
    ),
    _Learner(("post_training", "sft", "algorithm"), "dialogs", frozenset({"teacher", "rollouts"}), stage="sft"),
    _Learner(
        ("post_training", "reward", "algorithm"),
        "preferences",
        frozenset({"reference", "score_head"}),
        makes_reward=True,
    ),
)


def _algorithm(learner: _Learner, config: Config, registry: Registry, place: Place) -> Iterator[Problem]:
    slot: Any = config
    for key in learner.path:
        slot = getattr(slot, key, None)
    spec = _spec(registry, "algorithms", slot.name) if slot is not None else None
    if isinstance(spec, AlgorithmSpec):
        yield from _learner(learner, spec, registry, place(learner.path))
        yield from _sources(config, spec, registry, place(learner.path))
        yield from _teacher(config, spec, learner, place)


def _teacher(config: Config, spec: AlgorithmSpec, learner: _Learner, place: Place) -> Iterator[Problem]:
    """A teacher is named where the stage's algorithm needs one, and only there."""
    if "teacher" not in learner.needs:
        return
    teacher = getattr(config.post_training, learner.stage).teacher
    if "teacher" in spec.needs and teacher is None:
        yield NO_TEACHER.problem(place(learner.path), name=spec.name, stage=learner.stage)
    elif "teacher" not in spec.needs and teacher is not None:
        where = place(("post_training", learner.stage, "teacher"))
        yield IDLE_TEACHER.problem(where, name=spec.name)


def _learner(learner: _Learner, spec: AlgorithmSpec, registry: Registry, where: str) -> Iterator[Problem]:
    """Whether the stage has the data and supplies the needs; where not, which stage does."""
    kinds = _specs(registry, "data_kinds", DataKindSpec)
    if spec.data not in kinds:
        near = did_you_mean(spec.data, kinds) or f"kinds: {', '.join(sorted(kinds))}"
        yield NO_KIND.problem(where, name=spec.name, kind=spec.data, near=near)
        return
    algorithms = _specs(registry, "algorithms", AlgorithmSpec)
    fitting = sorted(name for name, other in algorithms.items() if learner.suits(other, kinds)) or ["none installed"]
    suited = next((other for other in _LEARNERS if other.suits(spec, kinds)), None)
    home = f"; {spec.name!r} belongs to {suited.line(spec.name)}" if suited else ""
    if kinds[spec.data].artifact != learner.artifact:
        read = " or ".join(sorted(name for name, kind in kinds.items() if kind.artifact == learner.artifact))
        yield OTHER_DATA.problem(where, name=spec.name, data=spec.data, read=read, fitting=fitting, home=home)
    elif lacking := sorted(need.replace("_", " ") for need in spec.needs - learner.needs):
        needs = " and a ".join(lacking)
        yield NOT_SUPPLIED.problem(where, name=spec.name, needs=needs, fitting=fitting, home=home)
    elif learner.makes_reward and spec.reward is None:
        yield NO_REWARD_MODEL.problem(where, name=spec.name, fitting=fitting, home=home)


def _sources(config: Config, spec: AlgorithmSpec, registry: Registry, where: str) -> Iterator[Problem]:
    """Data that no round makes must be given; an algorithm that samples needs something that scores, and prompts."""
    post = config.post_training
    kind = _spec(registry, "data_kinds", spec.data)
    asking = asking_line()
    if isinstance(kind, DataKindSpec) and kind.artifact != "shards" and not kind.sampled and post.data is None:
        yield NOT_SAMPLED.problem(where, name=spec.name, data=spec.data)
    elif "reward" in spec.needs and not post.rewards and post.reward is None:
        yield NO_REWARD.problem(where, name=spec.name, asking=asking)
    elif (
        "rollouts" in spec.needs
        and spec.data == "prompts"
        and post.data is None
        and not have_tasks(post.rewards, registry)
    ):
        names = ", ".join(slot.name for slot in post.rewards) or "the trained reward model"
        yield NO_PROMPTS.problem(where, name=spec.name, rewards=names, asking=asking)


def _mesh(config: Config, registry: Registry, place: Place, environ: Mapping[str, str]) -> Iterator[Problem]:
    for axis, slot in config.parallelism.slots.items():
        where = place(("parallelism", axis))
        supplied = _axis(registry, slot.name) if slot.name else axis
        if supplied not in ("", axis):
            yield OTHER_AXIS.problem(where, name=slot.name, supplied=supplied, axis=axis)
    world = environ.get("WORLD_SIZE", "")
    if not world.isdecimal():
        return  # not under a launcher: `world_problems` asks again when the run starts
    yield from world_problems(config, int(world), place)


def world_problems(config: Config, world: int, place: Place) -> Iterator[Problem]:
    """The mesh must use exactly the processes that were started. Told of the innermost axis that does not fit: up to
    it the ranks of a model cannot share them out, or (dp) they are not all used."""
    sizes = config.parallelism.sizes(world)
    wanted = math.prod(sizes.values())
    if wanted != world:
        mesh = " x ".join(f"{axis} {size}" for axis, size in sizes.items())
        products = zip(sizes, itertools.accumulate(sizes.values(), operator.mul), strict=True)
        axis = next((axis for axis, product in products if world % product), "dp")
        yield OTHER_WORLD.problem(place(("parallelism", axis)), mesh=mesh, wanted=wanted, world=world, axis=axis)


def _axis(registry: Registry, name: str) -> str:
    spec = _spec(registry, "parallelism", name)
    return spec.axis if isinstance(spec, ParallelSpec) else ""


def _guards(config: Config, registry: Registry, place: Place) -> Iterator[Problem]:
    """A guard of the policy stands where its stage is; any other one judges answers, so it stands at `output`."""
    for choice in choices(config)[0]:
        if choice.family == "guards":
            stage = str(choice.path[2]) if choice.path[:2] == ("safety", "policy") else "output"
            yield from misplaced(choice.slot.name, stage, registry, place(choice.path))


def misplaced(name: str, stage: str, registry: Registry, where: str) -> Iterator[Problem]:
    """That a guard does not stand at a stage: it would let everything pass there."""
    spec = _spec(registry, "guards", name)
    if isinstance(spec, GuardSpec) and stage not in spec.stages:
        yield MISPLACED_GUARD.problem(where, name=name, stage=stage, stages=" or ".join(sorted(spec.stages)))


def _quantization(config: Config, registry: Registry, place: Place) -> Iterator[Problem]:
    device = config.run.device
    for index, slot in enumerate(config.quantization):
        spec = _spec(registry, "quantization", slot.name)
        if isinstance(spec, QuantizationSpec) and device != "auto" and device not in spec.devices:
            devices, where = " or ".join(sorted(spec.devices)), place(("quantization", index))
            yield OTHER_DEVICE.problem(where, name=slot.name, device=device, devices=devices)


def _phase_weights(config: Config, place: Place) -> Iterator[Problem]:
    for i, phase in enumerate(config.pretrain.phases):
        yield from _weights(phase.mix, ("pretrain", "phases", i, "mix"), place)


def _weights(mix: Mapping[str, float], path: Path, place: Place) -> Iterator[Problem]:
    for name, weight in mix.items():
        if not weight >= 0:
            yield NEGATIVE_WEIGHT.problem(place((*path, name)), weight=weight)
    if mix and not sum(mix.values()) > 0:
        yield NO_WEIGHT.problem(place(path))


def _labels(config: Config, registry: Registry, place: Place) -> Iterator[Problem]:
    """Mixes and classes name sources that are there, no name means both, and synthetic text is made of sources."""
    classes, synthetic = config.data.classes, config.data.synthetic
    read = labels_of_sources(config, registry)
    if read is None:
        return
    known = read if synthetic is None else read | {SYNTHETIC}
    mixed = known | set(classes.values())
    named: list[tuple[Path, str, set[str]]] = [(("data", "classes", name), name, known) for name in classes]
    named += [((*path, name), name, mixed) for path, mix in _mixes(config) for name in mix]
    made_of = [] if synthetic is None else synthetic.sources
    named += [(("data", "synthetic", "sources", i), name, read) for i, name in enumerate(made_of)]
    for path, name, labels in named:
        if name not in labels:
            near = did_you_mean(name, labels) or f"labels: {', '.join(sorted(labels))}"
            yield NO_LABEL.problem(place(path), label=name, near=near)
    for name, of_class in classes.items():
        if of_class in known and any((classes.get(other) == of_class) != (other == of_class) for other in known):
            yield TWO_MEANINGS.problem(place(("data", "classes", name)), name=of_class)


def _mixes(config: Config) -> Iterator[tuple[Path, Mapping[str, float]]]:
    yield ("data", "mix"), config.data.mix
    for i, phase in enumerate(config.pretrain.phases):
        yield ("pretrain", "phases", i, "mix"), phase.mix


def labels_of_sources(config: Config, registry: Registry) -> set[str] | None:
    """Labels of all sources, or None where a source does not tell its labels before it is read."""
    labels: set[str] = set()
    for slot in config.data.sources:
        given = labels_of(slot, registry)
        if not given:
            return None
        labels |= given
    return labels


def labels_of(slot: Slot, registry: Registry) -> set[str]:
    """The labels that a source promises; none where it does not tell them, or where pass 2 has reported it."""
    try:
        options = registry.options("sources", slot.name, slot.options)
        spec = registry.spec("sources", slot.name)
    except LlamaError:
        return set()
    own = getattr(options, "source", None)
    return {own} if isinstance(own, str) else set(spec.labels) if isinstance(spec, SourceSpec) else set()


def _suites(config: Config, place: Place) -> Iterator[Problem]:
    """Results are known by their suite's name, so it must be unique; the audit names suites that exist."""
    known: set[str] = set()
    for index, slot in enumerate(config.evaluation.tasks):
        if slot.label in known:
            yield SAME_SUITE.problem(place(("evaluation", "tasks", index)), label=slot.label, name=slot.name)
        known.add(slot.label)
    named: list[tuple[Path, str]] = [(("audit", "margins", name), name) for name in config.audit.margins]
    named += [(("audit", "must_improve", i), name) for i, name in enumerate(config.audit.must_improve)]
    if config.audit.safety is not None:
        named.append((("audit", "safety", "suite"), config.audit.safety.suite))
    for path, name in named:
        if name not in known:
            near = did_you_mean(name, known) or f"suites of evaluation.tasks: {', '.join(sorted(known))}"
            yield NO_SUITE.problem(place(path), name=name, near=near)


def _rollouts(config: Config, place: Place) -> Iterator[Problem]:
    where, sizes = place(("post_training", "rollouts", "where")), config.parallelism.sizes(1)
    yield from rollout_problems(config.post_training.rollouts, sizes, config.run.device, where)


def _vocabulary(config: Config, place: Place) -> Iterator[Problem]:
    tokenizer = config.tokenizer
    if tokenizer.path is None and tokenizer.vocab_size < 256 + tokenizer.num_special:
        where, least = place(("tokenizer", "vocab_size")), 256 + tokenizer.num_special
        yield SMALL_VOCABULARY.problem(where, size=tokenizer.vocab_size, least=least)


def _average(config: Config, place: Place) -> Iterator[Problem]:
    average = config.post_training.average
    if len(average) not in (2, 3) or min(average) < 0 or not sum(average) > 0:
        yield NO_AVERAGE.problem(place(("post_training", "average")), weights=average)


def _replay(config: Config, registry: Registry, place: Place) -> Iterator[Problem]:
    """Text that is learnt among dialogs is that of this run's pretraining."""
    section = config.post_training.sft
    if not section.replay:
        return
    spec = _spec(registry, "algorithms", section.algorithm.name)
    if isinstance(spec, AlgorithmSpec) and spec.data != "dialogs":
        why = f"{section.algorithm.name!r} learns from {spec.data}, not from dialogs"
    elif config.model.path is not None and len(parts_of(config.pretrain)) == 1:
        why = "nobody here knows what the model in model.path was pre-trained on"
    else:
        return
    yield NO_REPLAY.problem(place(("post_training", "sft", "replay")), why=why)


def _noise(config: Config, place: Place) -> Iterator[Problem]:
    """NEFTune draws its noise where all embeddings of a microbatch stand whole."""
    sizes = config.parallelism.sizes(1)
    for axis in ("tp", "cp"):
        if config.post_training.sft.neftune is not None and sizes[axis] > 1:
            yield NO_NOISE.problem(place(("post_training", "sft", "neftune")), axis=axis, ranks=sizes[axis])


def _updates(config: Config, place: Place) -> Iterator[Problem]:
    """A reward model goes on with pairs that rounds draw, each time with some of their prompts."""
    post = config.post_training
    if post.reward is None or not post.reward.updates:
        return
    where, parts = place(("post_training", "reward", "updates")), post.reward.updates + 1
    if post.data is not None or not post.rounds:
        why = "the preferences are those of post_training.data" if post.data is not None else "there are no rounds"
        yield NO_UPDATES.problem(where, why=why, instead="")
    elif post.prefer.prompts < parts:
        why = f"{post.prefer.prompts} prompts make no {parts} parts"
        yield NO_UPDATES.problem(where, why=why, instead=", or raise post_training.prefer.prompts")
