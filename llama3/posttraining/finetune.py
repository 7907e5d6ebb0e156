"""The stages `sft`, `reward` and `prefer`: train a checkpoint with the algorithm that the config names.

    sft:     base checkpoint + dialogs      -> checkpoint     (paper 4.1.3)
    reward:  checkpoint + preferences       -> checkpoint     (paper 4.1.2), with a score head
    prefer:  sft checkpoint + preferences   -> checkpoint     (paper 4.1.4)

The algorithm's spec says which kind of data it eats and which services it needs; the kind says which file holds it and
what its examples are. So another algorithm, or another kind of data, is a change of config.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from llama3.artifacts import Artifact, Checkpoint, Dialogs, Preferences, StageOutput, stage
from llama3.checkpoints.adapter import ADAPTER, save_adapter
from llama3.checkpoints.load import read_config
from llama3.config.rollouts import OwnAnswersSection, RolloutsSection
from llama3.config.schema import (
    Config,
    ParallelismSection,
    PreferSection,
    ReliabilitySection,
    RewardSection,
    SFTSection,
)
from llama3.config.slot_types import AlgorithmSlot, RewardSlot, Slot
from llama3.errors import ConfigError, DataError
from llama3.inference.sampling import Sampling
from llama3.model.config import ModelConfig
from llama3.model.device import device_of
from llama3.plugins.registry import discover
from llama3.plugins.specs import AlgorithmSpec, Need
from llama3.posttraining.cached_scorer import CachedScorer
from llama3.posttraining.datasets import Epochs
from llama3.posttraining.replay import with_replay
from llama3.posttraining.sampling import build_reward, tell_silent
from llama3.posttraining.services import (
    LazyScorer,
    TextRewarder,
    build_services,
    chunks,
)
from llama3.tasks.data_kind import DataKind, Example, Row, data_kind, data_kind_spec
from llama3.tasks.rewards import CombinedReward
from llama3.tasks.rows import read_rows
from llama3.tokenizer import Tokenizer, stop_ids
from llama3.training.algorithm import Algorithm, Collate, Scorer
from llama3.training.asked_algorithm import build_algorithm
from llama3.training.checkpoint import CheckpointStore
from llama3.training.elsewhere import generator
from llama3.training.loop import train
from llama3.training.parallel import GlobalStats, Parallel, start
from llama3.training.placed import ModelScorer, PlacedModel
from llama3.training.reliability import Reliability
from llama3.training.rollouts import Rollouts
from llama3.training.schedule import Schedule
from llama3.training.stage import reporting, save_checkpoint

OTHER_DATA = ConfigError.declare(
    "L3-FIN-001",
    "the algorithm {algorithm!r} trains on {data}",
    why="the {made} of this run have no {file}",
    fix="choose another algorithm",
)
LONG_EXAMPLES = DataError.declare(
    "L3-FIN-002",
    "{long} of {count} examples have over {limit} tokens",
    why="the model was not made for longer contexts",
    fix="shorten them or raise model.max_seq_len",
)
NO_ROOM = DataError.declare(
    "L3-FIN-004",
    "none of {count} prompts leaves room for {longest} tokens of answer",
    why="the model was made for {limit} tokens",
    fix="lower its max_tokens, or shorten the prompts",
)
OTHER_TEACHER = ConfigError.declare(
    "L3-FIN-003",
    "the teacher has another tokenizer than the model that learns",
    why="{algorithm!r} compares distributions token by token, and the teacher's are over other tokens",
    fix="choose a teacher of the same family, or learn its answers as text: let it answer in a run of its own, name "
    "that run's dialogs.jsonl under post_training.data and leave algorithm and teacher out",
)


class TrainingOptions(BaseModel):
    """What both stages need of the config. How many processes share the work, which of them draw answers and where it
    is logged do not change what they make (but rounding)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    parallelism: ParallelismSection = Field(ParallelismSection(), exclude=True)
    reliability: ReliabilitySection = Field(ReliabilitySection(), exclude=True)
    seed: int
    device: str = "cpu"
    rollouts: RolloutsSection = Field(RolloutsSection(), exclude=True)
    logging: tuple[Slot, ...] = Field(default=(), exclude=True)

    @staticmethod
    def common(config: Config, member: int = 0) -> dict[str, Any]:
        """The fields of this class, from the whole config. Each member sees the data in an order of its own."""
        return {
            "parallelism": config.parallelism,
            "reliability": config.reliability,
            "seed": config.run.seed + MEMBER_SEEDS * member,
            "device": str(device_of(config.run.device)),
            "rollouts": config.post_training.rollouts,
            "logging": tuple(config.logging),
        }


