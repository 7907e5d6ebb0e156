"""The stages that measure: `evaluate` a checkpoint, `baselines` of the held-out text, `contamination` of the tasks."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from llama3.artifacts import Artifact, StageOutput
from llama3.config.schema import Config, Slot, SuiteSlot
from llama3.data.corpus import Corpus
from llama3.evaluation.baselines import ORDER, ByteModel, gzip_bits_per_byte
from llama3.evaluation.contamination import NgramIndex, contaminated_share
from llama3.evaluation.evaluator import HELD_OUT_BYTES, Subject, texts
from llama3.plugins.registry import discover
from llama3.posttraining.rewards import CombinedReward, build_rewards

if TYPE_CHECKING:
    from llama3.inference.llama import Llama

RESULTS, SAMPLES, CONDITIONS = "results.json", "samples.jsonl", "conditions.json"
"""Files of an evaluation: figures by suite, one row per suite and item, and what it was measured with."""


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


_MEASURED = frozenset(EvaluateOptions.model_fields)


def evaluate(inputs: Mapping[str, Artifact], options: EvaluateOptions, out: StageOutput) -> None:
    """Run every evaluator on one checkpoint (see `measure`)."""
    from llama3.inference.llama import load

    measure(load(inputs["checkpoint"].path), inputs["corpus"], options, out)


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
    """How much of the held-out tasks occurs in the training text (8-grams of tokens) and in the training `dialogs`
    (where there are any)."""
    from llama3.tokenizer import Tokenizer

    tokenizer = Tokenizer.load(inputs["tokenizer"].path)
    tasks = CombinedReward(build_rewards(options.rewards)).tasks("held_out", options.limit, options.seed)
    rows = (tokenizer.encode(data.decode()) for data in texts(Corpus(inputs["corpus"].path), "train"))
    prompts = [task.prompt for task in tasks]
    trained = _contents(inputs["dialogs"]) if "dialogs" in inputs else set()
    results = {
        "text": contaminated_share(NgramIndex(rows), [tokenizer.encode(prompt) for prompt in prompts]),
        "dialogs": {"n": len(prompts), "contaminated": sum(prompt in trained for prompt in prompts)},
    }
    (out.path / "results.json").write_text(json.dumps(results, indent=1), encoding="utf-8")
    out.metrics.update(results)


def _contents(dialogs: Artifact) -> set[str]:
    with dialogs.file("dialogs.jsonl").open(encoding="utf-8") as file:
        return {message["content"] for line in file for message in json.loads(line)["messages"]}
