"""A study from a corpus to the artifact `forecast`: every run is trained and measured, then all laws are fitted.

Each run is two artifacts of the run directory, its checkpoint and its report. So a study that was killed goes on within
the run that it was killed in, and repeats none that is finished.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict

from llama3.artifacts import Artifact, Stage, StageOutput, stage
from llama3.artifacts.files import finite, write_json_atomic
from llama3.artifacts.progress import ProgressBar
from llama3.artifacts.run import RunDir
from llama3.config.schema import Config
from llama3.data.imported import sharded
from llama3.data.plan import TokenPlan
from llama3.data.vocabulary import TokenizerOptions, tokenizer
from llama3.errors import DataError
from llama3.evaluation.kept_suites import RESULTS
from llama3.evaluation.stages import EvaluateOptions, OutsideModel, evaluate
from llama3.scaling.analysis import analyse
from llama3.scaling.fits import FITS, PAGE, RUNS
from llama3.scaling.forecast import BenchmarkScore
from llama3.scaling.optima import Measured
from llama3.scaling.page import render
from llama3.scaling.runs import StudyRun, require_tokens, runs_of, section_of
from llama3.tasks.named_files import named_files
from llama3.tasks.rows import write_rows
from llama3.tokenizer import Tokenizer
from llama3.training.pretrain import PretrainOptions, pretrain

NO_FIGURE = DataError.declare(
    "L3-SCL-006",
    "{suite} gave no {figure}",
    why="{why}",
    fix="choose an evaluator that gives it, or mend its options; finished runs are kept",
)

LOSS, BENCHMARK = "loss", "benchmark"
"""Suites of a report."""
FARTHER = 10.0
"""What is forecast where no target is given: so many times the largest budget."""


class Make(Protocol):
    """What executes stages (llama3.execution.Executor)."""

    run: RunDir

    def __call__(
        self, stage: Stage, key: str, options: BaseModel | None = None, /, **inputs: Artifact | None
    ) -> Artifact: ...

    def progress(self, description: str, total: int) -> AbstractContextManager[ProgressBar]:
        """Show how far a loop over stages is."""
        ...


class ForecastOptions(BaseModel):
    """What was trained, which runs further models are, and what to forecast."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    runs: list[StudyRun]
    trained: list[str]
    """Roles of the reports of further models."""
    target: float
    seed: int


def study(make: Make, config: Config, corpus: Artifact) -> Artifact:
    """The forecast of the study that a config describes.

    Raises ConfigError and DataError before anything is trained where it cannot be carried out, DataError after the
    first run where the suites do not give what is fitted.
    """
    section = section_of(config)
    outside = [OutsideModel.at(path) for path in section.trained]
    vocabulary = make(tokenizer, "tokenizer", TokenizerOptions.of(config), corpus=corpus)
    shards = sharded(make, config, corpus, vocabulary)
    runs = runs_of(config, Tokenizer.load(vocabulary.path).vocab_size)
    require_tokens(config, runs, TokenPlan.load(shards.path))

    reports = _train_and_measure(make, config, runs, shards=shards, tokenizer=vocabulary, corpus=corpus)
    further = {
        f"trained-{number}": make(evaluate, f"trained-{number}-report", _measuring(config, model), corpus=corpus)
        for number, model in enumerate(outside, 1)
    }
    options = ForecastOptions(
        runs=runs,
        trained=list(further),
        target=section.target or FARTHER * section.budgets[-1],
        seed=config.run.seed,
    )
    return make(forecast, "forecast", options, **reports, **further)


def _train_and_measure(
    make: Make, config: Config, runs: Sequence[StudyRun], *, corpus: Artifact, **data: Artifact
) -> dict[str, Artifact]:
    """The report of every run by its key. Progress is told by FLOPs."""
    reports: dict[str, Artifact] = {}
    done, shown, total = 0.0, 0, sum(run.flops for run in runs)
    with make.progress("study, %", 100) as task:
        for run in _found_first(runs, make.run):
            base = make(pretrain, run.key, PretrainOptions.of(_config_of(config, run)), **data)
            reports[run.key] = make(evaluate, f"{run.key}-report", _measuring(config), checkpoint=base, corpus=corpus)
            read_report(reports[run.key])  # figures that are not there are told now, not after the last run
            done += run.flops
            task.advance(round(100 * done / total) - shown, run=run.key)
            shown = round(100 * done / total)
    return reports


def _config_of(config: Config, run: StudyRun) -> Config:
    """The config of one run."""
    section = config.run.model_copy(update={"seed": run.seed})
    return config.model_copy(update={"model": run.model, "pretrain": run.training(config.pretrain), "run": section})


def _measuring(config: Config, model: OutsideModel | None = None) -> EvaluateOptions:
    """Every model is measured by the two suites of the study, and by them alone."""
    section = section_of(config)
    tasks = [
        section.loss.model_copy(update={"suite": LOSS}),
        section.benchmark.model_copy(update={"suite": BENCHMARK}),
    ]
    return EvaluateOptions.of(config, model).model_copy(
        update={"tasks": tasks, "rewards": [], "files": named_files(tasks)}
    )


def _found_first(runs: Sequence[StudyRun], place: RunDir) -> list[StudyRun]:
    """Those that are there already first, so that the time left is told by the pace of those that are not."""
    made = place.current().keys()
    return sorted(runs, key=lambda run: f"{run.key}-report" not in made)


def read_report(report: Artifact) -> tuple[float, BenchmarkScore]:
    """The loss of a measured model and its figures on the benchmark. Raises DataError for what is not there."""
    results = json.loads(report.file(RESULTS).read_bytes())
    accuracy = _figure(results, BENCHMARK, "accuracy")
    rate = accuracy if isinstance(accuracy, dict) else {"rate": accuracy}
    scored = BenchmarkScore(
        nll=float(_figure(results, BENCHMARK, "nll_per_character")),
        accuracy=float(rate["rate"]),
        items=int(rate["n"] if "n" in rate else _figure(results, BENCHMARK, "items")),
        chance=float(_figure(results, BENCHMARK, "chance")),
    )
    return float(_figure(results, LOSS, "bits_per_byte")), scored


def _figure(results: dict[str, Any], suite: str, name: str) -> Any:
    if name not in results[suite]:
        why = results[suite].get("error") or f"it gave {', '.join(sorted(results[suite]))}"
        raise NO_FIGURE(f"scale.{suite}", suite=f"the suite of scale.{suite}", figure=name, why=why)
    return results[suite][name]


@stage(output="forecast")
def forecast(*, options: ForecastOptions, out: StageOutput, **reports: Artifact) -> None:
    """Fit the laws of a study to the reports of its runs; write the table, the fits and a page with plots."""
    table = []
    for run in options.runs:
        loss, scored = read_report(reports[run.key])
        table.append(Measured(run.key, run.budget, run.parameters, run.tokens, loss, scored, seed=run.seed, lr=run.lr))
    trained = [read_report(reports[role])[1] for role in options.trained]
    write_rows(out.path / RUNS, [run.to_json() for run in table])
    fits = finite(analyse(table, trained, options.target, options.seed))
    write_json_atomic(out.path / FITS, fits)
    (out.path / PAGE).write_text(render(table, trained, fits), encoding="utf-8")
    out.metrics |= {"runs": len(table), "tokens_law": fits["tokens_law"], "forecast": fits["forecast"]}