class SFTOptions(TrainingOptions):
    """Options of `sft`; the algorithm stands in the section."""

    sft: SFTSection

    @classmethod
    def of(cls, config: Config, member: int = 0) -> Self:
        """From the whole config; `member` counts the models that are averaged."""
        return cls(sft=_of_one(config.post_training.sft), **cls.common(config, member))


class PreferOptions(TrainingOptions):
    """Options of `prefer`; the rewards are for algorithms that sample."""

    prefer: PreferSection
    algorithm: AlgorithmSlot
    rewards: tuple[RewardSlot, ...]

    @classmethod
    def of(cls, config: Config, member: int = 0) -> Self:
        """From the whole config; `member` counts the models that are averaged."""
        post = config.post_training
        prefer = _of_one(post.prefer)
        return cls(prefer=prefer, algorithm=post.algorithm, rewards=tuple(post.rewards), **cls.common(config, member))


class RewardOptions(TrainingOptions):
    """Options of `reward`; the algorithm stands in the section."""

    reward: RewardSection

    @classmethod
    def of(cls, config: Config, member: int = 0) -> Self:
        """From the whole config, whose `post_training.reward` is given; `member` as for the others."""
        section = config.post_training.reward or RewardSection()
        return cls(reward=section.model_copy(update={"members": 1, "updates": 0}), **cls.common(config, member))


MEMBER_SEEDS = 1_000_003
"""Between the seeds of models that are averaged, so that no run of another seed has them too."""
S = TypeVar("S", SFTSection, PreferSection)


def _of_one(section: S) -> S:
    """Of one run: the teacher is an input of the stage, what it is counts and not where it came from; and how many
    others are averaged with it changes nothing of it."""
    return section.model_copy(update={"teacher": None, "members": 1})


@stage(output="checkpoint", every_rank=True)
def sft(
    checkpoint: Checkpoint,
    dialogs: Dialogs,
    teacher: Checkpoint | None = None,
    *,
    options: SFTOptions,
    out: StageOutput,
) -> None:
    """Finetune `checkpoint` (the base model) on `dialogs`; `teacher` is for algorithms that need one. Raises DataError
    for bad or missing dialogs, all at once."""
    inputs = {"checkpoint": checkpoint, "dialogs": dialogs} | ({"teacher": teacher} if teacher else {})
    job = Finetuning("sft", inputs, dialogs, options.sft.algorithm, options.sft, options, out)
    job.run({"teacher": job.teacher, "rollouts": lambda: job.rollouts(None)})


@stage(output="checkpoint", every_rank=True)
def reward(checkpoint: Checkpoint, preferences: Preferences, *, options: RewardOptions, out: StageOutput) -> None:
    """Train a reward model, from `checkpoint`, on the pairs or rankings of `preferences`. One that scores already goes
    on."""
    inputs = {"checkpoint": checkpoint, "preferences": preferences}
    job = Finetuning("reward", inputs, preferences, options.reward.algorithm, options.reward, options, out)
    job.run({"reference": job.reference, "score_head": lambda: None})


