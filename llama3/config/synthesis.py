"""Text that a model makes of the sources, and the signs by which it is seen that it repeats itself."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from llama3.config.section import Section

SYNTHETIC = "synthetic"
"""The label of its documents, for the mix."""
Writing = Literal["rephrase", "questions", "extract"]
"""What a model makes of a passage: the same in other words, questions with their answers, the facts that it states."""


class CollapseSection(Section):
    """When what a model made is too alike, or too much: each figure is compared with that of as many of the passages
    that it was made of."""

    most_share: float = Field(0.5, gt=0, le=1, description="bytes of synthetic text among all text that is read")
    least_distinct: float = Field(
        0.7, ge=0, le=1, description="its different 3-grams of words among all, over those of the passages"
    )
    least_entropy: float = Field(0.9, ge=0, le=1, description="entropy of its 3-grams of words, over the passages'")
    most_self_bleu: float = Field(0.2, ge=0, le=1, description="its self-BLEU less that of the passages")
    action: Literal["warn", "stop"] = Field("warn", description="warn with the figures, or stop the run")


class SyntheticSection(Section):
    """Text that a model makes of documents of the sources, read by the curation beside them as source `synthetic`."""

    model: str = Field(
        description="a model on this machine, or the address of a server, such as http://127.0.0.1:8000/v1"
    )
    served: str | None = Field(None, description="name of the model at the server (default: the first that it lists)")
    tasks: list[Writing] = Field(["rephrase"], min_length=1, description="what is made of every passage")
    sources: list[str] = Field(default_factory=list, description="labels of sources that it is made of; default: all")
    documents: int = Field(1000, ge=1, description="documents that are drawn, at most; prose only")
    passage: int = Field(2000, ge=100, description="longest passage, in characters; documents are cut to such")
    max_tokens: int = Field(768, ge=1, le=1 << 30, description="longest answer")
    temperature: float = Field(0.7, ge=0, description="of sampling")
    parallel: int = Field(8, ge=1, le=1024, description="requests at a time that a server gets")
    collapse: CollapseSection = CollapseSection()
