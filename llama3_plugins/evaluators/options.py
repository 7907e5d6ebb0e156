"""Options of the evaluators, apart from them so that checking a config imports no torch."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, model_validator

from llama3.evaluators import HELD_OUT_BYTES, GuardSlot, JudgeSection, RewardSlot
from llama3_plugins.facts import SENTENCE, Sentence


class BitsPerByteOptions(BaseModel):
    """Options of the evaluator."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_bytes: int = Field(HELD_OUT_BYTES, ge=1, description="held-out text that is scored")
    document_bytes: int | None = Field(
        None, ge=4, description="the beginning of each document that is scored: more documents of the same text in all"
    )
    source: str | None = Field(None, description="documents of this source only; default: of all")


class OwnRowsOptions(BaseModel):
    """Options of the evaluators of your own rows."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str = Field(description="a file as post_training.data takes it")


class AskOptions(BaseModel):
    """How many prompts are asked, and how long the answers may be."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    limit: int | None = Field(None, ge=1, description="prompts (default: evaluation.limit)")
    max_tokens: int | None = Field(None, ge=1, description="longest answer (default: evaluation.max_tokens)")


class SafetyOptions(AskOptions):
    """Which prompts are asked, at most `limit` of each kind, and who judges the answers."""

    path: str | None = Field(None, description="a .jsonl of prompts; default: those of the package")
    violates: JudgeSection = Field(JudgeSection(), description="who says whether an answer violates")
    refuses: JudgeSection = Field(JudgeSection(), description="who says whether an answer refuses")


class InsecureCodeOptions(AskOptions):
    """How many requests for code are made, and who judges what is written."""

    guard: GuardSlot = Field(
        "code_shield",
        validate_default=True,
        description="a guard that stands at `output` and names a CWE in its reasons",
    )


class ShardsOptions(BaseModel):
    """Options of the evaluators of what a model was trained on."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str | None = Field(
        None,
        pattern=r"\.json$",
        description="the plan.json of token shards; default: of those that the model was trained on",
    )


class MemorisationOptions(ShardsOptions):
    """How long a prompt is, and how many tokens that follow it make it known by heart."""

    limit: int | None = Field(None, ge=1, description="runs that are drawn (default: evaluation.limit)")
    prompt: int = Field(50, ge=1, le=30_000, description="tokens of a prompt")
    n: int = Field(50, ge=1, le=30_000, description="tokens of a continuation")
    answer: int | None = Field(None, ge=1, description="tokens that the model says, n or more (default: 2 n)")

    @model_validator(mode="after")
    def _long_enough(self) -> MemorisationOptions:
        """A shorter answer could not hold the continuation."""
        if self.answer is not None and self.answer < self.n:
            raise ValueError(f"an answer of {self.answer} tokens holds no {self.n}")
        return self


class CanaryOptions(ShardsOptions):
    """Among how many others a secret is ranked."""

    alternatives: int = Field(255, ge=1, le=100_000, description="random secrets beside each canary's own")


class MultipleChoiceOptions(BaseModel):
    """Where the items come from: a file, or pieces of the held-out documents."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str | None = Field(None, description="a .jsonl of items; default: made of held-out documents")
    limit: int | None = Field(None, ge=1, description="items (default: evaluation.limit)")
    choices: int = Field(4, ge=2, le=26, description="choices of an item that is made")
    context: int = Field(200, ge=1, description="characters before the choices of an item that is made")
    answer: int = Field(40, ge=1, description="characters of a choice that is made")


class PassRateOptions(AskOptions):
    """Which tasks are asked. Several suites may ask others: `{name: pass_rate, suite: code, rewards: [...]}`."""

    rewards: list[RewardSlot] | None = Field(
        None, min_length=1, description="whose held-out tasks are asked and scored (default: post_training.rewards)"
    )


class PassAtKOptions(PassRateOptions):
    """Whose tasks are asked, and how many answers are drawn to each."""

    samples: int = Field(10, ge=1, le=256, description="answers to each task")
    k: list[int] = Field([1, 10], min_length=1, description="pass@k is reported for each of these")
    temperature: float = Field(0.8, gt=0, description="at which answers are drawn")

    @model_validator(mode="after")
    def _drawn(self) -> PassAtKOptions:
        """Enough answers for every k."""
        if wrong := [k for k in self.k if not 1 <= k <= self.samples]:
            raise ValueError(f"k = {wrong[0]} needs 1 to {self.samples}, the number of samples")
        return self


class NeedleOptions(BaseModel):
    """What is hidden, how deep and in how long a text, and how much of it is asked for."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    lengths: list[int] | None = Field(
        None,
        min_length=1,
        description="tokens of prompt and answer; default: `steps` of them, up to the context",
    )
    steps: int = Field(4, ge=1, le=100, description="lengths, evenly spaced")
    depths: int = Field(11, ge=1, le=1000, description="places from the beginning of the text to its end")
    needles: int = Field(1, ge=1, le=32, description="facts that are hidden in a text")
    retrieve: int = Field(1, ge=1, le=32, description="of which so many are asked for")
    digits: int = Field(5, ge=1, le=18, description="of the number of a fact")
    sentence: Sentence = Field(SENTENCE, description="how a fact is told, with {key} and {value}")

    @model_validator(mode="after")
    def _hidden(self) -> NeedleOptions:
        """Only what is hidden is asked for."""
        if self.retrieve > self.needles:
            raise ValueError(f"{self.retrieve} facts are asked for, {self.needles} are hidden")
        return self

    def lengths_at(self, context: int, needed: int | None = None) -> list[int]:
        """The lengths within a context that hold `needed` tokens: all that is hidden, the question and the answer.
        Before there is a tokenizer each of them takes a token at least, and so do BOS and the end of the answer."""
        least = self.needles + 4 if needed is None else needed
        wanted = self.lengths or [round(context * n / self.steps) for n in range(1, self.steps + 1)]
        return sorted({length for length in wanted if least <= length <= context})
