"""How text is cleaned: duplicates, lines, benchmarks, and the alarm where too much goes."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from llama3.config.section import Section


class MinHashSection(Section):
    """Near-duplicate documents (MinHash over word n-grams, banding, verification)."""

    enabled: bool = Field(True, description="look for near-duplicates")
    ngram: int = Field(5, ge=1, description="words per shingle")
    bands: int | None = Field(
        None, ge=1, description="bands of the signature, of which one makes a candidate pair; default: by the threshold"
    )
    rows: int | None = Field(None, ge=1, description="hashes per band; default: by the threshold")
    threshold: float = Field(0.8, gt=0, le=1, description="verified Jaccard similarity above which a document goes")


class LineDedupSection(Section):
    """Lines that occur too often (paper 3.1.1)."""

    enabled: bool = Field(True, description="remove lines that occur too often")
    max_count: int = Field(6, ge=1, description="a line that occurs more often than this in a bucket is removed")
    bucket_documents: int = Field(30_000_000, ge=1, description="documents per bucket")


class BenchmarkSection(Section):
    """A benchmark that a corpus must not hold: JSON lines, one example a row."""

    path: str = Field(description="the file")
    keys: list[str] = Field(default_factory=list, description="keys of a row whose text is the example; default: all")
    threshold: float | None = Field(
        None, gt=0, le=1, description="share of an example's words; default: that of all benchmarks"
    )


class DecontaminationSection(Section):
    """Benchmarks that are taken out of the corpus (paper 5.1.4)."""

    benchmarks: dict[str, BenchmarkSection] = Field(default_factory=dict, description="by the name that reports use")
    tasks: bool = Field(False, description="also the held-out tasks that this run measures its models on")
    ngram: int = Field(8, ge=1, description="words of the n-grams that are looked for")
    threshold: float = Field(
        0.8, gt=0, le=1, description="share of an example's words in a document's n-grams from which it covers it"
    )
    action: Literal["drop", "mask"] = Field(
        "drop", description="what happens to a document that covers an example: it goes, or only those words of it"
    )


class BoundsSection(Section):
    """What filters of plugins may take for one document. They judge in a process of their own."""

    seconds: float = Field(
        60.0,
        gt=0,
        description="processor time (twice that by the clock); a batch has as much, and a hundredth of it per document",
    )
    memory_mb: int = Field(4096, ge=16, description="memory beyond what the process has before")
    action: Literal["quarantine", "stop"] = Field(
        "quarantine", description="a document that takes more is left out and named, or the run stops"
    )


class RemovalAlarmSection(Section):
    """When a stage of the curation takes out more than is usual."""

    most: float = Field(0.9, gt=0, le=1, description="share of a source's documents, or of their bytes")
    action: Literal["warn", "stop"] = Field("warn", description="warn with the stage's name, or stop the run")