@stage(output="checkpoint", every_rank=True)
def prefer(
    checkpoint: Checkpoint,
    preferences: Preferences,
    reward: Checkpoint | None = None,
    teacher: Checkpoint | None = None,
    *,
    options: PreferOptions,
    out: StageOutput,
) -> None:
    """Train `checkpoint` (the sft model, also the reference) on the pairs, the labels or the prompts of `preferences`.
    `reward` is a checkpoint whose score head joins the rewards; `teacher` is for algorithms that need one."""
    given = {"checkpoint": checkpoint, "preferences": preferences, "reward": reward, "teacher": teacher}
    inputs = {role: artifact for role, artifact in given.items() if artifact is not None}
    job = Finetuning("prefer", inputs, preferences, options.algorithm, options.prefer, options, out)

    def rollouts() -> Rollouts:
        judge = build_reward(options.rewards, reward, options.device) if "reward" in job.spec.needs else None
        return job.rollouts(judge)

    job.run(
        {
            "reference": job.reference,
            "value": lambda: job.scorer(job.model),
            "teacher": job.teacher,
            "rollouts": rollouts,
            "reward": lambda: None,
        }
    )


@dataclass
class Finetuning:
    """One training stage: what it starts from, and how it runs and saves."""

    stage: str
    inputs: Mapping[str, Artifact]
    data: Artifact
    """The input that is learnt from."""
    slot: Slot
    section: SFTSection | PreferSection | RewardSection
    options: TrainingOptions
    out: StageOutput
    closing: ExitStack = field(default_factory=ExitStack)
    """Ends the workers that draw answers."""
    judge: CombinedReward | None = None
    """Scores the answers that are drawn."""

    @cached_property
    def spec(self) -> AlgorithmSpec:
        spec = discover().spec("algorithms", self.slot.name)
        assert isinstance(spec, AlgorithmSpec)
        return spec

    @cached_property
    def algorithm(self) -> Algorithm:
        return build_algorithm(self.slot)

    @cached_property
    def kind(self) -> DataKind[Any]:
        """What the algorithm learns from."""
        return data_kind(self.spec.data)

    @cached_property
    def rows(self) -> list[Row]:
        """What is learnt from, as it is stored. Raises ConfigError where this stage has no such data."""
        file = data_kind_spec(self.spec.data).file
        if not (self.data.path / file).exists():
            raise OTHER_DATA(
                f"stage {self.stage}", algorithm=self.slot.name, data=self.spec.data, made=self.data.type, file=file
            )
        return list(read_rows(self.data.file(file)))

    @cached_property
    def examples(self) -> Sequence[Example]:
        """The rows as examples, with text among them where it is replayed. Raises DataError with the problems of all
        bad rows, ConfigError where the text is not known."""
        examples, section = self.kind.examples(self.tokenizer, self.rows), self.section
        if not (isinstance(section, SFTSection) and section.replay):
            return examples
        model, context = self.inputs["checkpoint"].path, self.config.max_seq_len
        return with_replay(examples, section.replay, model, context, self.options.seed)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        return Tokenizer.load(self.inputs["checkpoint"].path)

    @cached_property
    def model(self) -> PlacedModel:
        heads = {"value": "value_head", "score_head": "score_head"}
        return PlacedModel.loaded(
            self.inputs["checkpoint"].path,
            self.parallel,
            heads=[head for need, head in heads.items() if need in self.spec.needs],
            lora=self.section.lora,
            seed=self.options.seed,
        )

    @property
    def drawing(self) -> PreferSection | OwnAnswersSection | None:
        """How answers are drawn; None where the algorithm has none drawn."""
        return drawing_of(self.section, self.spec, self.algorithm)

    @property
    def temperature(self) -> float:
        """At which models are scored: that of the answers, where the algorithm has some drawn."""
        return self.drawing.temperature if self.drawing is not None else 1.0

    @property
    def collate(self) -> Collate:
        """The algorithm's way to pack examples, or that of its kind of data."""
        return self.algorithm.collate or self.kind.collate

    @cached_property
    def config(self) -> ModelConfig:
        return read_config(self.inputs["checkpoint"].path)

    @cached_property
    def parallel(self) -> Parallel:
        return start(self.options.parallelism, self.config, device_of(self.options.device), discover())

    def rollouts(self, judge: CombinedReward | None) -> Rollouts:
        """Draws answers to the prompts from the model as it is trained; `judge`, where the algorithm needs rewards,
        scores them."""
        section = self.drawing
        assert section is not None, "asked for only where answers are drawn"
        sampling = Sampling(section.max_tokens, section.temperature, section.top_p, stop_ids=stop_ids(self.tokenizer))
        self.judge = judge
        rewarder = TextRewarder(judge, self.tokenizer, self.rows) if judge is not None else None
        drawing = generator(self.model, section.sampling_precision, self.options.rollouts, self.closing)
        return Rollouts(drawing, sampling, rewarder)

    def run(self, makers: Mapping[Need, Callable[[], Any]]) -> None:
        """Train and write the checkpoint."""
        with self.closing:
            self._train(makers)

    def _train(self, makers: Mapping[Need, Callable[[], Any]]) -> None:
        examples = self._with_room(self.examples)
        refuse_long(examples, self.config.max_seq_len)
        section, seed, context = self.section, self.options.seed, self.parallel.context
        dataset = Epochs(examples, batch=section.batch, epochs=section.epochs, seed=seed)
        if isinstance(section, SFTSection) and section.neftune is not None:
            self.model.module.embedding_noise = section.neftune
        services = build_services(
            self.slot.name,
            self.spec.needs if self.drawing is not None else self.spec.needs - {"rollouts"},
            makers,
            policy=self.scorer(self.model),
            stats=GlobalStats(context),
            tokenizer=self.tokenizer,
            context=self.config.max_seq_len,
        )
        with reporting(self.stage, self.options.logging, self.out, dataset.steps, context) as reporter:
            progress = train(
                self.model,
                self.algorithm,
                dataset,
                options=section,
                schedule=Schedule.cosine(section.lr, section.final_lr, section.warmup, dataset.steps),
                seed=seed,
                collate=self.collate,
                want=self.spec.want,
                want_logged=self.spec.want_logged,
                services=services,
                rollouts=services.built.get("rollouts"),
                store=CheckpointStore(self.out.scratch / "checkpoints"),
                identity={"stage": self.stage, **{role: artifact.hash for role, artifact in self.inputs.items()}},
                reporter=reporter,
                reliability=Reliability.of(self.options.reliability, self.out, context),
            )
        if self.judge is not None:
            (asked,) = context.reduce([self.judge.asked], "sum")
            tell_silent(asked, context.sum_by_name(self.judge.no_opinion), self.out)
        self._merge_adapter()
        facts = {"stage": self.stage, "algorithm": self.slot.model_dump(), "examples": len(examples)}
        # The value head belongs to the training: what others load is the policy.
        base = self.inputs["checkpoint"].path
        save_checkpoint(self.out.path, self.model, self.tokenizer, facts, base=base, without=["value_head"])
        self.out.metrics |= {
            "examples": len(examples),
            "precision": section.precision,
            "steps": progress.step,
            **progress.metrics,
        }

    def _merge_adapter(self) -> None:
        """Keep the adapters beside the checkpoint, and merge them: every checkpoint is a whole model."""
        if self.section.lora is None:
            return
        adapter, base = self.model.adapter(), self.model.base_hash()
        if self.model.context.is_main:
            save_adapter(adapter, self.section.lora, self.out.path / ADAPTER, base)
        errors = self.model.merge()
        self.out.metrics["lora"] = {
            "max_abs_error": max(error.max_abs for error in errors),
            "change": sum(error.change for error in errors) / len(errors),
        }

    def scorer(self, model: PlacedModel, *, adapters: bool = True) -> ModelScorer:
        """Log-probs and values as the loop computes them: same precision, temperature and microbatches."""
        section = self.section
        return model.scorer(
            microbatch_tokens=section.microbatch_tokens,
            precision=section.precision,
            temperature=self.temperature,
            adapters=adapters,
        )

    def frozen(self) -> Scorer:
        """The checkpoint that training starts from, as it stays: with adapters it is the policy without them."""
        if self.section.lora is not None:
            return self.scorer(self.model, adapters=False)
        return self.scorer(PlacedModel.loaded(self.inputs["checkpoint"].path, self.parallel).frozen())

    def teacher(self) -> Scorer:
        """The teacher; what it says of given answers is kept across kills. Raises ConfigError where its tokens are not
        the model's."""
        artifact = self.inputs["teacher"]
        if Tokenizer.load(artifact.path).hash != self.tokenizer.hash:
            raise OTHER_TEACHER(f"stage {self.stage}", algorithm=self.slot.name)

        def load() -> Scorer:
            return self.scorer(PlacedModel.loaded(artifact.path, self.parallel).frozen())

        return LazyScorer(load) if self.drawing is not None else self.cached("teacher", artifact, load)

    def reference(self) -> Scorer:
        """The frozen model; where the answers are given, with their log-probs computed before training and kept across
        kills."""
        if self.drawing is not None:
            return LazyScorer(self.frozen)
        examples, reference = self.examples, self.cached("reference", self.inputs["checkpoint"], self.frozen)
        with self.out.progress("reference log-probs", len(examples)) as task:
            for chunk in chunks(examples, 64):
                reference.logps(self.collate(chunk).to(self.parallel.context.device))
                task.advance(len(chunk))
        reference.close()
        return reference

    def cached(self, role: str, model: Artifact, make: Callable[[], Scorer]) -> CachedScorer:
        """A frozen model whose answers are kept in the scratch folder."""
        context = self.parallel.context
        identity = f"{model.hash}/{self.section.precision}/{self.temperature}/{context.device.type}"
        return CachedScorer(self.out.scratch / role, identity, make, context)

    def _with_room(self, examples: Sequence[Example]) -> Sequence[Example]:
        """Those that leave the context room for a longest answer, where answers are drawn; the user is told of others.
        Raises DataError where none does."""
        longest, limit = self.drawing.max_tokens if self.drawing else None, self.config.max_seq_len
        kept = fitting(examples, longest, limit, f"stage {self.stage}")
        if left := len(examples) - len(kept):
            self.out.event("prompts_without_room", prompts=left, max_tokens=longest, context=limit)
            self.out.display.note(
                f"[yellow]![/] {left:,} prompts leave no room for {longest} tokens of answer: left out"
            )
        return kept


