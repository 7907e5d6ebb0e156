"""Options of the capability recipes. Torch-free."""

from __future__ import annotations

from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, field_validator

ToolKind = Literal[
    "calculator", "python", "files", "search", "single", "nested", "parallel", "multi_step", "easy", "off"
]
LongKind = Literal["questions", "summary", "repository"]
Language = Literal["de", "fr", "it", "pt", "es", "hi", "hi-Latn", "th"]
Asking = Literal["questions", "reasoning"]
RuleKind = Literal["length", "format", "tone", "persona"]


class RecipeOptions(BaseModel):
    """What all of them share."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class MathStepsOptions(RecipeOptions):
    """Of `math_steps`."""

    samples: int = Field(4, ge=1, le=64, description="chains that are drawn for each task")
    verify: bool = Field(True, description="whether the judge must find every step right too")


class CodeFeedbackOptions(RecipeOptions):
    """Of `code_feedback`."""

    corrections: int = Field(2, ge=0, le=10, description="how often the model may correct what fails")
    snippet: int = Field(1200, ge=100, description="longest snippet that inspires a problem, in characters")
    least_words: int = Field(8, ge=1, description="words that a problem has at least")


class CodeTranslationOptions(RecipeOptions):
    """Of `code_translation`."""

    to: list[str] = Field(
        ["JavaScript", "Java", "C++", "TypeScript", "Rust", "PHP", "Go"],
        min_length=1,
        description="languages that are translated to, in turn",
    )
    calls: int = Field(5, ge=2, le=50, description="calls by which both programs are compared")


class CodeBacktranslationOptions(RecipeOptions):
    """Of `code_backtranslation`."""

    samples: int = Field(3, ge=1, le=32, description="documents that are written of each function; the best is kept")
    calls: int = Field(5, ge=2, le=50, description="calls by which both programs are compared")
    least: int = Field(8, ge=1, le=10, description="points of fidelity, of 10, where nothing could be run")


class CodeJudgedOptions(RecipeOptions):
    """Of `code_judged`."""

    samples: int = Field(4, ge=1, le=32, description="answers to each question, of which the first good one is kept")
    revisions: int = Field(1, ge=0, le=5, description="how often an answer that none is good of is revised")
    snippet: int = Field(1200, ge=100, description="longest snippet that is asked about, in characters")


class StepPairsOptions(RecipeOptions):
    """Of `math_step_pairs`."""

    samples: int = Field(4, ge=2, le=64, description="chains that are drawn for each task")
    rollouts: int = Field(
        4, ge=1, le=64, description="how often each step is gone on from: its value is the share right"
    )
    margin: float = Field(
        0.5, gt=0, le=1, description="difference of the values of two steps from which they are a pair"
    )


class MathSearchOptions(RecipeOptions):
    """Of `math_search`."""

    tries: int = Field(4, ge=0, le=64, description="plain answers that must all be wrong: only then is a task searched")
    simulations: int = Field(16, ge=1, le=1024, description="steps that are expanded, at most")
    width: int = Field(4, ge=1, le=16, description="continuations that are drawn of each step")
    deepest: int = Field(12, ge=1, le=100, description="steps of a chain, at most")
    exploration: float = Field(0.5, ge=0, description="weight of steps that were seldom tried (UCT)")


class MathPythonOptions(RecipeOptions):
    """Of `math_python`."""

    samples: int = Field(2, ge=1, le=32, description="chains that are drawn for each task")
    cells: int = Field(3, ge=1, le=10, description="programs that a chain may run, at most")


class MathCorrectionsOptions(RecipeOptions):
    """Of `math_corrections`."""

    samples: int = Field(4, ge=1, le=64, description="chains that are drawn for each task, to find wrong ones")
    corrections: int = Field(2, ge=1, le=32, description="corrections that are drawn of each wrong chain")


class FactualityOptions(RecipeOptions):
    """Of `factuality`."""

    samples: int = Field(4, ge=2, le=32, description="answers to each question, all of which are judged")
    passage: int = Field(1500, ge=100, description="longest passage that a question is about, in characters")


class ToolUseOptions(RecipeOptions):
    """Which questions are asked, and how long a model may work on one."""

    kinds: list[ToolKind] = Field(
        list(get_args(ToolKind)),
        min_length=1,
        description="what is asked: for a core tool (calculator, python, files, search), for functions that are told by"
        " signature and docstring (single, nested, parallel, multi_step), or for no call (easy, off)",
    )
    samples: int = Field(2, ge=1, le=64, description="trajectories of each question; the first right one is learnt")
    steps: int = Field(4, ge=2, le=32, description="messages of the assistant in one trajectory, at most")


class LongContextOptions(RecipeOptions):
    """What is made of which documents."""

    kinds: list[LongKind] = Field(
        list(get_args(LongKind)),
        min_length=1,
        description="questions about a chunk, summary of the summaries of all chunks, or a repository without a file",
    )
    buckets: list[int] = Field(
        [16384, 32768, 65536, 131072],
        min_length=1,
        description="lengths of texts in tokens, rising; documents of less than half of the first are left out",
    )
    chunk: int = Field(8192, ge=32, description="tokens of a part that the model reads to ask or to sum up")
    dependents: int = Field(5, ge=1, description="files that must import the one that is taken out of a repository")
    files: int = Field(5000, ge=2, description="Python files of the corpus among which repositories are looked for")

    @field_validator("buckets")
    @classmethod
    def _rise(cls, buckets: list[int]) -> list[int]:
        if any(low >= high for low, high in zip([1, *buckets], buckets, strict=False)):
            raise ValueError("the lengths must rise, from above 1")
        return buckets


class MultilingualityOptions(RecipeOptions):
    """Which languages, and what is asked in them."""

    languages: list[Language] = Field(
        list(get_args(Language)),
        min_length=1,
        description="what is asked and answered in; hi-Latn is Hindi as it is typed in Latin letters",
    )
    kinds: list[Asking] = Field(
        list(get_args(Asking)),
        min_length=1,
        description="open questions, or tasks of the run's rewards in translation",
    )
    samples: int = Field(4, ge=1, le=64, description="answers that are drawn to each prompt")


class SteerabilityOptions(RecipeOptions):
    """What system prompts ask for, and over how many turns."""

    kinds: list[RuleKind] = Field(list(get_args(RuleKind)), min_length=1, description="what a system prompt sets")
    rules: int = Field(3, ge=1, le=4, description="rules of a system prompt, at most")
    turns: int = Field(3, ge=1, le=20, description="questions and answers of a dialog")
    samples: int = Field(
        4, ge=1, le=64, description="answers that are drawn to each question; the first good one stays"
    )
