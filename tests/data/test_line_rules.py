"""FineWeb's and C4's rules beside datatrove's own, where its folder is given, and beside the definitions everywhere."""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import fields
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from data_texts import prose
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llama3.data.documents import DocumentBatch, Filter
from llama3.data.judging import judged, measured
from llama3.filters import Editing, LineFacts, line_repetition
from llama3.plugins.registry import discover

WORDS = re.compile(r"[a-z0-9]+")
LINES = [
    "The river is long.",
    "Mountains stand high in the morning light!",
    "the end...",
    "Turn on JavaScript to read this page.",
    "We use cookies here, as you know.",
    "Read the Terms of Use and the privacy policy.",
    "a menu",
    "Home",
    "He said it was so. Then she said no? And that was it.",
    "A fact is told here.[12]",
    "A fact is told here [citation needed].[edit]",
    "Lorem ipsum dolor sit amet.",
    "if (x) { return 1.",
    "  Spaces stand around this line.  ",
    "x" * 1001 + " is a long word.",
    "",
    "short.",
    '"So it is," they say "now."',
]
texts = st.lists(st.sampled_from(LINES), max_size=25).map("\n".join)


def build(name: str, **options: object) -> Filter:
    built: Filter = discover().build("filters", name, options)
    return built


def batch_of(texts: list[str], kind: str = "prose") -> DocumentBatch:
    return DocumentBatch.of(texts, source="s", urls=["u"] * len(texts), kind=kind, language="en")  # type: ignore[arg-type]


def keeps(name: str, texts: list[str], **options: object) -> list[bool]:
    filters = {name: build(name, **options)}
    return judged(name, filters[name], measured(filters, batch_of(texts))).keep_D.tolist()


def lines_left(name: str, text: str) -> list[str]:
    """The lines that are not blank of what an editing filter leaves."""
    filters = {name: build(name)}
    batch = measured(filters, batch_of([text]))
    assert isinstance(filters[name], Editing)
    edited = batch.edited(filters[name].edits(batch)).texts[0]
    return [line.strip() for line in edited.split("\n") if line.strip()]


def sentences(line: str, _: object = None) -> list[str]:
    """By the definition of llama3's core, for ASCII."""
    return [part for part in re.split(r"(?<=[.!?])[\"')\]}]*\s+", line) if re.search(r"[^.!?\"')\]}\s]", part)]


@pytest.fixture(scope="module")
def datatrove() -> Iterator[Any]:
    """datatrove's rules, reading our words and sentences: its own need a tokenizer of another kind."""
    folder = os.environ.get("DATATROVE_PATH")
    if not folder:
        pytest.skip("DATATROVE_PATH names no folder with the package datatrove")
    sys.path.append(folder)
    try:
        filters = importlib.import_module("datatrove.pipeline.filters")
        names = ("c4_filters", "fineweb_quality_filter", "gopher_quality_filter", "gopher_repetition_filter")
        for name in names:
            module = importlib.import_module(f"datatrove.pipeline.filters.{name}")
            for split, ours in (("split_into_words", words), ("split_into_sentences", sentences)):
                if hasattr(module, split):
                    setattr(module, split, ours)
        yield filters
    finally:
        sys.path.remove(folder)


def words(text: str, _: object = None) -> list[str]:
    return WORDS.findall(text.lower())


def verdict(filter: Any, text: str) -> tuple[bool, str]:
    document = SimpleNamespace(text=text, metadata={})
    found = filter.filter(document)
    return (found if isinstance(found, bool) else found[0]), document.text


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(texts, min_size=1, max_size=4))
def test_fineweb_is_datatroves(datatrove: Any, texts: list[str]) -> None:
    theirs = datatrove.FineWebQualityFilter()
    texts = [text for text in texts if words(text) and text.replace("\n", "")]
    assert keeps("fineweb", texts) == [verdict(theirs, text)[0] for text in texts]


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts)
def test_c4_is_datatroves(datatrove: Any, text: str) -> None:
    kept, left = verdict(datatrove.C4QualityFilter(), text)
    assert keeps("c4", [text]) == [kept]
    if kept:
        assert lines_left("c4", text) == [line.strip() for line in left.split("\n") if line.strip()]


