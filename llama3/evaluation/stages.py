"""The stages that measure: `evaluate` a checkpoint, `baselines` of the held-out text, `contamination` of the tasks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pydantic import BaseModel, ConfigDict, Field
from rich.markup import escape

from llama3.artifacts import Artifact, Checkpoint, CorpusArtifact, Dialogs, Preferences, StageOutput, stage
from llama3.config.schema import Config
from llama3.config.slot_types import EvaluatorSlot, GuardPolicy, RewardSlot, Slot
from llama3.config.task_rewards import is_measurable, names_of
from llama3.data.corpus import Corpus
from llama3.data.covering import ExampleNgrams
from llama3.data.plan import TokenPlan
from llama3.data.trained_on import shards_of
from llama3.errors import ArtifactError
from llama3.evaluation.baselines import ORDER, ByteModel, gzip_bits_per_byte
from llama3.evaluation.contamination import contaminated_share, own_share, trained_texts
from llama3.evaluation.evaluator import HELD_OUT_BYTES, Result, Subject, texts
from llama3.evaluation.kept_suites import RESULTS, SAMPLES, MeasuredSuite, failures, keep, kept
from llama3.evaluation.odd_results import require_result, unpaired
from llama3.plugins.asking import is_of_the_machine
from llama3.plugins.registry import discover
from llama3.plugins.specs import EvaluatorSpec
from llama3.plugins.staying import staying
from llama3.plugins.targets import describe, is_stop
from llama3.tasks import prompt_digest
from llama3.tasks.held_out import HeldOutTasks
from llama3.tasks.named_files import guard_slots, named_files
from llama3.tasks.rewards import build_rewards

if TYPE_CHECKING:
    from llama3.inference.llama import Llama

NO_MODEL = ArtifactError.declare("L3-EVL-031", "neither a checkpoint nor a path is given")

CONDITIONS = "conditions.json"
"""File of an evaluation: what it was measured with."""
SAFETY_MARK = "safety_evaluator"
"""Stands in the results of a suite that is about safety (`EvaluatorSpec.about_safety`), with its evaluator's name."""
SCORE_BETTER, SCORED = "score_better", "scored"
"""Stand in the results of a suite whose figure is not the share of its scores (`Result.rate_better`)."""
NOT_MEASURED = "not_measured"
"""Stands in place of the results of a suite that nobody gives tasks to, with the reason."""
UNPAIRED = "unpaired"
"""Stands in the results of a suite whose items cannot be compared with those of another model, with the reason."""
COVERAGE = "coverage.jsonl"
"""File of a contamination report: of each task its id, the share of its tokens that the training text covers, and that
of the longest covered run."""
MOST_LEAKS = 10
"""Tasks that are named among those that were trained on."""


class OutsideModel(BaseModel):
    """A model outside a run. The same content elsewhere is the same request."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str = Field(exclude=True)
    blake3: str

    @classmethod
    def at(cls, path: str) -> Self:
        """The model that `llama3.load(path)` loads. Raises ArtifactError where there is none."""
        from llama3.checkpoints.adopt import content_hash
        from llama3.inference.llama import find_model

        model = find_model(Path(path))
        return cls(path=str(model), blake3=content_hash(model))


class EvaluateOptions(BaseModel):
    """What is measured; `model` is measured where no checkpoint is given."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: OutsideModel | None = None
    tasks: list[EvaluatorSlot]
    rewards: list[RewardSlot]
    limit: int
    max_tokens: int
    seed: int
    device: str = "cpu"
    context: int | None = Field(None, description="measured as if the model had been made for no more tokens")
    files: dict[str, str] = Field({}, description="contents of the files that suites, rewards and guards read")
    policy: GuardPolicy = Field({}, description="the guards, where a suite measures them too")

    @classmethod
    def of(cls, config: Config, model: OutsideModel | None = None) -> Self:
        """From the whole config."""
        from llama3.model.device import device_of

        policy = config.safety.policy if any(spec.with_policy for spec in specs_of(config.evaluation.tasks)) else {}
        return cls(
            model=model,
            tasks=config.evaluation.tasks,
            rewards=config.post_training.rewards,
            limit=config.evaluation.limit,
            max_tokens=config.evaluation.max_tokens,
            seed=config.run.seed,
            device=str(device_of(config.run.device)),
            files=named_files([*config.evaluation.tasks, *config.post_training.rewards, *guard_slots(policy)]),
            policy=policy,
        )


