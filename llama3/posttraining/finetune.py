"""The stages `sft`, `reward` and `prefer`: train a checkpoint with the algorithm that the config names.

    sft:     base checkpoint + dialogs      -> checkpoint     (paper 4.1.3)
    reward:  checkpoint + preferences       -> checkpoint     (paper 4.1.2), with a score head
    prefer:  sft checkpoint + preferences   -> checkpoint     (paper 4.1.4)

The algorithm's spec says what data it eats and which services it needs; both are looked up here in tables, so that
another algorithm is a change of config.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from llama3.artifacts import Artifact, Checkpoint, Dialogs, Preferences, StageOutput, stage
from llama3.checkpoints.adapter import ADAPTER, base_hash, save_adapter
from llama3.checkpoints.load import load_model, read_config
from llama3.config.schema import (
    AlgorithmSlot,
    Config,
    ParallelismSection,
    PreferSection,
    RewardSection,
    RewardSlot,
    SFTSection,
    Slot,
)
from llama3.errors import ConfigError, DataError, Problem
from llama3.inference.engine import open_generate
from llama3.model.config import ModelConfig
from llama3.model.lora import add_lora, merge
from llama3.model.transformer import Transformer
from llama3.plugins.registry import discover
from llama3.plugins.specs import AlgorithmSpec, Need
from llama3.posttraining.datasets import (
    Epochs,
    LabelExample,
    PairExample,
    PromptExample,
    dialog_example,
    label_example,
    pair_example,
    prompt_ids,
)
from llama3.posttraining.reference import CachedReference
from llama3.posttraining.sampling import build_reward, task_messages
from llama3.posttraining.services import (
    BaseScorer,
    LazyScorer,
    ModelScorer,
    RolloutSampler,
    TextRewarder,
    build_services,
    chunks,
    draw_seed,
)
from llama3.tasks import Task
from llama3.tasks.rows import read_rows
from llama3.tokenizer import Tokenizer, stop_ids
from llama3.training.algorithm import Algorithm, Scorer
from llama3.training.checkpoint import CheckpointStore
from llama3.training.loop import train
from llama3.training.parallel import GlobalStats, Parallel, start
from llama3.training.rollouts import RolloutWatch
from llama3.training.schedule import Schedule
from llama3.training.stage import device_of, reporting, save_checkpoint, whole_model


class TrainingOptions(BaseModel):
    """What both stages need of the config. How many processes share the work and where it is logged do not change
    what they make (but rounding)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    parallelism: ParallelismSection = Field(ParallelismSection(), exclude=True)
    seed: int
    device: str = "cpu"
    logging: tuple[Slot, ...] = Field(default=(), exclude=True)

    @staticmethod
    def common(config: Config) -> dict[str, Any]:
        """The fields of this class, from the whole config."""
        return {
            "parallelism": config.parallelism,
            "seed": config.run.seed,
            "device": str(device_of(config.run.device)),
            "logging": tuple(config.logging),
        }


class SFTOptions(TrainingOptions):
    """Options of `sft`; the algorithm stands in the section."""

    sft: SFTSection

    @classmethod
    def of(cls, config: Config) -> Self:
        """From the whole config."""
        return cls(sft=config.post_training.sft, **cls.common(config))


class PreferOptions(TrainingOptions):
    """Options of `prefer`; the rewards are for algorithms that sample."""

    prefer: PreferSection
    algorithm: AlgorithmSlot
    rewards: tuple[RewardSlot, ...]

    @classmethod
    def of(cls, config: Config) -> Self:
        """From the whole config."""
        post = config.post_training
        return cls(prefer=post.prefer, algorithm=post.algorithm, rewards=tuple(post.rewards), **cls.common(config))


class RewardOptions(TrainingOptions):
    """Options of `reward`; the algorithm stands in the section."""

    reward: RewardSection

    @classmethod
    def of(cls, config: Config) -> Self:
        """From the whole config, whose `post_training.reward` is given."""
        return cls(reward=config.post_training.reward or RewardSection(), **cls.common(config))


@stage(output="checkpoint", every_rank=True)
def sft(checkpoint: Checkpoint, dialogs: Dialogs, *, options: SFTOptions, out: StageOutput) -> None:
    """Finetune `checkpoint` (the base model) on `dialogs`. Raises DataError for bad or missing dialogs, all at once."""
    inputs = {"checkpoint": checkpoint, "dialogs": dialogs}
    job = Finetuning("sft", inputs, options.sft.algorithm, options.sft, options, out)
    job.require("dialogs")
    rows = list(read_rows(dialogs.file("dialogs.jsonl")))
    examples = _each(rows, lambda row, where: dialog_example(job.tokenizer, row["messages"], where))
    job.run(examples, {})


@stage(output="checkpoint", every_rank=True)
def reward(checkpoint: Checkpoint, preferences: Preferences, *, options: RewardOptions, out: StageOutput) -> None:
    """Train a reward model, from `checkpoint`, on the pairs or rankings of `preferences`."""
    inputs = {"checkpoint": checkpoint, "preferences": preferences}
    job = Finetuning("reward", inputs, options.reward.algorithm, options.reward, options, out)
    job.require("pairs")
    examples = job.pairs()
    job.run(examples, {"reference": lambda: job.cached_reference(examples), "score_head": lambda: None})


