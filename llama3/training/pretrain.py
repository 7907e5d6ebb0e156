"""The stage `pretrain`: next-token prediction over token shards, in phases (paper 3.4)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Self, overload

from pydantic import BaseModel, ConfigDict, Field

from llama3.artifacts import Artifact, Checkpoint, Shards, StageOutput, stage
from llama3.checkpoints.load import read_config
from llama3.config.phases import Phase, parts_of, phases_of, rows_of
from llama3.config.schema import (
    Config,
    ModelSection,
    ParallelismSection,
    PhaseSection,
    PretrainSection,
    ReliabilitySection,
)
from llama3.config.slot_types import Slot
from llama3.data.loader import RowPhase, TokenLoader, TokenRows
from llama3.data.plan import TokenPlan
from llama3.errors import ConfigError, DataError
from llama3.model.batch import Batch
from llama3.model.config import ModelConfig, RopeScaling
from llama3.model.device import device_of
from llama3.plugins.registry import discover
from llama3.plugins.specs import AlgorithmSpec
from llama3.tasks.data_kind import data_kind
from llama3.tokenizer import Tokenizer
from llama3.training.asked_algorithm import build_algorithm
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


class PartOptions(BaseModel):
    """Which of the phases a model that is there already is trained on, and how the shards are read.

    The phases from `reads` on read one stream of rows, those from `trains` on are trained now. Rows of `window` tokens
    fill a window of the stream, so that what is read now does not depend on the phases that are yet to come.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    reads: int
    trains: int
    window: int


WHOLE = PartOptions(reads=0, trains=0, window=1)
READS = "reads"
"""The event that says what a stage's steps read: its options and the hash of its plan."""


