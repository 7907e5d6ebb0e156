"""The stage `pretrain`: next-token prediction over token shards, in phases (paper 3.4)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Self, overload

from pydantic import BaseModel, ConfigDict, Field

from llama3.artifacts import Shards, StageOutput, TokenizerArtifact, stage
from llama3.config.phases import Phase, phases_of, rows_of
from llama3.config.schema import (
    Config,
    ModelSection,
    ParallelismSection,
    PretrainSection,
    ReliabilitySection,
    Slot,
)
from llama3.data.loader import RowPhase, TokenLoader
from llama3.data.plan import TokenPlan
from llama3.errors import ConfigError, DataError
from llama3.model.batch import Batch
from llama3.model.config import ModelConfig
from llama3.model.device import device_of
from llama3.plugins.registry import discover
from llama3.plugins.specs import AlgorithmSpec
from llama3.tokenizer import Tokenizer
from llama3.training.algorithm import Algorithm
from llama3.training.averaging import snapshot_steps
from llama3.training.checkpoint import CheckpointStore
from llama3.training.loop import train
from llama3.training.parallel import start
from llama3.training.placed import PlacedModel
from llama3.training.reliability import Reliability
from llama3.training.schedule import Schedule
from llama3.training.stage import reporting, save_checkpoint

OTHER_TOKENIZER = DataError.declare(
    "L3-TRN-020",
    "the shards were made with the tokenizer {theirs}, not with {ours}",
    fix="make the shards anew with this tokenizer",
)
LONG_ROWS = ConfigError.declare(
    "L3-TRN-021",
    "rows of {tokens} tokens for a model made for {limit}",
    fix="set pretrain.seq_len to {limit} or less, or raise model.max_seq_len",
)


class PretrainOptions(BaseModel):
    """What the stage needs of the config.

    How many processes share the work, how they are watched and where it is logged change nothing of what is made (but
    rounding), so they are left out of its identity: a run may go on with another number of processes.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: ModelSection
    pretrain: PretrainSection
    parallelism: ParallelismSection = Field(ParallelismSection(), exclude=True)
    reliability: ReliabilitySection = Field(ReliabilitySection(), exclude=True)
    seed: int
    device: str = "cpu"
    logging: tuple[Slot, ...] = Field(default=(), exclude=True)

    @classmethod
    def of(cls, config: Config) -> Self:
        """From the whole config."""
        return cls(
            model=config.model,
            pretrain=config.pretrain,
            parallelism=config.parallelism,
            reliability=config.reliability,
            seed=config.run.seed,
            device=str(device_of(config.run.device)),
            logging=tuple(config.logging),
        )


@stage(output="checkpoint", every_rank=True)
def pretrain(shards: Shards, tokenizer: TokenizerArtifact, *, options: PretrainOptions, out: StageOutput) -> None:
    """Train a new model on the shards and write it with the tokenizer as a checkpoint.

    Raises DataError (L3-TRN-020) where the shards were made with another tokenizer, ConfigError (L3-TRN-021) for
    rows longer than the model's context, and what `llama3.training.loop.train` raises.
    """
    section = options.pretrain
    vocabulary = Tokenizer.load(tokenizer.path)
    plan, phases = TokenPlan.load(shards.path), phases_of(section)
    config = ModelConfig.from_section(options.model, vocabulary.vocab_size)
    check(plan, vocabulary, config, phases)
    registry = discover()
    spec = registry.spec("algorithms", section.algorithm.name)
    assert isinstance(spec, AlgorithmSpec)
    algorithm: Algorithm = registry.build("algorithms", section.algorithm.name, section.algorithm.options)
    parallel = start(options.parallelism, config, device_of(options.device), registry)
    model = PlacedModel.drawn(config, options.seed, parallel)
    schedule, last = Schedule.of(section), phases[-1]
    with reporting("pretrain", options.logging, out, schedule.total, model.context) as reporter:
        progress = train(
            model,
            algorithm,
            TokenDataset(plan, phases, options.seed),
            options=section,
            schedule=schedule,
            seed=options.seed,
            collate=algorithm.collate or registry.build("data_kinds", spec.data).collate,
            want=spec.want,
            want_logged=spec.want_logged,
            store=CheckpointStore(out.scratch / "checkpoints"),
            identity={"plan": plan.hash, "tokenizer": vocabulary.hash, "options": options.model_dump(mode="json")},
            snapshots=snapshot_steps(last.first_step, last.steps, last.given.average_last),
            reporter=reporter,
            reliability=Reliability.of(options.reliability, out, model.context),
        )
    facts = {"stage": "pretrain", "steps": progress.step, "tokens": progress.tokens, "plan": plan.hash}
    save_checkpoint(out.path, model, vocabulary, facts)
    out.metrics |= {
        "parameters": config.num_params(),
        "precision": section.precision,
        "steps": progress.step,
        **progress.metrics,
    }


def check(plan: TokenPlan, tokenizer: Tokenizer, config: ModelConfig, phases: Sequence[Phase]) -> None:
    """Refuse shards of another tokenizer and rows that the model is not made for."""
    if plan.tokenizer != tokenizer.hash:
        raise OTHER_TOKENIZER("shards", theirs=plan.tokenizer[:12], ours=tokenizer.hash[:12])
    longest = max(phase.seq_len for phase in phases)
    if longest > config.max_seq_len:
        raise LONG_ROWS("pretrain.seq_len", tokens=longest, limit=config.max_seq_len)


class TokenDataset:
    """The rows of every step, read when a rank has taken its share."""

    def __init__(self, plan: TokenPlan, phases: Sequence[Phase], seed: int) -> None:
        self._phases = phases
        rows = [RowPhase(phase.first_row, phase.seq_len, phase.given.mix) for phase in phases]
        self._loader = TokenLoader(plan, phases=rows, seed=seed)

    def examples(self, step: int) -> Rows:
        return Rows(self._loader, rows_of(self._phases, step))

    def documents(self, step: int) -> list[str]:
        """The documents that a step reads, by the first half of their ids in the corpus (which begin with it)."""
        rows = rows_of(self._phases, step)
        read = self._loader.rows(rows.start, len(rows), rows.step)
        return list(dict.fromkeys(f"{number:016x}" for number in read.doc_ids.tolist()))


class Rows(Sequence[Batch]):
    """Rows of a loader, each a packed batch whose documents are roots. Slices are lazy: a rank reads only its own."""

    def __init__(self, loader: TokenLoader, rows: range) -> None:
        self._loader, self._rows = loader, rows

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> Batch: ...
    @overload
    def __getitem__(self, index: slice) -> Rows: ...
    def __getitem__(self, index: int | slice) -> Batch | Rows:
        if isinstance(index, slice):
            return Rows(self._loader, self._rows[index])
        row = self._rows[index]
        return next(iter(Rows(self._loader, range(row, row + 1))))

    def __iter__(self) -> Iterator[Batch]:
        """All rows in one read."""
        read = self._loader.rows(self._rows.start, len(self._rows), self._rows.step)
        for tokens_T, bounds in zip(read.tokens, read.cu_seqlens, strict=True):
            yield Batch.of_documents(tokens_T, bounds[:-1])
