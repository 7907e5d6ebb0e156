"""Whether the suites of a config have room in the contexts that they are measured in, known before any training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from llama3.config.phases import falling, parts_of
from llama3.config.schema import Config, GateSection
from llama3.config.slot_types import SuiteSlot
from llama3.config.yaml import Path
from llama3.errors import ConfigError, LlamaError, Problem
from llama3.evaluation.evaluator import AsksAtLengths
from llama3.plugins.registry import Registry

NO_ROOM = ConfigError.declare(
    "L3-CTX-005",
    "the suite {suite!r} has no room in a context of {context} tokens, {whose}",
    why="it asks only at lengths that are longer, or too short for what it hides",
    fix="give it lengths of up to {context} tokens, or take it out",
)
NEVER_PASSED = ConfigError.declare(
    "L3-CTX-006",
    "the suite {suite!r} asks at most at {longest} tokens, the stage goes to {context}",
    why="a gate is passed only where something is asked at the stage's own length",
    fix="let it ask at {context} tokens too (without lengths it does), or take it out",
)


@dataclass(frozen=True, slots=True)
class _Suite:
    path: Path
    label: str
    options: AsksAtLengths


_UNBOUNDED = 1 << 40


def suites_without_room(
    config: Config, registry: Registry, place: Callable[[Path], str], base: int | None
) -> Iterator[Problem]:
    """Suites that no model could pass, because they ask at no length that there is: those of `evaluation.tasks` in the
    shortest context that they are measured in, those of a gate at the context of each of its stages.

    Args:
        base: the context of the model before all stages; None where nobody knows it yet: then what is certain
            whatever it is.
    """
    if any(falling(config.pretrain, place)):
        return  # told by the check of the phases
    first, *parts = parts_of(config.pretrain)
    gated = [part[0].seq_len for part in parts if part[0].given.gated]
    measured: list[tuple[int, str]] = []
    if gated:
        before = first[-1].seq_len if first else config.pretrain.seq_len
        measured.append((before if base is None else min(base, before), "that before the long-context stages"))
    if base is not None and config.model.path:
        measured.append((base, "that of the model in model.path"))
    elif base is not None:
        measured.append((max([base, *(part[0].seq_len for part in parts)]), "that of the model in the end"))
    if measured:
        yield from _without_room(config, registry, place, *min(measured))
    for suite in _suites((config.pretrain.gate or GateSection()).tasks, ("pretrain", "gate", "tasks"), registry):
        for stage in gated:
            # A model that was made for more than its stage is asked at more.
            context = _UNBOUNDED if base is None else max(base, stage)
            longest = max(suite.options.lengths_at(context), default=0)
            if longest < stage:
                yield NEVER_PASSED.problem(place(suite.path), suite=suite.label, longest=longest, context=stage)
                break


def _without_room(
    config: Config, registry: Registry, place: Callable[[Path], str], context: int, whose: str
) -> Iterator[Problem]:
    for suite in _suites(config.evaluation.tasks, ("evaluation", "tasks"), registry):
        if not suite.options.lengths_at(context):
            yield NO_ROOM.problem(place(suite.path), suite=suite.label, context=context, whose=whose)


def _suites(slots: Sequence[SuiteSlot], path: Path, registry: Registry) -> Iterator[_Suite]:
    """Those that tell at which lengths they ask."""
    for index, slot in enumerate(slots):
        try:
            options = registry.options("evaluators", slot.name, slot.options)
        except LlamaError:
            continue  # told by pass 2
        if isinstance(options, AsksAtLengths):
            yield _Suite((*path, index), slot.label, options)