class PretrainOptions(BaseModel):
    """What the stage needs of the config. Without a `part` it is the pretraining of a new model.

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
    part: PartOptions | None = None

    @classmethod
    def of(cls, config: Config) -> Self:
        """From the whole config: the phases before any long-context stage."""
        first = parts_of(config.pretrain)[0]
        written = {phase.number: phase.given for phase in first}  # those before a stage are as they are written
        return cls._of(config, list(written.values()))

    @classmethod
    def of_part(cls, config: Config, phases: Sequence[PhaseSection], part: PartOptions) -> Self:
        """From the whole config: a part of `phases`, which stand in the place of its own."""
        return cls._of(config, phases, part)

    @classmethod
    def _of(cls, config: Config, phases: Sequence[PhaseSection], part: PartOptions | None = None) -> Self:
        return cls(
            model=config.model,
            # What a gate asks for changes nothing of what is trained before it.
            pretrain=config.pretrain.model_copy(update={"phases": list(phases), "gate": None}),
            part=part,
            parallelism=config.parallelism,
            reliability=config.reliability,
            seed=config.run.seed,
            device=str(device_of(config.run.device)),
            logging=tuple(config.logging),
        )


@stage(output="checkpoint", every_rank=True)
def pretrain(
    shards: Shards,
    tokenizer: Artifact,
    checkpoint: Checkpoint | None = None,
    *,
    options: PretrainOptions,
    out: StageOutput,
) -> None:
    """Train a new model on the shards, or `checkpoint` on all or a part of the phases, and write it with the tokenizer
    as a checkpoint. `tokenizer` is any artifact that has one.

    Raises DataError (L3-TRN-020) where the shards were made with another tokenizer, ConfigError (L3-TRN-021) for
    rows longer than the model's context, and what `llama3.training.loop.train` raises.
    """
    section, part = options.pretrain, options.part or WHOLE
    vocabulary, plan = Tokenizer.load(tokenizer.path), TokenPlan.load(shards.path)
    phases = stream_of(options)[part.trains - part.reads :]
    config = _config(options, vocabulary, checkpoint)
    check(plan, vocabulary, config, phases)
    registry = discover()
    spec = registry.spec("algorithms", section.algorithm.name)
    assert isinstance(spec, AlgorithmSpec)
    algorithm = build_algorithm(section.algorithm)
    parallel = start(options.parallelism, config, device_of(options.device), registry)
    store = CheckpointStore(out.scratch / "checkpoints")
    if checkpoint is not None:
        model = PlacedModel.loaded(checkpoint.path, parallel, config=config)
    elif parallel.context.gather(store.steps(), "world")[0]:
        model = PlacedModel.undrawn(config, parallel)  # the loop goes on from one of them, or refuses to go on
    else:
        model = PlacedModel.drawn(config, options.seed, parallel)
    schedule = Schedule.of(section).since(phases_of(section)[part.trains].first_step)
    first, last = phases[0].first_step, phases[-1]
    dataset = dataset_of(options, plan)
    if model.context.is_main:
        for name in dataset.loader.left_out:
            out.display.warn(f"source {name} has fewer tokens than a row: it is not read")
        out.event(READS, artifact=out.scratch.name, plan=plan.hash, options=options.model_dump(mode="json"))
    with reporting("pretrain", options.logging, out, schedule.total, model.context) as reporter:
        progress = train(
            model,
            algorithm,
            dataset,
            options=section,
            schedule=schedule,
            seed=options.seed,
            collate=algorithm.collate or data_kind(spec.data).collate,
            want=spec.want,
            want_logged=spec.want_logged,
            store=store,
            identity={"plan": plan.hash, "tokenizer": vocabulary.hash, "options": options.model_dump(mode="json")},
            snapshots=snapshot_steps(last.first_step - first, last.steps, last.given.average_last),
            reporter=reporter,
            reliability=Reliability.of(options.reliability, out, model.context),
        )
    facts = {"stage": "pretrain", "steps": progress.step, "tokens": progress.tokens, "plan": plan.hash}
    save_checkpoint(out.path, model, vocabulary, facts, base=None if checkpoint is None else checkpoint.path)
    out.metrics |= {
        "parameters": config.num_params(),
        "precision": section.precision,
        "steps": progress.step,
        **({"left_out": [data + 1 for data in progress.left_out]} if progress.left_out else {}),
        **({} if checkpoint is None else {"context": config.max_seq_len}),
        **progress.metrics,
    }


def _config(options: PretrainOptions, vocabulary: Tokenizer, checkpoint: Artifact | None) -> ModelConfig:
    """Of a new model, or of the checkpoint; of a part, with the context and the rotary frequencies of its first
    phase."""
    if checkpoint is None:
        return ModelConfig.from_section(options.model, vocabulary.vocab_size)
    if options.part is None:
        return read_config(checkpoint.path)
    phase, config = phases_of(options.pretrain)[options.part.trains], read_config(checkpoint.path)
    given = phase.given
    rope: dict[str, Any] = {}
    if given.rope_theta is not None or given.rope_scaling is not None:
        scaling = given.rope_scaling
        rope = {"rope_scaling": None if scaling is None else RopeScaling(**scaling.model_dump())}
    if given.rope_theta is not None:
        rope |= {"rope_theta": given.rope_theta}
    return replace(config, max_seq_len=max(config.max_seq_len, phase.seq_len), **rope)


def stream_of(options: PretrainOptions) -> list[Phase]:
    """The phases of one stream of rows, those before the trained ones among them."""
    section, part = options.pretrain, options.part or WHOLE
    return phases_of(section.model_copy(update={"phases": section.phases[part.reads :]}))


def dataset_of(options: PretrainOptions, plan: TokenPlan) -> TokenDataset:
    """What the steps of the stage read."""
    stream, part = stream_of(options), options.part or WHOLE
    first = stream[part.trains - part.reads].first_step
    return TokenDataset(plan, stream, options.seed, first_step=first, window=part.window)


def check(plan: TokenPlan, tokenizer: Tokenizer, config: ModelConfig, phases: Sequence[Phase]) -> None:
    """Refuse shards of another tokenizer and rows that the model is not made for."""
    if plan.tokenizer != tokenizer.hash:
        raise OTHER_TOKENIZER("shards", theirs=plan.tokenizer[:12], ours=tokenizer.hash[:12])
    longest = max(phase.seq_len for phase in phases)
    if longest > config.max_seq_len:
        raise LONG_ROWS("pretrain.seq_len", tokens=longest, limit=config.max_seq_len)


class TokenDataset:
    """The rows of every step, read when a rank has taken its share."""

    def __init__(
        self, plan: TokenPlan, phases: Sequence[Phase], seed: int, *, first_step: int = 0, window: int = 1
    ) -> None:
        """The rows of `phases` from `first_step` on, which is step 0 of what is trained."""
        self._phases, self._first_step = phases, first_step
        rows = [RowPhase(phase.first_row, phase.seq_len, phase.given.mix) for phase in phases]
        if window > 1:  # whatever comes next, the last phase ends where it does
            last = phases[-1]
            rows.append(RowPhase(last.first_row + last.steps * last.batch, last.seq_len, last.given.mix))
        self.loader = TokenLoader(plan, phases=rows, seed=seed, window=window)

    def rows(self, step: int) -> range:
        """The rows that a step reads."""
        return rows_of(self._phases, self._first_step + step)

    def examples(self, step: int) -> Rows:
        return Rows(self.loader, self.rows(step))

    def read(self, step: int) -> TokenRows:
        """All that a step reads."""
        rows = self.rows(step)
        return self.loader.rows(rows.start, len(rows), rows.step)

    def documents(self, step: int) -> list[str]:
        """The documents that a step reads, by the first half of their ids in the corpus (which begin with it)."""
        return list(dict.fromkeys(f"{number:016x}" for number in self.read(step).doc_ids.tolist()))


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
