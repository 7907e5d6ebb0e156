"""The pieces of a curation made by tasks of a Ray cluster whose machines share the folder. Nothing but names and
numbers goes through Ray: pieces are files, as everywhere else.

Ray is an extra. A task that fails is tried again by Ray; one that is tried twice at once disturbs nobody.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from llama3 import _core
from llama3.data.commits import Commit
from llama3.data.curate import FACTS
from llama3.data.curating import CurateOptions, Curation, Step
from llama3.data.remembered import shared_facts
from llama3.data.staging import place_of
from llama3.data.writing import Material
from llama3.errors import ConfigError, DataError

NO_RAY = ConfigError.declare(
    "L3-DAT-275",
    "Ray is not installed",
    why="{error}",
    fix="pip install 'llama3[ray]', or share the work out with --rank and --world",
)
NO_CLUSTER = ConfigError.declare(
    "L3-DAT-276",
    "there is no Ray cluster",
    why="{error}",
    fix="give --ray local for one on this machine, or the address that `ray start --head` tells",
)
TASK_FAILED = DataError.declare("L3-DAT-277", "a task of Ray failed: {what}", why="{error}")

TRIES = 3
IN_FLIGHT = 2
"""Tasks for each core of the cluster that wait or work."""


def curate_on_ray(
    options: CurateOptions,
    folder: Path,
    address: str,
    advance: Callable[[Step, int, int], None],
    last: Step = "write",
) -> None:
    """Makes all pieces of a curation in `folder`, up to the step `last`. `address`: of a cluster, or "local" for one on
    this machine, as long as this runs. `advance` is told the step, the pieces of it that are made, and all of them.

    Raises ConfigError (L3-DAT-275, 276) where there is no Ray, DataError (L3-DAT-277) where a task failed for good."""
    ray = ray_library()
    curation = Curation(options, folder)
    ours = not ray.is_initialized()
    try:
        if ours:
            ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise NO_CLUSTER(address, error=error) from error
    try:
        make = ray.remote(max_retries=TRIES, num_cpus=1)(_make)
        given = options.model_dump_json(), str(folder.absolute())

        def each(step: Step, numbers: Iterable[int]) -> None:
            wanted = list(numbers)
            room = max(1, int(IN_FLIGHT * ray.cluster_resources().get("CPU", 1)))
            for done, _ in enumerate(_as_they_end(ray, wanted, room, lambda number: make.remote(*given, step, number))):
                advance(step, done + 1, len(wanted))

        each("read", range(len(curation.shards)))
        if last == "read":
            return
        staged = curation.staged()
        if staged is None:
            missing = [place_of(shard) for n, (_, shard) in enumerate(curation.shards) if curation.shard(n) is None]
            raise TASK_FAILED(folder, what="a shard is not there", error=missing)
        material = curation.material(staged, curation.decision(staged))
        parts = range(len(material.decision.parts))
        if curation.counts(material):
            each("count", parts)
            curation.counted(material)
        each("write", parts)
    finally:
        if ours:
            ray.shutdown()


def _as_they_end(ray: ModuleType, wanted: list[int], room: int, start: Callable[[int], Any]) -> Iterator[int]:
    """The numbers whose tasks are done, with no more than `room` under way."""
    waiting: dict[Any, int] = {}
    left = list(reversed(wanted))
    while left or waiting:
        while left and len(waiting) < room:
            number = left.pop()
            waiting[start(number)] = number
        (first, *_), _ = ray.wait(list(waiting), num_returns=1)
        number = waiting.pop(first)
        try:
            ray.get(first)
        except ray.exceptions.RayError as error:
            raise TASK_FAILED("Ray", what=f"piece {number}", error=str(error).strip().splitlines()[-1]) from error
        yield number


def _make(options: str, folder: str, step: Step, number: int) -> None:
    """A task: one piece."""
    if step == "read":
        _curation(options, folder).read(number)
    elif step == "count":
        material = _material(options, folder)
        _curation(options, folder).count(material, material.decision.parts[number])
    else:
        material = _material(options, folder)
        _curation(options, folder).write(material, material.decision.parts[number], _counted(options, folder))


# What a worker opens once. Each begins when the step before is done, so it does not change any more.


@cache
def _curation(options: str, folder: str) -> Curation:
    _core.set_num_threads(1)  # a task has one core
    with shared_facts(Path(folder).parent / FACTS):
        return Curation(CurateOptions.model_validate_json(options), Path(folder))


@cache
def _material(options: str, folder: str) -> Material:
    curation = _curation(options, folder)
    staged = curation.staged()
    assert staged is not None, "all shards are read before"
    return curation.material(staged, curation.decision(staged))


@cache
def _counted(options: str, folder: str) -> Commit | None:
    return _curation(options, folder).counted(_material(options, folder))


def ray_library() -> ModuleType:
    """Raises ConfigError (L3-DAT-275) where it is not installed."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would tell its makers of every cluster
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise NO_RAY("ray", error=error) from error