@stage(output="checkpoint", every_rank=True)
def prefer(
    checkpoint: Checkpoint,
    preferences: Preferences,
    reward: Checkpoint | None = None,
    *,
    options: PreferOptions,
    out: StageOutput,
) -> None:
    """Train `checkpoint` (the sft model, also the reference) on the pairs, the labels or the prompts of `preferences`.
    `reward` is a checkpoint whose score head joins the rewards."""
    section = options.prefer
    inputs = {"checkpoint": checkpoint, "preferences": preferences} | ({"reward": reward} if reward else {})
    job = Finetuning("prefer", inputs, options.algorithm, section, options, out)
    data = job.require("pairs", "labels", "prompts")
    makers: dict[Need, Callable[[], Any]] = {
        "reference": lambda: LazyScorer(job.frozen),
        "value": lambda: job.scorer(job.model),
    }
    examples: Sequence[Any]
    if data == "pairs":
        examples = job.pairs()
        makers["reference"] = lambda: job.cached_reference(examples)
    elif data == "labels":
        rows = list(read_rows(preferences.file("labels.jsonl")))
        examples = _each(rows, lambda row, where: _label(job.tokenizer, row, where))
    else:
        tasks = [Task.from_json(row) for row in read_rows(preferences.file("prompts.jsonl"))]
        examples = [PromptExample(prompt_ids(job.tokenizer, task_messages(t)), i) for i, t in enumerate(tasks)]
        combined = build_reward(options.rewards, reward)
        makers["rollouts"] = lambda: RolloutSampler(
            open_generate(job.model),
            stop_ids(job.tokenizer),
            max_tokens=section.max_tokens,
            temperature=section.temperature,
            top_p=section.top_p,
            draw_seed=lambda: draw_seed(job.parallel.context),
        )
        table = [task.to_json() for task in tasks]
        makers["reward"] = lambda: TextRewarder(combined, job.tokenizer, table, job.watch)
    job.run(examples, makers)


