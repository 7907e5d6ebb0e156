"""The stages that measure: `evaluate` a checkpoint, `baselines` of the held-out text, `contamination` of the tasks."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from llama3.artifacts import Artifact, StageOutput
from llama3.config.schema import Config, RewardSlot, Slot, SuiteSlot
from llama3.data.corpus import Corpus
from llama3.evaluation.baselines import ORDER, ByteModel, gzip_bits_per_byte
from llama3.evaluation.contamination import DATA_TYPES, NgramIndex, contaminated_share, own_share, trained_texts
from llama3.evaluation.evaluator import HELD_OUT_BYTES, Subject, texts
from llama3.plugins.registry import discover
from llama3.tasks import Task, prompt_digest
from llama3.tasks.rewards import CombinedReward, build_rewards

if TYPE_CHECKING:
    from llama3.inference.llama import Llama

RESULTS, SAMPLES, CONDITIONS = "results.json", "samples.jsonl", "conditions.json"
"""Files of an evaluation: figures by suite, one row per suite and item, and what it was measured with."""


_REWARDS = TypeAdapter(list[RewardSlot])
MOST_LEAKS = 10
"""Tasks that are named among those that were trained on."""


class EvaluateOptions(BaseModel):
    """Options of all three stages."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tasks: list[SuiteSlot]
    rewards: list[Slot]
    limit: int
    max_tokens: int
    seed: int

    @classmethod
    def of(cls, config: Config) -> EvaluateOptions:
        """From the whole config."""
        return cls(
            tasks=config.evaluation.tasks,
            rewards=config.post_training.rewards,
            limit=config.evaluation.limit,
            max_tokens=config.evaluation.max_tokens,
            seed=config.run.seed,
        )


class EvaluatePathOptions(EvaluateOptions):
    """Options of `evaluate_path`: a model outside a run. The same content elsewhere is the same request."""

    path: str = Field(exclude=True)
    blake3: str

    @classmethod
    def of_path(cls, config: Config, path: str) -> EvaluatePathOptions:
        """For the model that `llama3.load(path)` loads. Raises ArtifactError where there is none."""
        from llama3.checkpoints.adopt import content_hash
        from llama3.inference.llama import find_model

        model = find_model(Path(path))
        return cls(**dict(EvaluateOptions.of(config)), path=str(model), blake3=content_hash(model))


_MEASURED = frozenset(EvaluateOptions.model_fields)


def evaluate(inputs: Mapping[str, Artifact], options: EvaluateOptions, out: StageOutput) -> None:
    """Run every evaluator on one checkpoint (see `measure`)."""
    from llama3.inference.llama import load

    measure(load(inputs["checkpoint"].path), inputs["corpus"], options, out)


def evaluate_path(inputs: Mapping[str, Artifact], options: EvaluatePathOptions, out: StageOutput) -> None:
    """Run every evaluator on the model at `options.path`."""
    from llama3.inference.llama import load

    measure(load(options.path), inputs["corpus"], options, out)


def measure(model: Llama, corpus: Artifact, options: EvaluateOptions, out: StageOutput) -> None:
    """Run every evaluator on a model: results by suite, samples by item, and the conditions that make two comparable.

    An evaluator that fails, or that measures something which is no finite number, spoils its own suite only: its
    result is {"error": ...}.
    """
    registry = discover()
    subject = Subject(
        model=model,
        corpus=Corpus(corpus.path),
        rewards=build_rewards(options.rewards),
        max_tokens=options.max_tokens,
    )
    results: dict[str, Any] = {}
    with (out.path / SAMPLES).open("w", encoding="utf-8") as samples:
        for slot in options.tasks:
            evaluator = registry.build("evaluators", slot.name, slot.options)
            try:
                result = evaluator.run(subject, options.limit, options.seed)
                lines = [json.dumps({"suite": slot.label, **row}, allow_nan=False) for row in result.samples]
                metrics = json.loads(json.dumps({**result.metrics, "better": result.better}, allow_nan=False))
            except Exception as error:  # of anybody's plugin
                results[slot.label] = {"error": f"{type(error).__name__}: {error}"}
                out.event("evaluator_failed", suite=slot.label, error=str(error))
                continue
            results[slot.label] = metrics
            samples.writelines(f"{line}\n" for line in lines)
            registry.observers.notify("llama3_eval_done", task=slot.label, result=metrics)
    (out.path / RESULTS).write_text(json.dumps(results, indent=1), encoding="utf-8")
    asked = {name: value for name, value in options.model_dump(mode="json").items() if name in _MEASURED}
    (out.path / CONDITIONS).write_text(json.dumps({"corpus": corpus.hash, **asked}, indent=1), encoding="utf-8")
    out.metrics.update(results)


def baselines(inputs: Mapping[str, Artifact], options: EvaluateOptions, out: StageOutput) -> None:
    """Bits per byte of gzip and of the order-3 byte model on the held-out text, the latter counted on all of train."""
    corpus = Corpus(inputs["corpus"].path)
    held_out = list(texts(corpus, "held_out", HELD_OUT_BYTES))
    results = {
        "gzip": gzip_bits_per_byte(b"\n".join(held_out)),
        f"order{ORDER}": ByteModel(list(texts(corpus, "train"))).bits_per_byte(held_out),
        "bytes": sum(map(len, held_out)),
    }
    (out.path / "results.json").write_text(json.dumps(results, indent=1), encoding="utf-8")
    out.metrics.update(results)


def contamination(inputs: Mapping[str, Artifact], options: EvaluateOptions, out: StageOutput) -> None:
    """How much of the held-out tasks of all suites occurs in what was trained on: in the text of `corpus` (`text`), and
    in every artifact of dialogs or preferences among the inputs (by role).

    `tokenizer` is any directory that has one. Leaks are named in the metrics and refused by `require_clean`.
    """
    from llama3.tokenizer import Tokenizer

    tokenizer = Tokenizer.load(inputs["tokenizer"].path)
    tasks = _held_out_tasks(options)
    ids = [tokenizer.encode(task.prompt) for task in tasks]
    rows = (tokenizer.encode(data.decode()) for data in texts(Corpus(inputs["corpus"].path), "train"))
    results: dict[str, Any] = {"text": contaminated_share(NgramIndex(rows), ids)}
    for role, artifact in inputs.items():
        if artifact.type in DATA_TYPES:
            trained = list(dict.fromkeys(trained_texts(artifact)))
            digests = set(map(prompt_digest, trained))
            leaks = [task for task in tasks if prompt_digest(task.prompt) in digests]
            results[role] = {
                "n": len(tasks),
                "contaminated": len(leaks),
                "leaks": [{"id": task.id, "prompt": task.prompt[:200]} for task in leaks[:MOST_LEAKS]],
                "ngrams": own_share(NgramIndex(tokenizer.encode(text) for text in trained), ids),
            }
    (out.path / "results.json").write_text(json.dumps(results, indent=1), encoding="utf-8")
    out.metrics.update(results)


def _held_out_tasks(options: EvaluateOptions) -> list[Task]:
    """The tasks that the rewards of the config give to evaluators, and those of suites with rewards of their own."""
    asked = [(options.rewards, options.limit)]
    for slot in options.tasks:
        if own := slot.options.get("rewards"):
            asked.append((_REWARDS.validate_python(own), slot.options.get("limit") or options.limit))
    found = {
        task.id: task
        for rewards, limit in asked
        for task in CombinedReward(build_rewards(rewards)).tasks("held_out", limit, options.seed)
    }
    return list(found.values())
