"""The sizes of a herd: in which order they are raised, what each has from the others, and the report of all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llama3.artifacts import Artifact
from llama3.checkpoints.load import read_config
from llama3.checkpoints.prune import PruneOptions, prune
from llama3.config import Config, Loaded
from llama3.config.sizes import SizeSection
from llama3.evaluation.data_table import data_table
from llama3.evaluation.herd_figures import Stations, station_rows, steps_of, taught_steps
from llama3.evaluation.herd_page import render_herd
from llama3.evaluation.kept_suites import told_failures
from llama3.evaluation.stages import EvaluateOptions, evaluate
from llama3.execution import Executor
from llama3.outcome import Raising, Round, Trained
from llama3.rounds import Lessons
from llama3.sized import CONTROL, order, sized


@dataclass(frozen=True, slots=True)
class Size:
    """A size that was raised: its share of the execution, what came of it, and what it had from others."""

    part: Executor
    raised: Raising
    lessons: Lessons

    @property
    def trained(self) -> Trained:
        """Its models."""
        return self.raised.trained


def sizes_of(loaded: Loaded) -> dict[str, Loaded]:
    """The config of each size, in the order in which they are raised; none where the config has one model."""
    return {name: sized(loaded, name) for name in order(loaded.config)}


def lessons_for(part: Executor, section: SizeSection, herd: Mapping[str, Size]) -> Lessons:
    """What a size has from those that were raised before it."""
    start = vocabulary = judge = None
    if section.prune is not None:
        larger = herd[section.prune.of]
        start = part(prune, "prune", PruneOptions.of(section.prune), checkpoint=larger.trained.base)
        vocabulary = larger.part.made.get("tokenizer", start)
    if section.judge is not None:
        judge = herd[section.judge].trained.rounds[-1].judge
    teacher = herd[section.teacher].trained.final if section.teacher is not None else None
    return Lessons(start, vocabulary, teacher, judge)


def controls(size: Size) -> Lessons:
    """The lessons of a twin that has all of a size's but its teacher: as many examples of its own answers."""
    rounds = range(1, len(size.trained.rounds) + 1)
    return Lessons(judge=size.lessons.judge, pace={n: size.part.made[f"taught-{n}"] for n in rounds})


def unaudited(config: Config) -> Config:
    """The config of a twin: it is a measure, which nobody uses, and its repeated examples are no sign of a collapse."""
    post = config.post_training.model_copy(update={"audit": None})
    return config.model_copy(update={"post_training": post})


def tell_herd(make: Executor, config: Config, herd: Mapping[str, Size]) -> Raising:
    """Measure every round of every size, and write the report of the herd."""
    stations = {name: measured(size, make.made["curate"]) for name, size in herd.items()}
    first, *_ = herd.values()
    for key in ("final", "release"):  # what is meant by the whole run is its first size, of which the others learn
        make.take(key, first.part.made[key])
    report = {
        "schema": 1,
        "run": config.run.name,
        "herd": {
            "sizes": {name: _about(name, size, config) for name, size in herd.items()},
            "rounds": [row for name, found in stations.items() for row in station_rows(name, found)],
            "steps": [row for name, found in stations.items() for row in steps_of(name, found)]
            + [
                row
                for name, found in stations.items()
                if (alone := stations.get(f"{name}{CONTROL}")) is not None
                for row in taught_steps(name, found, alone)
            ],
            "data": {name: data_of(size) for name, size in herd.items()},
            "failed": list(told_failures(_results(make.made))),
        },
        "sizes": {name: dict(size.raised.report) for name, size in herd.items() if size.raised.report},
        "seconds": make.run.seconds_of(make.made),
        "artifacts": {name: artifact.hash for name, artifact in make.made.items()},
    }
    make.write_report(report, render_herd(report))
    return Raising(first.trained, report)


def _results(made: Mapping[str, Artifact]) -> dict[str, Mapping[str, Any]]:
    """Of every evaluation, by the name of its model: small-final-2."""
    measured = {key: artifact for key, artifact in made.items() if artifact.manifest.stage == evaluate.name}
    return {key.replace("evaluate-", "", 1): artifact.metrics for key, artifact in measured.items()}


def _about(name: str, size: Size, config: Config) -> dict[str, Any]:
    section = config.sizes[name.removesuffix(CONTROL)]
    return {
        "parameters": read_config(size.trained.base.path).num_params(),
        "teacher": None if name.endswith(CONTROL) else section.teacher,
        "judge": section.judge,
        "pruned_from": section.prune.of if section.prune else None,
        "rounds": len(size.trained.rounds),
        "algorithm": size.part.config.post_training.algorithm.name,
    }


def measured(size: Size, corpus: Artifact) -> Stations:
    """The evaluations of the base and, round by round, of every model on the way to the round's last."""
    make, options = size.part, EvaluateOptions.of(size.part.config)

    def on_tasks(station: str, model: Artifact) -> Artifact:
        return make(evaluate, f"evaluate-{station}", options, checkpoint=model, corpus=corpus)

    found: Stations = [{"final": on_tasks("base", size.trained.base)}]
    for n, done in enumerate(size.trained.rounds, start=1):
        models = _models(make, n, done)
        found.append({station: on_tasks(f"{station}-{n}", model) for station, model in models.items()})
    return found


def _models(make: Executor, n: int, done: Round) -> dict[str, Artifact]:
    """The models of a round by station; the first of several that are averaged, and their mean, stand apart."""
    models = {"sft": make.made[f"sft-{n}"], "sft-mean": done.tuned}
    models |= {"prefer": make.made[f"prefer-{n}"], "prefer-mean": done.preferred, "final": done.final}
    return {name: model for name, model in models.items() if models.get(name.removesuffix("-mean")) is not model
            or not name.endswith("-mean")}  # fmt: skip


def data_of(size: Size) -> list[dict[str, Any]]:
    """By round, the tables of what was learnt from (paper 4.2.1 and 4.2.2), as their manifests hold them, with
    the percent of each category `before` the mix was re-tuned."""
    make, rows = size.part, []
    for n, done in enumerate(size.trained.rounds, start=1):
        given = {"tokenizer": size.trained.base, "dialogs": done.dialogs, "preferences": done.pairs}
        found = dict(make(data_table, f"data-{n}", **given).manifest.metrics)
        if (tuned := make.made.get(f"retuned-{n}")) is not None:
            found["dialogs"] = {
                name: row | {"before": tuned.metrics["before"].get(name)} for name, row in found["dialogs"].items()
            }
        rows.append(found)
    return rows