def specs_of(suites: Sequence[Slot]) -> list[EvaluatorSpec]:
    """What the evaluators of suites say of themselves."""
    specs = [discover().spec("evaluators", suite.name) for suite in suites]
    return [spec for spec in specs if isinstance(spec, EvaluatorSpec)]


@stage(output="report", failures=failures)
def evaluate(
    corpus: CorpusArtifact | None = None,
    checkpoint: Checkpoint | None = None,
    *,
    options: EvaluateOptions,
    out: StageOutput,
) -> None:
    """Run every evaluator on one model (see `measure`): the checkpoint, or else `options.model`. Without a corpus no
    evaluator may be `with_text`."""
    from llama3.inference.llama import load

    if checkpoint is not None:
        path = checkpoint.path
    elif options.model is not None:
        path = Path(options.model.path)
    else:
        raise NO_MODEL("stage evaluate")
    shards = shards_of(path) if any(spec.with_shards for spec in specs_of(options.tasks)) else None
    measure(load(path, device=options.device), corpus, options, out, shards)


def measure(
    model: Llama, corpus: Artifact | None, options: EvaluateOptions, out: StageOutput, shards: TokenPlan | None = None
) -> None:
    """Run every evaluator on a model: results by suite, samples by item, and the conditions that make two comparable.
    `shards` are what it was pre-trained on, where that is known.

    An evaluator that fails, or that returns what cannot be kept (`require_result`), spoils its own suite only: its
    result is {"error": ...}; that of one which asks tasks where there are none is {"not_measured": why}. What an
    earlier attempt at the same request has measured is taken over (`kept`).
    """
    registry = discover()
    if options.context is not None:
        whole = model.transformer.config
        model.transformer.config = replace(whole, max_seq_len=min(whole.max_seq_len, options.context))
    subject = Subject(
        model=model,
        corpus=None if corpus is None else Corpus(corpus.path),  # type: ignore[arg-type]  # none of them reads it
        rewards=build_rewards(options.rewards, options.device),
        max_tokens=options.max_tokens,
        policy=options.policy,
        shards=shards,
    )
    results: dict[str, Any] = {}
    there = kept(out)
    with (out.path / SAMPLES).open("w", encoding="utf-8") as samples:
        for number, slot in enumerate(options.tasks):
            if not is_measurable(slot, options.rewards, registry):
                results[slot.label] = {NOT_MEASURED: f"{names_of(options.rewards)} has no tasks to ask", **_about(slot)}
                continue
            if (found := there.get(slot.label)) is None:
                evaluator = registry.build("evaluators", slot.name, slot.options)
                try:
                    with staying():
                        result = evaluator.run(subject, options.limit, options.seed)
                    found = _measured(slot, result, out)
                except BaseException as error:  # of anybody's plugin
                    if is_of_the_machine(error) or is_stop(error):
                        raise
                    results[slot.label] = {"error": describe(error), **_about(slot)}
                    _tell(slot.label, describe(error), out)
                    continue
                keep(found, out.scratch / f"suite-{number}.json")
                registry.observers.notify("llama3_eval_done", task=slot.label, result=found.figures)
            results[slot.label] = found.figures
            samples.writelines(f"{row}\n" for row in found.rows)
    (out.path / RESULTS).write_text(json.dumps(results, indent=1), encoding="utf-8")
    asked = {"corpus": corpus and corpus.hash, **options.model_dump(mode="json", exclude={"model"})}
    (out.path / CONDITIONS).write_text(json.dumps(asked, indent=1), encoding="utf-8")
    out.metrics.update(results)


def _measured(slot: EvaluatorSlot, result: Result, out: StageOutput) -> MeasuredSuite:
    """What an evaluator found; the user is told where no two models can be compared by it. Raises PluginError for what
    cannot be kept."""
    require_result(slot.name, slot.label, result)
    told = {**result.metrics, **_ways(result), **_about(slot)}
    if why := unpaired(result.samples):
        told[UNPAIRED] = why
        out.event("suite_unpaired", suite=slot.label, evaluator=slot.name, why=why)
        fix = "an item needs an id, the same for every model, and a score that is a number"
        out.display.warn(f"suite {slot.label} (evaluators.{slot.name}) compares no two models: {why}; {fix}")
    rows = [json.dumps({"suite": slot.label, **row}) for row in result.samples]
    return MeasuredSuite(slot.label, json.loads(json.dumps(told)), rows)


