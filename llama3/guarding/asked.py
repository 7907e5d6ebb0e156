"""What `llama3 guard train` is asked for: a YAML file that says which kind of guard, from which rows, and how."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field, ValidationError, model_validator

from llama3 import _core
from llama3.config.precision import TrainingPrecision
from llama3.config.schema import Config, LoRASection, ModelSection, OptimizerSection, RunSection
from llama3.config.section import Section
from llama3.config.slot_types import LoggerSlot, Slot
from llama3.config.yaml import Path as YamlPath
from llama3.config.yaml import parse
from llama3.errors import ConfigError, Problem
from llama3.guarding.prompt_rows import ClassifierKind
from llama3.guarding.windows import LEAST_CONTEXT
from llama3.plugins.options import problems_of

UNREADABLE = ConfigError.declare(
    "L3-GRD-020", "this file cannot be read", why="{error}", fix="give a file of YAML, and JSONL files that are there"
)
UNKNOWN_KIND = ConfigError.declare("L3-GRD-021", "the kind of guard is {kind!r}", fix="write kind: one of {kinds}")


def _listed(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


_RUN = "name, dir, seed, threads and device, as in a run"
_TRAIN = "epochs, batch, lr, precision and the rest of a training stage"
Files = Annotated[tuple[str, ...], BeforeValidator(_listed)]


def _loggers() -> list[Slot]:
    """Those of a run that names none."""
    found: list[Slot] = Config.model_fields["logging"].get_default(call_default_factory=True)
    return found


class TrainSection(OptimizerSection):
    """How often the rows are learnt, and how fast."""

    lr: float = Field(1e-3, gt=0, description="peak learning rate")
    precision: TrainingPrecision = Field("auto", description="of matrix products in training")
    epochs: int = Field(4, ge=1, description="passes over the rows")
    batch: int = Field(32, ge=1, le=1 << 24, description="texts per step")


class PromptGuardTraining(Section):
    """A small classifier of prompt attacks, or of toxic texts, trained from nothing."""

    kind: ClassifierKind = Field(description="prompt_guard or toxicity: what the rows labelled attack or toxic are")
    run: RunSection = Field(RunSection(name="prompt-guard"), exclude=True, description=_RUN)
    data: Files = Field(min_length=1, exclude=True, description="files of rows: text, label and perhaps trust")
    elsewhere: Files = Field((), exclude=True, description="files of rows that are only tested on: from elsewhere")
    held_out: float = Field(0.3, gt=0, lt=1, description="share of the rows held out: half calibrates, half tests")
    fpr: float = Field(0.01, gt=0, lt=1, description="share of harmless texts that may be blocked")
    disguised: float = Field(0.5, ge=0, le=1, description="share of the texts that are learnt in a disguise too")
    embedded: float = Field(0.3, ge=0, le=1, description="share of the texts that are learnt amid harmless ones too")
    window: int = Field(256, gt=2 * LEAST_CONTEXT, le=1 << 16, description="tokens that are read at once")
    overlap: int = Field(64, ge=LEAST_CONTEXT, description="tokens that neighbouring windows share")
    vocab_size: int = Field(4096, ge=272, le=1 << 20, description="tokens of the vocabulary")
    model: ModelSection = Field(ModelSection(preset="tiny"), description="the architecture, as in a run")
    train: TrainSection = Field(TrainSection(), description=_TRAIN)
    logging: list[LoggerSlot] = Field(default_factory=_loggers, exclude=True, description="where metrics go")

    @model_validator(mode="after")
    def _fits(self) -> PromptGuardTraining:
        if self.window < self.overlap + LEAST_CONTEXT:
            raise ValueError(f"window must exceed overlap by at least {LEAST_CONTEXT}")
        if self.model.path is not None:
            raise ValueError("a prompt guard begins with new weights: leave model.path out")
        return self


class AugmentSection(Section):
    """How rows are varied, so that the guard reads the list of categories instead of learning it by heart."""

    copies: int = Field(1, ge=0, le=64, description="variants of each row beside the row itself")
    drop: float = Field(0.3, ge=0, le=1, description="chance of each category not violated to be left out")
    drop_violated: float = Field(0.2, ge=0, le=1, description="chance that all violated ones are: then it is safe")
    shuffle: float = Field(0.5, ge=0, le=1, description="chance that the categories change places and numbers")


class TaughtSection(TrainSection):
    """As the product's own SFT stage learns."""

    lr: float = Field(1e-4, gt=0, description="peak learning rate")
    epochs: int = Field(3, ge=1, description="passes over the rows")
    lora: LoRASection | None = Field(None, description="train adapters instead of all weights: {rank: 16}")


