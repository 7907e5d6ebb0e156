"""Options of the recipes for tools, long context, languages and steerability. Torch-free."""

from __future__ import annotations

from typing import Literal, get_args

from pydantic import Field, field_validator

from llama3_plugins.capabilities.options import RecipeOptions

ToolKind = Literal[
    "calculator", "python", "files", "search", "single", "nested", "parallel", "multi_step", "easy", "off"
]
LongKind = Literal["questions", "summary", "repository"]
Language = Literal["de", "fr", "it", "pt", "es", "hi", "hi-Latn", "th"]
Asking = Literal["questions", "reasoning"]
RuleKind = Literal["length", "format", "tone", "persona"]


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
