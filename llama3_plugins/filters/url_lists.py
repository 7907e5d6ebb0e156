"""Addresses by lists that the user gives: hosts with all below them, pages, and words in the address."""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import urlsplit

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from llama3.filters import DocumentBatch, Judgement, normalised_url, read_lists
from llama3_plugins.filters.limits import Bound, judge_measures, of_kind


class UrlListsOptions(BaseModel):
    """Files, an entry a line."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    hosts: str = Field("", description="hosts: theirs and those of all below them (example.com: www.example.com too)")
    pages: str = Field("", description="addresses, in any spelling of them")
    words: str = Field("", description="words of an address, any of which is enough")
    soft_words: str = Field("", description="words of an address, of which soft_limit are enough")
    parts: str = Field("", description="parts of the letters and digits of an address, in lower case")
    soft_limit: int = Field(2, ge=1, description="different soft words from which a page goes")


class UrlLists:
    """Documents without an address pass; code is found by lists too, made text is not."""

    features: frozenset[str] = frozenset()
    measures = ("hosts", "pages", "words", "soft_words", "parts")

    def __init__(self, options: UrlListsOptions) -> None:
        paths = {name: getattr(options, name) for name in self.measures}
        lists, self.stamp = read_lists({name: path for name, path in paths.items() if path})
        self.hosts = {entry.lower().rstrip(".") for entry in lists.get("hosts", [])}
        pages = (entry if "://" in entry else f"http://{entry}" for entry in lists.get("pages", []))
        self.pages = {normalised_url(page) for page in pages}
        self.words, self.soft_words = (
            {entry.lower() for entry in lists.get(name, [])} for name in ("words", "soft_words")
        )
        parts = {_letters(entry) for entry in lists.get("parts", [])} - {""}
        self.parts = re.compile("|".join(map(re.escape, sorted(parts)))) if parts else None
        self.limits = dict.fromkeys(self.measures, Bound(max=0)) | {"soft_words": Bound(max=options.soft_limit - 1)}

    def measure(self, batch: DocumentBatch) -> Mapping[str, np.ndarray]:
        rows = np.array([self._found(url) for url in batch.column("url")], np.float64)
        return dict(zip(self.measures, rows.reshape(-1, len(self.measures)).T, strict=True))

    def judge(self, batch: DocumentBatch) -> Judgement:
        return judge_measures("url_lists", self.limits, batch, of_kind(batch, "prose", "code"))

    def _found(self, url: str) -> tuple[int, ...]:
        """How many entries of each list an address has."""
        page = normalised_url(url)
        if not page:
            return (0,) * len(self.measures)
        labels = (urlsplit(f"//{page}").hostname or "").split(".")
        hosts = sum(".".join(labels[at:]) in self.hosts for at in range(len(labels)))
        words = set(_NO_WORD.split(url.lower()))
        parts = self.parts is not None and self.parts.search(_letters(url)) is not None
        return hosts, page in self.pages, len(words & self.words), len(words & self.soft_words), parts


_NO_WORD = re.compile(r"[^a-z0-9]+")


def _letters(text: str) -> str:
    return _NO_WORD.sub("", text.lower())
