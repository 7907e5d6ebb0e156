"""Options of the capability recipes. Torch-free."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


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
