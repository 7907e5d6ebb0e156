"""The analysis pass against the definitions, written out with strings."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from data_texts import line_form, prose
from hypothesis import given, settings
from hypothesis import strategies as st

from llama3 import _core
from llama3.data.documents import FEATURES, DocumentBatch, text_buffers
from llama3_plugins.guards.personal_data import KINDS

STOP_WORDS = {"the", "be", "to", "of", "and", "that", "have", "with"}


def ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def repeated(blocks: list[str]) -> tuple[float, float]:
    """Share of blocks, and of their characters, that were there before."""
    again = [block for n, block in enumerate(blocks) if block in blocks[:n]]
    return ratio(len(again), len(blocks)), ratio(sum(map(len, again)), sum(map(len, blocks)))


def top(words: list[str], n: int) -> float:
    counts = Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))
    covered = [count * len("".join(gram)) for gram, count in counts.items() if count > 1]
    return ratio(max(covered, default=0), len("".join(words)))


def duplicate(words: list[str], n: int) -> float:
    seen: set[tuple[str, ...]] = set()
    chars = i = 0
    while i + n <= len(words):
        gram = tuple(words[i : i + n])
        if gram in seen:
            chars += len("".join(gram))
            i += n
        else:
            seen.add(gram)
            i += 1
    return ratio(chars, len("".join(words)))


def as_written(lines: list[str], text: str, words: int) -> dict[str, float]:
    """What FineWeb's rules read."""
    again = sum(len(line) for n, line in enumerate(lines) if line in lines[:n])
    return {
        "terminal_line_fraction": ratio(sum(line.endswith((".", "!", "?")) for line in lines), len(lines)),
        "short_line_fraction": ratio(sum(len(line) <= 30 for line in lines), len(lines)),
        "repeated_line_char_fraction": ratio(again, len(text.replace("\n", ""))),
        "newlines_per_word": ratio(text.count("\n"), words),
    }


def statistics(text: str) -> dict[str, float]:
    """All of FEATURES for ASCII text."""
    words = re.findall(r"[a-z0-9]+", text.lower())
    tokens = text.split()
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    paragraphs = [part.strip() for part in text.split("\n\n") if part.strip()]
    physical = text.split("\n")
    line_share, line_chars = repeated(lines)
    paragraph_share, paragraph_chars = repeated(paragraphs)
    alpha, digits = sum(map(str.isalpha, text)), sum(map(str.isdigit, text))
    return {
        "chars": len(text),
        "words": len(words),
        "lines": len(lines),
        "paragraphs": len(paragraphs),
        "mean_word_length": ratio(len("".join(words)), len(words)),
        "alpha_token_fraction": ratio(sum(any(map(str.isalpha, token)) for token in tokens), len(tokens)),
        "hashes_per_word": ratio(text.count("#"), len(words)),
        "ellipses_per_word": ratio(len(re.findall(r"\.{3,}", text)), len(words)),
        "stop_words": len(STOP_WORDS & set(words)),
        "bullet_line_fraction": ratio(sum(line[0] in "-*" for line in lines), len(lines)),
        "ellipsis_line_fraction": ratio(sum(line.endswith("...") for line in lines), len(lines)),
        "max_line_length": max(map(len, physical)),
        "mean_line_length": sum(map(len, physical)) / len(physical),
        "alpha_fraction": ratio(alpha, len(text)),
        "digit_fraction": ratio(digits, len(text)),
        "space_fraction": ratio(sum(map(str.isspace, text)), len(text)),
        "alphanumeric_fraction": ratio(alpha + digits, len(text)),
        "duplicate_line_fraction": line_share,
        "duplicate_line_char_fraction": line_chars,
        "duplicate_paragraph_fraction": paragraph_share,
        "duplicate_paragraph_char_fraction": paragraph_chars,
        **{f"top_{n}gram_char_fraction": top(words, n) for n in (2, 3, 4)},
        **{f"duplicate_{n}gram_char_fraction": duplicate(words, n) for n in range(5, 11)},
        "distinct_word_fraction": ratio(len(set(words)), len(words)),
        "longest_word": max(map(len, words), default=0),
        "tokens": len(tokens),
        **as_written([line for line in physical if line.strip()], text, len(words)),
        **{f"{kind}_signs": 0 for kind in KINDS},  # they are plenty on purpose: tests/data/test_judging.py
    }