def drawing_of(
    section: SFTSection | PreferSection | RewardSection, spec: AlgorithmSpec, algorithm: Algorithm
) -> PreferSection | OwnAnswersSection | None:
    """How a stage draws answers; None where its algorithm has none drawn."""
    if "rollouts" not in spec.needs or not algorithm.plan.own:
        return None
    if isinstance(section, SFTSection):
        return section.own_answers or OwnAnswersSection()
    return section if isinstance(section, PreferSection) else None


def fitting(examples: Sequence[Example], longest: int | None, limit: int, where: str) -> Sequence[Example]:
    """Those whose prompts leave a context of `limit` tokens room for an answer of `longest`; all where none is drawn.
    Raises DataError where none does."""
    if longest is None:
        return examples
    asked = (len(getattr(example, "prompt", range(example.num_tokens))) for example in examples)
    kept = [example for example, length in zip(examples, asked, strict=True) if length + longest <= limit]
    if not kept and examples:
        raise NO_ROOM(where, count=len(examples), longest=longest, limit=limit)
    return kept


def refuse_long(
    examples: Sequence[Example], limit: int, where: Callable[[int], str] = lambda number: f"example {number}"
) -> None:
    """Raises DataError for examples of more than `limit` tokens; `where` tells the place of one by its number."""
    long = [number for number, example in enumerate(examples) if example.num_tokens > limit]
    if long:
        raise LONG_EXAMPLES(where(long[0]), long=len(long), count=len(examples), limit=limit)