@dataclass
class Finetuning:
    """One training stage: what it starts from, and how it runs and saves."""

    stage: str
    inputs: Mapping[str, Artifact]
    slot: Slot
    section: SFTSection | PreferSection | RewardSection
    options: TrainingOptions
    out: StageOutput

    @cached_property
    def spec(self) -> AlgorithmSpec:
        spec = discover().spec("algorithms", self.slot.name)
        assert isinstance(spec, AlgorithmSpec)
        return spec

    @cached_property
    def algorithm(self) -> Algorithm:
        algorithm: Algorithm = discover().build("algorithms", self.slot.name, self.slot.options)
        return algorithm

    @cached_property
    def tokenizer(self) -> Tokenizer:
        return Tokenizer.load(self.inputs["checkpoint"].path)

    @cached_property
    def model(self) -> Transformer:
        model = load_model(self.inputs["checkpoint"].path, device=self.parallel.context.device)
        if self.section.lora is not None:
            add_lora(model, self.section.lora, self.options.seed)
        if "value" in self.spec.needs:
            add_head(model, "value_head")
        if "score_head" in self.spec.needs:
            add_head(model, "score_head")
        self.parallel.apply(model)
        return model

    @cached_property
    def watch(self) -> RolloutWatch:
        return RolloutWatch()

    @property
    def sampling_temperature(self) -> float:
        """At which answers are drawn, in a stage that draws some."""
        return self.section.temperature if isinstance(self.section, PreferSection) else 1.0

    @cached_property
    def config(self) -> ModelConfig:
        return read_config(self.inputs["checkpoint"].path)

    @cached_property
    def parallel(self) -> Parallel:
        return start(self.options.parallelism, self.config, device_of(self.options.device), discover())

    def require(self, *kinds: str) -> str:
        """The kind of data that the algorithm eats. Raises ConfigError when this stage has no such data."""
        if self.spec.data not in kinds:
            raise ConfigError(
                Problem(
                    "L3-FIN-001",
                    f"stage {self.stage}",
                    f"the algorithm {self.slot.name!r} trains on {self.spec.data}",
                    f"this stage has {' or '.join(kinds)}",
                    "choose another algorithm",
                )
            )
        return self.spec.data

    def pairs(self) -> list[PairExample]:
        """The pairs of the input `preferences`. Raises DataError with the problems of all bad rows."""
        rows = list(read_rows(self.inputs["preferences"].file("preferences.jsonl")))
        return _each(rows, lambda row, where: _pair(self.tokenizer, row, where))

    def run(self, examples: Sequence[Any], makers: Mapping[Need, Callable[[], Any]]) -> None:
        """Train and write the checkpoint."""
        self._refuse_long(examples)
        section, seed, context = self.section, self.options.seed, self.parallel.context
        dataset = Epochs(examples, batch=section.batch, epochs=section.epochs, seed=seed)
        services = build_services(
            self.slot.name,
            self.spec.needs,
            makers,
            policy=self.scorer(self.model),
            stats=GlobalStats(context),
            tokenizer=self.tokenizer,
        )
        with reporting(self.stage, self.options.logging, self.out, dataset.steps, context) as reporter:
            progress = train(
                self.model,
                self.algorithm,
                dataset,
                options=section,
                schedule=Schedule(section.lr, section.final_lr, section.warmup, dataset.steps),
                seed=seed,
                parallel=self.parallel,
                needs=self.spec.needs,
                services=services,
                store=CheckpointStore(self.out.scratch / "checkpoints"),
                identity={"stage": self.stage, **{role: artifact.hash for role, artifact in self.inputs.items()}},
                sampling_temperature=self.sampling_temperature,
                watch=self.watch,
                reporter=reporter,
            )
        whole = whole_model(self.model, self.config, context, section.lora)
        if whole is not None:
            whole.value_head = None  # it belongs to the training: what others load is the policy
            facts = {"stage": self.stage, "algorithm": self.slot.model_dump(), "examples": len(examples)}
            self._save_adapter(whole)
            save_checkpoint(self.out.path, whole, self.tokenizer, facts)
        self.out.metrics |= {"examples": len(examples), "steps": progress.step, **progress.metrics}

    def _save_adapter(self, model: Transformer) -> None:
        """Keep the adapters beside the checkpoint, and merge them: every checkpoint is a whole model."""
        if self.section.lora is None:
            return
        save_adapter(model, self.section.lora, self.out.path / ADAPTER, base_hash(model))
        errors = merge(model)
        self.out.metrics["lora"] = {
            "max_abs_error": max(error.max_abs for error in errors),
            "change": sum(error.change for error in errors) / len(errors),
        }

    def scorer(self, model: Transformer) -> ModelScorer:
        """Log-probs and values as the loop computes them: same precision, temperature and microbatches."""
        section = self.section
        return ModelScorer(
            model,
            microbatch_tokens=section.microbatch_tokens,
            precision=section.precision,
            temperature=self.algorithm.plan.scored_at(self.sampling_temperature),
        )

    def frozen(self) -> Scorer:
        """The checkpoint that training starts from, as it stays: with adapters it is the policy without them."""
        if self.section.lora is not None:
            return BaseScorer(self.scorer(self.model), self.model)
        folder = self.inputs["checkpoint"].path
        return self.scorer(load_model(folder, device=self.parallel.context.device).requires_grad_(False))

    def cached_reference(self, examples: Sequence[PairExample]) -> Scorer:
        """Reference log-probs of all pairs, computed before training and kept across kills."""
        context = self.parallel.context
        temperature = self.algorithm.plan.scored_at(self.sampling_temperature)
        identity = f"{self.inputs['checkpoint'].hash}/{self.section.precision}/{temperature}/{context.device.type}"
        reference = CachedReference(self.out.scratch / "reference.safetensors", identity, self.frozen)
        with self.out.progress("reference log-probs", len(examples)) as task:
            for chunk in chunks(examples, 64):
                reference.logps(self.algorithm.collate(chunk).to(context.device))
                task.advance(len(chunk))
        if context.is_main:
            reference.save()
        return reference

    def _refuse_long(self, examples: Sequence[Any]) -> None:
        limit = self.config.max_seq_len
        long = [index for index, example in enumerate(examples) if example.num_tokens > limit]
        if long:
            raise DataError(
                Problem(
                    "L3-FIN-002",
                    f"example {long[0]}",
                    f"{len(long)} of {len(examples)} examples have over {limit} tokens",
                    "the model was not made for longer contexts",
                    "shorten them or raise model.max_seq_len",
                )
            )


def add_head(model: Transformer, name: Literal["value_head", "score_head"]) -> None:
    """Give the model a scalar head that it lacks. It starts at zero: what it says is 0 until it has learnt."""
    if getattr(model, name) is None:
        weight = torch.zeros(1, model.config.dim, device=model.embed.weight.device, dtype=model.embed.weight.dtype)
        head = nn.Linear(model.config.dim, 1, bias=False, device="meta")
        head.weight = nn.Parameter(weight)
        setattr(model, name, head)


def _pair(tokenizer: Tokenizer, row: Mapping[str, Any], where: str) -> PairExample:
    return pair_example(tokenizer, row["messages"], row["chosen"], row["rejected"], where, edited=row.get("edited"))


def _label(tokenizer: Tokenizer, row: Mapping[str, Any], where: str) -> LabelExample:
    return label_example(tokenizer, row["messages"], row["completion"], row["label"], where)


def _each(rows: Sequence[Mapping[str, Any]], make: Callable[[Mapping[str, Any], str], Any]) -> list[Any]:
    """Make an example of every row. Raises DataError with the problems of all bad rows."""
    examples, problems = [], []
    for number, row in enumerate(rows, 1):
        where = f"row {number} ({row.get('id', 'no id')})"
        try:
            examples.append(make(row, where))
        except DataError as error:
            problems += error.problems
        except KeyError as error:
            problems.append(Problem("L3-DLG-007", where, f"the field {error} is missing"))
    if problems:
        raise DataError(problems)
    return examples