def analysed(texts: list[str]) -> np.ndarray:
    return _core.analyse(*text_buffers(pa.array(texts, pa.large_string())))[0]


pieces = ["the ", "of", "a b ", "cat", "Dog ", "x1 ", "\n", "\n\n", "- ", "# ", "...", "... \n", ". ", "42", "--"]
printable = st.text(st.characters(codec="ascii", exclude_categories=["Cc"]))
ascii_text = st.lists(st.sampled_from(pieces), max_size=60).map("".join) | printable


@settings(max_examples=300)
@given(st.lists(ascii_text, min_size=1, max_size=4))
def test_equals_the_definitions(texts: list[str]) -> None:
    for text, row in zip(texts, analysed(texts), strict=True):
        found = dict(zip(FEATURES, row.tolist(), strict=True)) | {f"{kind}_signs": 0 for kind in KINDS}
        assert found == pytest.approx(statistics(text), abs=1e-12)


def test_every_script_has_words() -> None:
    rows = analysed(["Ünïcödé wörds hére", "три слова здесь", "हिन्दी के शब्द", "漢字と仮名", "한국어 단어 세"])
    assert rows[:, FEATURES.index("words")].tolist() == [3, 3, 3, 5, 3]


def test_a_long_single_line_is_linear() -> None:
    line = " ".join(f"w{n}" for n in range(400_000))
    row = dict(zip(FEATURES, analysed([line])[0], strict=True))
    assert row["words"] == 400_000
    assert row["max_line_length"] == len(line)
    assert row["duplicate_10gram_char_fraction"] == 0
    again = dict(zip(FEATURES, analysed([line + " " + line])[0], strict=True))
    assert again["duplicate_10gram_char_fraction"] == pytest.approx(0.5)


@settings(max_examples=300)
@given(st.lists(st.text(max_size=20).filter(lambda s: s.isprintable()) | ascii_text, max_size=12))
def test_line_keys_follow_the_normal_form(lines: list[str]) -> None:
    lines = [line for text in lines for line in text.split("\n")]
    data, offsets = text_buffers(pa.array(["\n".join(lines)], pa.large_string()))
    keys = _core.line_keys(data, offsets, np.zeros(1, np.int64)).tolist()
    forms = [form for form in map(line_form, lines) if form]
    assert len(keys) == len(forms)
    assert len(set(zip(keys, forms, strict=True))) == len(set(keys)) == len(set(forms))


def test_batches_are_views() -> None:
    batch = DocumentBatch.of(["one text", "zwei, töxte", ""], source="s", urls=["a", "b", "c"])
    data, offsets = batch.buffers
    assert not data.flags.owndata
    assert bytes(data[offsets[1] : offsets[2]]).decode() == "zwei, töxte"
    taken = batch.with_features().take(np.array([False, True, True]))
    assert taken.texts == ["zwei, töxte", ""]
    assert taken.features["words"].tolist() == [2, 0]
    assert taken.column("origin") == taken.column("id")
    assert DocumentBatch.of([], source="s", urls=[]).with_features().features["words"].tolist() == []
    sliced = DocumentBatch(batch.records.slice(1, 1))
    assert sliced.with_features().features["words"].tolist() == [2]
    assert sliced.bytes_D.tolist() == [12]


def test_identity_ignores_storage_only() -> None:
    same = ["Caf\u00e9\n\nend", "Cafe\u0301  \r\n\r\nend\n\n", "\nCafé\n \nend"]
    ids = [DocumentBatch.of([text], source="s", urls=[""]).column("id")[0] for text in [*same, "café\n\nend", prose(1)]]
    assert len(set(ids)) == 3
    assert all(re.fullmatch("[0-9a-f]{32}", id) for id in ids)
