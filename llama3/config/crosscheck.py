"""Pass 3: what no single key can know. Every check returns problems with the lines that would mend the config."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

from llama3.config.phases import phase_problems
from llama3.config.schema import Config, PostTrainingSection
from llama3.config.slots import slots_of
from llama3.config.yaml import Path
from llama3.errors import LlamaError, Problem, did_you_mean
from llama3.plugins.registry import Registry
from llama3.plugins.specs import (
    AlgorithmSpec,
    DataKindSpec,
    GuardSpec,
    ParallelSpec,
    PluginSpec,
    QuantizationSpec,
    RewardSpec,
    SourceSpec,
)

Place = Callable[[Path], str]
S = TypeVar("S", bound=PluginSpec)


def cross_check(config: Config, registry: Registry, place: Place, environ: Mapping[str, str]) -> list[Problem]:
    """All problems between sections; `place` gives "file:line:col: dotted.path" of a path."""
    return [
        *_algorithms(config, registry, place),
        *_mesh(config, registry, place, environ),
        *_guards(config, registry, place),
        *_quantization(config, registry, place),
        *_mix(config, registry, place),
        *_suites(config, place),
        *phase_problems(config.pretrain, config.model.max_seq_len, place),
        *_numbers(config, place),
    ]


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
    _Learner(("post_training", "sft", "algorithm"), "dialogs", frozenset({"teacher"}), stage="sft"),
    _Learner(
        ("post_training", "reward", "algorithm"),
        "preferences",
        frozenset({"reference", "score_head"}),
        makes_reward=True,
    ),
)


def _algorithms(config: Config, registry: Registry, place: Place) -> Iterator[Problem]:
    post = config.post_training
    judge = post.reward.algorithm if post.reward else None
    slots = [config.pretrain.algorithm, post.algorithm, post.sft.algorithm, judge]
    for learner, slot in zip(_LEARNERS, slots, strict=True):
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
        fix = f"add `post_training: {{{learner.stage}: {{teacher: {{path: FOLDER}}}}}}`"
        yield Problem("L3-CFG-070", place(learner.path), f"{spec.name!r} needs a teacher and none is named", fix=fix)
    elif "teacher" not in spec.needs and teacher is not None:
        where = place(("post_training", learner.stage, "teacher"))
        fix = "take it out, or choose an algorithm that needs one"
        yield Problem("L3-CFG-071", where, f"{spec.name!r} learns from no teacher", fix=fix)


def _learner(learner: _Learner, spec: AlgorithmSpec, registry: Registry, where: str) -> Iterator[Problem]:
    """Whether the stage has the data and supplies the needs; where not, which stage does."""
    kinds = _specs(registry, "data_kinds", DataKindSpec)
    if spec.data not in kinds:
        what = f"{spec.name!r} learns from {spec.data!r}, a kind of data that no plugin brings"
        near = did_you_mean(spec.data, kinds) or f"kinds: {', '.join(sorted(kinds))}"
        yield Problem("L3-CFG-034", where, what, near, "install the plugin that brings it")
        return
    algorithms = _specs(registry, "algorithms", AlgorithmSpec)
    fitting = [name for name, other in algorithms.items() if learner.suits(other, kinds)]
    fix = f"choose one of {', '.join(sorted(fitting)) or 'none installed'}"
    if home := next((other for other in _LEARNERS if other.suits(spec, kinds)), None):
        fix = f"{fix}; {spec.name!r} belongs to {home.line(spec.name)}"
    if kinds[spec.data].artifact != learner.artifact:
        read = sorted(name for name, kind in kinds.items() if kind.artifact == learner.artifact)
        what = f"{spec.name!r} learns from {spec.data}, this stage has {' or '.join(read)}"
        yield Problem("L3-CFG-020", where, what, fix=fix)
    elif lacking := sorted(need.replace("_", " ") for need in spec.needs - learner.needs):
        what = f"{spec.name!r} needs a {' and a '.join(lacking)}, which this stage does not supply"
        yield Problem("L3-CFG-022", where, what, fix=fix)
    elif learner.makes_reward and spec.reward is None:
        yield Problem("L3-CFG-035", where, f"{spec.name!r} makes no model that a reward scores with", fix=fix)


def _sources(config: Config, spec: AlgorithmSpec, registry: Registry, where: str) -> Iterator[Problem]:
    """Data that no round makes must be given; an algorithm that samples needs something that scores, and prompts."""
    post = config.post_training
    kind = _spec(registry, "data_kinds", spec.data)
    asking = f"`post_training: {{rewards: [{', '.join(slot.name for slot in PostTrainingSection().rewards)}]}}`"
    if isinstance(kind, DataKindSpec) and kind.artifact != "shards" and not kind.sampled and post.data is None:
        what = f"{spec.name!r} learns from {spec.data}, which no round makes"
        yield Problem("L3-CFG-036", where, what, fix=f"add `post_training: {{data: {spec.data}.jsonl}}`")
    elif "reward" in spec.needs and not post.rewards and post.reward is None:
        what = f"{spec.name!r} needs a reward and post_training.rewards is empty"
        yield Problem("L3-CFG-021", where, what, fix=f"add {asking}")
    elif "rollouts" in spec.needs and post.data is None:
        specs = [_spec(registry, "rewards", slot.name) for slot in post.rewards]
        if not any(reward is None or not isinstance(reward, RewardSpec) or reward.has_tasks for reward in specs):
            names = ", ".join(slot.name for slot in post.rewards) or "the trained reward model"
            what = f"{spec.name!r} needs prompts, and {names} has none of its own"
            yield Problem("L3-CFG-033", where, what, fix=f"add {asking} or `post_training: {{data: prompts.jsonl}}`")


def _mesh(config: Config, registry: Registry, place: Place, environ: Mapping[str, str]) -> Iterator[Problem]:
    for axis, slot in config.parallelism.slots.items():
        where = place(("parallelism", axis))
        supplied = _axis(registry, slot.name) if slot.name else axis
        if supplied not in ("", axis):
            yield Problem("L3-CFG-024", where, f"{slot.name!r} is a strategy for {supplied}, not {axis}")
        if not slot.name and (slot.size or 1) > 1:
            names = [name for name in registry.names("parallelism") if _axis(registry, name) == axis]
            why = f"strategies for it: {', '.join(names) or 'none installed'}"
            fix = f"write {axis}: {{name: {names[0] if names else '...'}, size: {slot.size}}}"
            yield Problem("L3-CFG-023", where, f"no strategy supplies the {axis} axis", why, fix)
    world = environ.get("WORLD_SIZE", "")
    if not world.isdecimal():
        return  # not under a launcher: `world_problems` asks again when the run starts
    yield from world_problems(config, int(world), place)


def world_problems(config: Config, world: int, place: Place) -> Iterator[Problem]:
    """The mesh must use exactly the processes that were started."""
    sizes = config.parallelism.sizes(world)
    wanted = math.prod(sizes.values())
    if wanted != world:
        mesh = " x ".join(f"{axis} {size}" for axis, size in sizes.items())
        what = f"the mesh ({mesh}) needs {wanted} processes, there are {world}"
        fix = f"torchrun --nproc-per-node {wanted} -m llama3 run ..., or change `size`"
        yield Problem("L3-CFG-025", place(("parallelism", "dp")), what, fix=fix)


def _axis(registry: Registry, name: str) -> str:
    spec = _spec(registry, "parallelism", name)
    return spec.axis if isinstance(spec, ParallelSpec) else ""


def _guards(config: Config, registry: Registry, place: Place) -> Iterator[Problem]:
    for choice in slots_of(config.safety, ("safety",)):
        spec, stage = _spec(registry, choice.family, choice.slot.name), choice.path[2]
        if isinstance(spec, GuardSpec) and stage not in spec.stages:
            what = f"guard {choice.slot.name!r} does not stand at {stage!r}"
            fix = f"move it to {' or '.join(sorted(spec.stages))}"
            yield Problem("L3-CFG-026", place(choice.path), what, fix=fix)


def _quantization(config: Config, registry: Registry, place: Place) -> Iterator[Problem]:
    device = config.run.device
    for index, slot in enumerate(config.quantization):
        spec = _spec(registry, "quantization", slot.name)
        if isinstance(spec, QuantizationSpec) and device != "auto" and device not in spec.devices:
            fix = f"set run.device to {' or '.join(sorted(spec.devices))}, or choose another scheme"
            what = f"{slot.name!r} does not run on {device}"
            yield Problem("L3-CFG-027", place(("quantization", index)), what, fix=fix)


def _mix(config: Config, registry: Registry, place: Place) -> Iterator[Problem]:
    known = _labels(config, registry)
    mixes: list[tuple[Path, Mapping[str, float]]] = [(("data", "mix"), config.data.mix)]
    mixes += [(("pretrain", "phases", i, "mix"), phase.mix) for i, phase in enumerate(config.pretrain.phases)]
    for path, mix in mixes:
        for name, weight in mix.items():
            if known is not None and name not in known:
                what = f"no source has the label {name!r}"
                why = did_you_mean(name, known) or f"labels: {', '.join(sorted(known))}"
                yield Problem("L3-CFG-028", place((*path, name)), what, why)
            if not weight >= 0:
                yield Problem("L3-CFG-029", place((*path, name)), f"a weight cannot be {weight}", fix="give 0 or more")
        if mix and not sum(mix.values()) > 0:
            yield Problem("L3-CFG-029", place(path), "all weights are 0", fix="give one source a weight above 0")


def _labels(config: Config, registry: Registry) -> set[str] | None:
    """Labels of all sources, or None where a source does not tell its labels before it is read."""
    labels: set[str] = set()
    for slot in config.data.sources:
        try:
            options = registry.options("sources", slot.name, slot.options)
            spec = registry.spec("sources", slot.name)
        except LlamaError:
            return None  # pass 2 has reported it
        own = getattr(options, "source", None)
        given = {own} if isinstance(own, str) else set(spec.labels) if isinstance(spec, SourceSpec) else set()
        if not given:
            return None
        labels |= given
    return labels


def _suites(config: Config, place: Place) -> Iterator[Problem]:
    """Results are known by their suite's name, so it must be unique; the audit names suites that exist."""
    known: set[str] = set()
    for index, slot in enumerate(config.evaluation.tasks):
        if slot.label in known:
            where = place(("evaluation", "tasks", index))
            fix = f"give each its own name: {{name: {slot.name}, suite: ...}}"
            yield Problem("L3-CFG-060", where, f"the suite {slot.label!r} is there twice", fix=fix)
        known.add(slot.label)
    named: list[tuple[Path, str]] = [(("audit", "margins", name), name) for name in config.audit.margins]
    named += [(("audit", "must_improve", i), name) for i, name in enumerate(config.audit.must_improve)]
    for path, name in named:
        if name not in known:
            why = did_you_mean(name, known) or f"suites of evaluation.tasks: {', '.join(sorted(known))}"
            yield Problem("L3-CFG-061", place(path), f"no suite {name!r} is evaluated", why)


def _numbers(config: Config, place: Place) -> Iterator[Problem]:
    tokenizer = config.tokenizer
    if tokenizer.path is None and tokenizer.vocab_size < 256 + tokenizer.num_special:
        fix = f"at least {256 + tokenizer.num_special}: 256 bytes and num_special"
        yield Problem("L3-CFG-030", place(("tokenizer", "vocab_size")), f"{tokenizer.vocab_size} is too small", fix=fix)
    average = config.post_training.average
    if len(average) not in (2, 3) or min(average) < 0 or not sum(average) > 0:
        what = f"{average} are no weights of the sft and the preference checkpoint, and of their base"
        fix = "two numbers, such as [0.5, 0.5], or three, such as [0.25, 0.25, 0.5]"
        yield Problem("L3-CFG-032", place(("post_training", "average")), what, fix=fix)
