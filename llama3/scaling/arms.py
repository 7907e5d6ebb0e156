"""Arms of an experiment on data: models of one shape that are trained by the stage `pretrain` on different mixes, over
several seeds, and measured alike. Every training and every measurement is an artifact of the run directory, so an
experiment that was stopped goes on within the training that it was stopped in, and more arms or seeds leave what is
finished as it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from llama3.artifacts import Artifact
from llama3.config.schema import Config
from llama3.config.slot_types import SuiteSlot
from llama3.errors import ConfigError, DataError, Problem
from llama3.evaluation.stages import EvaluateOptions, evaluate
from llama3.scaling.study import Make
from llama3.tasks.named_files import named_files

NO_SUITE = ConfigError.declare("L3-SCL-031", "no suite {suite!r}", fix="those of evaluation.tasks are {known}")
FEW_HELD_OUT = DataError.declare(
    "L3-SCL-032",
    "of the source {source!r} {count} documents are held out, which nothing can be measured on",
    why="models are compared by the bits per byte of each source",
    fix="raise data.held_out, give the source more documents, or merge it with another under one name",
)
NO_SUCH_SOURCE = ConfigError.declare("L3-SCL-033", "no source {source!r}", fix="there are {known}")
TOO_OFTEN = ConfigError.declare(
    "L3-SCL-034",
    "{source!r} would be read {epochs} times",
    why="{told}",
    fix="give it a smaller share or more text, train on fewer tokens, or raise --epochs (now {most})",
)

LEAST = 2
"""Held-out documents of a source."""
BITS = "bits_per_byte"
SCORED_TEXT = {"max_bytes": 400_000, "document_bytes": 4096}
"""Held-out text of each source that is scored, and how much of each document: many documents, each its beginning."""

Train = Callable[[str, str, int], Artifact]
"""The model of an arm (its name and its key) and a seed."""


def bits_suite(source: str) -> str:
    """What the suite is called that gives the bits per byte of a source."""
    return f"{BITS} {source}"


def require_suites(config: Config, names: Mapping[str, str]) -> None:
    """Raises ConfigError (L3-SCL-031) for all names, by where they were given, that no suite of `evaluation.tasks`
    has."""
    known = sorted(slot.label for slot in config.evaluation.tasks)
    wrong = [NO_SUITE.problem(place, suite=name, known=known) for name, place in names.items() if name not in known]
    if wrong:
        raise ConfigError.of(wrong)


def measuring(config: Config, corpus: Artifact, further: Sequence[str]) -> EvaluateOptions:
    """Bits per byte of the held-out documents of each source, and `further` suites of `evaluation.tasks`.

    Raises DataError (L3-SCL-032) for all sources of which too few documents are held out.
    """
    own = {slot.label: slot for slot in config.evaluation.tasks}
    cells = corpus.metrics["funnel"]
    held = cells.get("held_out", {})
    counts = {source: held.get(source, {}).get("documents", 0) for source in sorted(cells["train"])}
    few = [FEW_HELD_OUT.problem("data.held_out", source=s, count=n) for s, n in counts.items() if n < LEAST]
    if few:
        raise DataError.of(few)
    bits = [
        SuiteSlot.model_validate({"name": BITS, "suite": bits_suite(source), "source": source, **SCORED_TEXT})
        for source in counts
    ]
    tasks = [*bits, *(own[name] for name in dict.fromkeys(further))]
    return EvaluateOptions.of(config).model_copy(update={"tasks": tasks, "files": named_files(tasks)})


def require_sources(names: Mapping[str, str], known: Sequence[str]) -> None:
    """Raises ConfigError (L3-SCL-033) for all names, by where they were given, that no source has."""
    wrong = {name: place for name, place in names.items() if name not in known}
    if wrong:
        raise ConfigError.of(NO_SUCH_SOURCE.problem(place, source=name, known=known) for name, place in wrong.items())


def too_often(epochs: Mapping[str, float], most: float, told: str, where: str) -> list[Problem]:
    """A problem for each source that is read more than `most` times."""
    return [
        TOO_OFTEN.problem(where, source=name, epochs=f"{count:.3g}", told=told, most=f"{most:g}")
        for name, count in epochs.items()
        if count > most
    ]


def trained_and_measured(
    make: Make,
    arms: Mapping[str, str],
    seeds: int,
    train: Train,
    options: EvaluateOptions,
    corpus: Artifact,
    words: str,
) -> dict[str, list[Artifact]]:
    """The evaluations of each arm, a list over seeds. `arms` are names by key. Those that are there come first, so that
    the time left is told by the pace of those that are not."""
    runs = [(name, key, seed) for seed in range(seeds) for name, key in arms.items()]
    there = make.run.current().keys()
    runs.sort(key=lambda run: report_key(run[1], run[2]) not in there)
    found: dict[tuple[str, int], Artifact] = {}
    with make.progress(words, len(runs)) as task:
        for name, key, seed in runs:
            model = train(name, key, seed)
            found[name, seed] = make(evaluate, report_key(key, seed), options, checkpoint=model, corpus=corpus)
            task.advance(1, model=run_key(key, seed))
    return {name: [found[name, seed] for seed in range(seeds)] for name in arms}


def run_key(key: str, seed: int) -> str:
    """What the checkpoint of an arm is called within the run directory."""
    return f"{key}-{seed + 1}"


def report_key(key: str, seed: int) -> str:
    """What its evaluation is called."""
    return f"{run_key(key, seed)}-report"