def _tell(suite: str, error: str, out: StageOutput) -> None:
    out.event("evaluator_failed", suite=suite, error=error)
    again = "[dim](the same command measures it again)[/]"
    out.display.note(f"[yellow]![/] suite {escape(suite)} failed: {escape(error)} {again}")


def _ways(result: Result) -> dict[str, str]:
    """Which way the first figure is better and, where that differs, which way the scores are, and what they are."""
    if result.rate_better is None:
        return {"better": result.better}
    return {"better": result.rate_better, SCORE_BETTER: result.better, SCORED: result.scored}


def _about(suite: Slot) -> dict[str, str]:
    """What marks a suite that a model card tells among what is known of safety: the evaluator's name."""
    return {SAFETY_MARK: suite.name} if any(spec.about_safety for spec in specs_of([suite])) else {}


@stage(output="report")
def baselines(corpus: CorpusArtifact, *, out: StageOutput) -> None:
    """Bits per byte of gzip and of the order-3 byte model on the held-out text, the latter counted on all of train."""
    read = Corpus(corpus.path)
    held_out = list(texts(read, "held_out", HELD_OUT_BYTES))
    results = {
        "gzip": gzip_bits_per_byte(b"\n".join(held_out)),
        f"order{ORDER}": ByteModel(list(texts(read, "train"))).bits_per_byte(held_out),
        "bytes": sum(map(len, held_out)),
    }
    (out.path / "results.json").write_text(json.dumps(results, indent=1), encoding="utf-8")
    out.metrics.update(results)


class ContaminationOptions(HeldOutTasks):
    """The held-out tasks that are looked for, and the contents of the files that their rewards read."""

    files: dict[str, str] = Field(default_factory=dict)

    @classmethod
    def of(cls, config: Config) -> Self:
        """From the whole config."""
        sought = HeldOutTasks.of(config)
        files = named_files(slot for group in sought.asked for slot in group.rewards)
        return cls(asked=sought.asked, seed=sought.seed, files=files)


@stage(output="report")
def contamination(
    corpus: CorpusArtifact,
    tokenizer: Artifact,
    dialogs: Dialogs | None = None,
    preferences: Preferences | None = None,
    *,
    options: ContaminationOptions,
    out: StageOutput,
) -> None:
    """How much of the held-out tasks of all suites occurs in what was trained on: in the text of `corpus` (`text`), in
    `dialogs` and in `preferences`.

    `tokenizer` is any artifact that has one. Leaks are named in the metrics and refused by `require_clean`.
    """
    from llama3.tokenizer import Tokenizer

    vocabulary = Tokenizer.load(tokenizer.path)
    tasks = options.tasks()
    examples = ExampleNgrams([vocabulary.encode(task.prompt) for task in tasks])
    rows = (vocabulary.encode(data.decode()) for data in texts(Corpus(corpus.path), "train"))
    found_G = examples.found_in(rows)
    results: dict[str, Any] = {"text": contaminated_share(examples, found_G)}
    shares = zip(tasks, examples.coverage(found_G).tolist(), examples.longest(found_G).tolist(), strict=True)
    with (out.path / COVERAGE).open("w", encoding="utf-8") as file:
        for task, share, longest in shares:
            file.write(json.dumps({"id": task.id, "coverage": share, "longest": longest}) + "\n")
    for artifact in (dialogs, preferences):
        if artifact is not None:
            trained = list(dict.fromkeys(trained_texts(artifact)))
            digests = set(map(prompt_digest, trained))
            leaks = [task for task in tasks if prompt_digest(task.prompt) in digests]
            results[artifact.type] = {
                "n": len(tasks),
                "contaminated": len(leaks),
                "leaks": [{"id": task.id, "prompt": task.prompt[:200]} for task in leaks[:MOST_LEAKS]],
                "ngrams": own_share(examples, examples.found_in(map(vocabulary.encode, trained))),
            }
    (out.path / "results.json").write_text(json.dumps(results, indent=1), encoding="utf-8")
    out.metrics.update(results)