def fineweb(text: str) -> bool:
    """The rules as they are told in the paper."""
    lines = [line for line in text.split("\n") if line.strip()]
    seen: set[str] = set()
    repeated = sum(len(line) for line in lines if line in seen or seen.add(line))
    return (
        bool(lines)
        and sum(line.endswith((".", "!", "?")) for line in lines) / len(lines) >= 0.12
        and sum(len(line) <= 30 for line in lines) / len(lines) <= 0.67
        and repeated / len(text.replace("\n", "")) <= 0.01
        and text.count("\n") / len(words(text)) <= 0.3
    )


@settings(max_examples=200, deadline=None)
@given(st.lists(texts, min_size=1, max_size=4))
def test_fineweb_is_what_the_paper_says(texts: list[str]) -> None:
    texts = [text for text in texts if words(text)]
    assert keeps("fineweb", texts) == [fineweb(text) for text in texts]


def test_c4_by_hand() -> None:
    good = "\n".join(LINES[n] for n in (0, 1, 8, 9, 13))
    assert keeps("c4", [good, good + "\n" + LINES[11], good + "\n" + LINES[12], "One. Two."]) == [
        True,
        False,
        False,
        False,
    ]
    mixed = "\n".join([good, *LINES[2:8], LINES[14], LINES[16]])
    left = [LINES[0], LINES[1], LINES[8], "A fact is told here.", LINES[13].strip()]
    assert lines_left("c4", mixed) == left
    assert keeps("c4", ["One. Two."], sentences={"min": 2}, lines={"min_words": 2}) == [True]
    assert keeps("c4", [LINES[12]], curly_brackets={}, sentences={}) == [True]


def test_code_and_made_text_pass() -> None:
    for kind in ("code", "made"):
        batch = batch_of(["x = {}\n" * 9], kind)
        for name in ("c4", "fineweb"):
            filters = {name: build(name)}
            assert judged(name, filters[name], measured(filters, batch)).keep_D.tolist() == [True]
        assert len(build("c4").edits(measured({"c4": build("c4")}, batch))) == 0  # type: ignore[attr-defined]


def test_line_facts_stand_in_their_documents() -> None:
    batch = batch_of(["one two.\n\n  three ", "vièr."])
    facts = LineFacts.of(batch)
    texts = [
        batch.texts[d].encode()[a:b].decode() for d, a, b in zip(facts.document, facts.start, facts.end, strict=True)
    ]
    assert texts == ["one two.\n", "  three ", "vièr."]
    assert facts.words.tolist() == [2, 1, 1]
    assert facts.terminal.tolist() == [True, False, True]
    assert keeps("fineweb", [prose(1, 40) + "\n" + prose(2, 40)]) == [True]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(texts, st.booleans()), min_size=1, max_size=6))
def test_lines_go_with_their_documents(documents: list[tuple[str, bool]]) -> None:
    batch = batch_of([text for text, _ in documents]).with_features()
    keep_D = np.array([keep for _, keep in documents])
    found, expected = (LineFacts.of(some) for some in (batch.take(keep_D), batch_of(batch.take(keep_D).texts)))
    for column in fields(LineFacts):
        assert getattr(found, column.name).tolist() == getattr(expected, column.name).tolist()
    assert LineFacts.of(batch.with_text(*batch_of([""] * len(batch)).buffers)).document.tolist() == []


def repetition(line: str, ngram: int) -> float:
    """By the definition, with tuples of words."""
    found, seen, chars, at = words(line), set(), 0, 0
    while at + ngram <= len(found):
        gram = tuple(found[at : at + ngram])
        step = ngram if gram in seen else 1
        chars += len("".join(gram)) * (gram in seen)
        seen.add(gram)
        at += step
    return chars / max(len("".join(found)), 1)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.lists(st.sampled_from(["a", "bc", "Def", "\n", " "]), max_size=60).map(" ".join), min_size=1, max_size=3
    ),
    st.integers(1, 6),
)
def test_repetition_of_lines_is_the_definition(texts: list[str], ngram: int) -> None:
    lines = [line for text in texts for line in text.split("\n") if line.strip()]
    assert line_repetition(batch_of(texts), ngram).tolist() == [repetition(line, ngram) for line in lines]


def test_lines_that_repeat_themselves_go() -> None:
    log = " ".join(f"error {n} at line of file main: no such file or directory in main;" for n in range(9))
    good = prose(1, 60)
    assert lines_left("repeated_lines", f"{good}\n{log}\nerror error error\n{prose(2, 60)}") == [
        good,
        "error error error",
        prose(2, 60),
    ]
    assert keeps("repeated_lines", [f"{prose(1, 200)}\n{log}", log], fraction={"max": 0.6}) == [True, False]