class LlamaGuardTraining(Section):
    """A language model that learns to answer as Llama Guard does."""

    kind: Literal["llama_guard"] = Field(description="llama_guard")
    run: RunSection = Field(RunSection(name="llama-guard"), exclude=True, description=_RUN)
    data: Files = Field(min_length=1, exclude=True, description="files of rows: text or turns, role, label, categories")
    model: str = Field(exclude=True, description="the model to start from, of any layout, or a run that has one")
    taxonomy: dict[str, str] | None = Field(None, description="categories by number: {S1: Violent Crimes}")
    held_out: float = Field(0.2, gt=0, lt=1, description="share of the rows held out; with fpr half of it calibrates")
    fpr: float | None = Field(
        None, gt=0, lt=1, description="share of safe texts that may be blocked, which chooses the threshold; null: 0.5"
    )
    augment: AugmentSection = Field(AugmentSection(), description="how rows are varied")
    train: TaughtSection = Field(TaughtSection(), description=_TRAIN)
    logging: list[LoggerSlot] = Field(default_factory=_loggers, exclude=True, description="where metrics go")


GuardTraining = PromptGuardTraining | LlamaGuardTraining
KINDS: Mapping[str, type[PromptGuardTraining] | type[LlamaGuardTraining]] = {
    "prompt_guard": PromptGuardTraining,
    "toxicity": PromptGuardTraining,
    "llama_guard": LlamaGuardTraining,
}


def read_training(path: Path) -> GuardTraining:
    """What the file asks for. Raises ConfigError with everything that is wrong, each at its line; files that it names
    are there and can be read."""
    try:
        parsed = parse(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise UNREADABLE(path, error=error) from None
    data = parsed.data if isinstance(parsed.data, dict) else {}
    kind = KINDS.get(str(data.get("kind")))
    if kind is None:
        raise UNKNOWN_KIND(path, kind=data.get("kind"), kinds=sorted(KINDS))

    def place(loc: YamlPath) -> str:
        known = next((parsed.marks[loc[:n]] for n in range(len(loc), -1, -1) if loc[:n] in parsed.marks), "1:1")
        return f"{path}:{known}"

    try:
        asked = kind.model_validate(data)
    except ValidationError as error:
        raise ConfigError.of(problems_of(error, kind, place)) from None
    if problems := list(_missing(asked)):
        raise ConfigError.of(problems)
    return asked


def _missing(asked: GuardTraining) -> Sequence[Problem]:
    files = [*asked.data, *(asked.elsewhere if isinstance(asked, PromptGuardTraining) else ())]
    return [UNREADABLE.problem(file, error=_what(Path(file))) for file in files if not Path(file).is_file()]


def _what(path: Path) -> str:
    """What stands where a file should."""
    if path.is_dir():
        return "it is a folder: name the files in it"
    return "it is not a plain file" if path.exists() else "no such file"


def contents(files: Sequence[str]) -> tuple[str, ...]:
    """The hash of each file: the same rows elsewhere are the same request."""
    return tuple(_core.blake3_file(file) for file in files)


class StageOptions(BaseModel, extra="forbid", frozen=True):
    """What is common to the stages of both kinds."""

    contents: tuple[str, ...]
    seed: int
    device: str
