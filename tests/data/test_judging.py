"""Filters that measure, survey and edit, the product's way; and what each of them finds, beside brute force."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_texts import prose
from hypothesis import given, settings
from hypothesis import strategies as st

from llama3 import _core
from llama3.config.schema import Config
from llama3.config.slot_types import Slot
from llama3.data.curate import CurateOptions
from llama3.data.documents import DocumentBatch, Edits, Filter
from llama3.data.judging import build_filters, measured
from llama3.data.recut import recut
from llama3.data.tables import Table
from llama3.errors import ConfigError, DataError
from llama3.filters import Phrases, WordDistribution
from llama3_plugins.guards.personal_data import _EMAIL, KINDS, _around_ats, fold, personal_data


def batch_of(texts: list[str], **columns: Any) -> DocumentBatch:
    return DocumentBatch.of(texts, **{"source": "s", "urls": ["u"] * len(texts), **columns})


def written(path: Path, texts: list[str], **columns: list[str]) -> dict[str, Any]:
    rows = [{"text": text, **{name: values[n] for name, values in columns.items()}} for n, text in enumerate(texts)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return {"name": "jsonl", "path": str(path), "source": "web"}


# -- KL ---------------------------------------------------------------------------------------------

MASK = 2**64 - 1


def folded(a: int, b: int) -> int:
    product = a * b
    return product & MASK ^ product >> 64


def word_hash(word: str) -> int:
    """The core's hash of a word: eight bytes at a time, then the rest with the length."""
    state, second, code = 0x9E3779B97F4A7C15, 0xD6E8FEB86659FD93, word.encode()
    whole = len(code) // 8 * 8
    for at in range(0, whole, 8):
        state = folded(state ^ int.from_bytes(code[at : at + 8], "big"), second)
    return folded(state ^ int.from_bytes(code[whole:], "big"), second ^ len(code))


def divergences(texts: list[str], bits: int) -> list[float]:
    """By the definition, in two passes with dictionaries."""
    buckets = [[word_hash(word) % 2**bits for word in re.findall("[a-z0-9]+", text.lower())] for text in texts]
    corpus = Counter(bucket for document in buckets for bucket in document)
    found = []
    for document in buckets:
        total = 0.0
        for bucket, count in Counter(document).items():
            p = count / len(document)
            q = (corpus[bucket] + 1 / 2**bits) / (corpus.total() + 1.0)
            total += p * math.log2(p / q)
        found.append(total)
    return found


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.lists(st.sampled_from([*prose(1, 300).split(), "internationalisation"]), max_size=60), max_size=8),
    st.sampled_from([0, 3, 20]),
)
def test_divergence_is_the_definition_bit_for_bit(documents: list[list[str]], bits: int) -> None:
    texts = [" ".join(words) for words in documents]
    distribution = WordDistribution(bits)
    for part in (texts[:3], texts[3:]):
        distribution.add(batch_of(part))
    assert distribution.words == sum(map(len, documents))
    assert distribution.divergence(batch_of(texts)).tolist() == divergences(texts, bits)


def test_words_of_another_kind_stand_out(tmp_path: Path, curated: Callable) -> None:
    odd = " ".join(f"xq{n}zv" for n in range(120))
    texts = [*(prose(n) for n in range(150)), odd]
    source = written(tmp_path / "a.jsonl", texts)
    limits = {"least_words": 1000, "divergence": {"max": 5.0}}
    corpus, out = curated(sources=[source], filters=[{"name": "token_distribution", **limits}])
    assert out.metrics["rejects"] == {"filter.token_distribution.divergence": 1}
    scores = corpus.scores().to_pydict()
    assert scores["token_distribution.divergence"] == divergences(texts, 20)
    few = {"least_words": 10**6}
    corpus, out = curated(sources=[source], filters=[{"name": "token_distribution", **few}])
    assert out.metrics["rejects"] == {}


# -- lists ------------------------------------------------------------------------------------------


def test_phrases_are_counted_whole_in_every_script() -> None:
    phrases = Phrases(["Bad", "very bad word", "性", "bad", "--"])
    assert len(phrases) == 3
    counts = phrases.count(batch_of(["bad BADGE, a Very-bad\nword; 性感", "good", ""]))
    assert [column.tolist() for column in counts] == [[4, 0, 0], [3, 0, 0]]


def test_dirty_words_by_language(tmp_path: Path, curated: Callable) -> None:
    (tmp_path / "en").write_text("# a list\nfoo\nbar baz\nqux\nquux\n", encoding="utf-8")
    (tmp_path / "de").write_text("pfui\n", encoding="utf-8")
    clean = [prose(n) for n in range(4)]
    texts = [
        clean[0] + " foo",  # one is nothing
        clean[1] + " foo Bar\nBaz qux quux",
        clean[2] + " pfui",
        clean[3] + " pfui" * 3,
    ]
    sources = [
        written(tmp_path / f"{n}.jsonl", [texts[n]]) | {"language": language}
        for n, language in enumerate(["en", "fr", "en", "de"])
    ]
    lists = {"und": str(tmp_path / "en"), "de": str(tmp_path / "de")}
    section: dict[str, Any] = {"sources": sources, "filters": [{"name": "dirty_words", "lists": lists}]}
    corpus, _ = curated(**section)
    scores = corpus.scores().to_pydict()
    assert scores["dirty_words.count"] == [1, 4, 0, 3]
    assert scores["dirty_words.different"] == [1, 4, 0, 1]
    assert scores["kept"] == [True, False, True, False]

    before = CurateOptions.of(Config.model_validate({"data": section}))
    slots = [Slot.model_validate({"name": "dirty_words", "lists": lists, "count": {"max": 9}})]
    recut(corpus.path, build_filters(slots))
    (tmp_path / "de").write_text("pfui\nigitt\n", encoding="utf-8")
    assert CurateOptions.of(Config.model_validate({"data": section})).found != before.found
    # The recorded counts are those of the old list.
    with pytest.raises(DataError, match=r"'dirty_words' has read other lists.*L3-DAT-274"):
        recut(corpus.path, build_filters(slots))
    (tmp_path / "de").write_text("# none\n", encoding="utf-8")
    (tmp_path / "en").write_bytes(b"\xff")
    with pytest.raises(ConfigError) as error:
        curated(**section)
    assert [problem.code for problem in error.value.problems] == ["L3-DAT-260", "L3-DAT-261"]


def test_url_lists(tmp_path: Path, curated: Callable) -> None:
    lists = {
        "hosts": "# hosts\nbad.example\n",
        "pages": "good.example/one?utm_source=x&b=1\n",
        "words": "casino\n",
        "soft_words": "free\nhot\n",
        "parts": "xx-deal\n",
    }
    for name, content in lists.items():
        (tmp_path / name).write_text(content, encoding="utf-8")
    urls = {
        "https://www.bad.example/a": "hosts",
        "http://notbad.example/a": "",
        "https://good.example:443/one?b=1#top": "pages",
        "https://good.example/Casino-royal": "words",
        "https://good.example/casinos": "",
        "https://good.example/free": "",
        "https://good.example/free/hot": "soft_words",
        "https://good.example/maxx-deals": "parts",
        "folder/casino.txt": "",
    }
    texts = [prose(n) for n in range(len(urls))]
    source = written(tmp_path / "a.jsonl", texts, url=list(urls))
    filter = {"name": "url_lists"} | {name: str(tmp_path / name) for name in lists}
    corpus, _ = curated(sources=[source], filters=[filter])
    reasons = {row["id"]: row["reason"] for row in corpus.rejects().to_pylist()}
    assert [reasons.get(id, "") for id in corpus.scores().to_pydict()["id"]] == list(urls.values())


# -- personal data ----------------------------------------------------------------------------------

PIECES = [
    "write to ann@example.org",
    "call me at",
    "tel:",
    "+49 30 1234567",
    "(555) 234-5678",
    "555-234-5678",
    "030 1234567",
    "0049 30 / 123 45 67",
    "4111 1111 1111 1111",
    "4111111111111111",
    "3782 822463 10005",
    "DE89 3704 0044 0532 0130 00",
    "de89370400440532013000",
    "at 8.8.8.8",
    "version 1.2.3.4",
    "2001:4860:4860::8888",
    "AKIAIOSFODNN7EXAMPLQ",
    "api_key = 'a8Fk29dkQz81mNb4Tq'",
    "https://me:hunter22x@host.example/",
    "ghp_" + "aB3" * 12,
    "eyJhbGciOiJI.eyJzdWIiOiIx",
    "-----BEGIN RSA PRIVATE KEY-----\nMIIE\n",
    "zR7" * 6 + "kQw9Xb2LmT4vYs8PdH1c",
    "SG." + "ab1C" * 6 + "." + "dE2f" * 6,
    "＋４９ ３０ １２３４５６７",
    "ann＠example．org",
    "٠٣٠ ١٢٣٤٥٦٧",
    "password is Tr0ub4dor&3xyz",
    "\n",
    " ",
    "-",
    ":",
    "x",
    "7",
    ".",
    "Ω",
    "\u00a0",
    "\u00ad",
    "–",
    "1234567890:AAabcdefghijklmnopqrstuvwxyz0123456",
    "the",
    "é",
]


@settings(max_examples=600, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=10), st.sampled_from(["", " "]))
def test_whatever_is_found_has_a_sign(pieces: list[str], between: str) -> None:
    text = between.join(pieces)
    features = batch_of([text]).with_features().features
    for kind in {datum.kind for datum in personal_data(text)}:
        assert features[f"{kind}_signs"][0] > 0, (kind, text)


@settings(max_examples=400, deadline=None)
@given(st.text(st.sampled_from("0123456789aAzZ+-/_.:@() =k\n٣é\u00a0"), max_size=60))
def test_whatever_is_found_in_noise_has_a_sign(text: str) -> None:
    features = batch_of([text]).with_features().features
    for kind in {datum.kind for datum in personal_data(text)}:
        assert features[f"{kind}_signs"][0] > 0, (kind, text)


@settings(max_examples=300, deadline=None)
@given(st.text(st.sampled_from("a1é…ﬁ㎏\u00ad\u200b٣– \u00a0漢Å")))
def test_folded_signs_know_their_places(text: str) -> None:
    plain = [(sign, place) for place, character in enumerate(text) for sign in fold(character).text]
    folded = fold(text)
    assert folded.text == "".join(sign for sign, _ in plain)
    assert [folded.origin(place) for place in range(len(plain))] == [place for _, place in plain]


@settings(max_examples=600, deadline=None)
@given(st.lists(st.sampled_from(["a", "b.c", "@", "@x.org", ".", "org", "-", " ", "é", "a" * 30, "a.b" * 25, "%"])))
def test_addresses_are_found_around_their_signs(pieces: list[str]) -> None:
    text = "".join(pieces)
    assert [match.span() for match in _around_ats(text)] == [match.span() for match in _EMAIL.finditer(text)]


def test_ordinary_prose_shows_no_sign() -> None:
    features = batch_of([prose(n) for n in range(50)]).with_features().features
    assert {kind: int(features[f"{kind}_signs"].sum()) for kind in KINDS} == dict.fromkeys(KINDS, 0)


def test_personal_data_is_dropped_masked_or_kept(tmp_path: Path, curated: Callable) -> None:
    texts = [
        "Größe: write to ann@example.org or bob@example.org. " + prose(1),
        "My card is 4111 1111 1111 1111. " + prose(2),
        "Ask 93.184.216.34 or +49 30 1234567. " + prose(3),
        prose(4),
    ]
    source = written(tmp_path / "a.jsonl", texts)
    corpus, out = curated(sources=[source], filters=[{"name": "personal_data", "ip": "keep"}])
    left = [text for batch in corpus.documents(None) for text in batch.texts]
    assert left == [
        "Größe: write to [email] or [email]. " + prose(1),
        "Ask 93.184.216.34 or [phone]. " + prose(3),
        prose(4),
    ]
    assert out.metrics["rejects"] == {"filter.personal_data.card": 1}
    assert out.metrics["edits"] == {"personal_data.email": 2, "personal_data.phone": 1}
    assert out.metrics["funnel"]["edit"]["web"]["bytes"] == sum(len(text.encode()) for text in left)
    scores = corpus.scores().to_pydict()
    counts = {kind: scores[f"personal_data.{kind}"] for kind in KINDS}
    assert [counts["email"], counts["ip"], counts["card"]] == [[2, 0, 0, 0], [0, 0, 1, 0], [0, 1, 0, 0]]
    spans = Table(corpus.path / "edits").read().to_pylist()
    by_id = dict(zip(scores["id"], texts, strict=True))
    found = [by_id[span["id"]].encode()[span["start"] : span["end"]].decode() for span in spans]
    assert found == ["ann@example.org", "bob@example.org", "+49 30 1234567"]


# -- edits, and cuts of what is recorded ----------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.text("aé漢\n", max_size=8), min_size=1, max_size=4),
    st.lists(
        st.tuples(st.integers(0, 3), st.integers(0, 8), st.integers(0, 8), st.sampled_from(["", "[x]"])), max_size=5
    ),
)
def test_edits_are_those_of_strings(texts: list[str], drawn: list[tuple[int, int, int, str]]) -> None:
    rows = sorted(
        ((d % len(texts), *sorted((min(a, len(texts[d % len(texts)])), min(b, len(texts[d % len(texts)])))), text)
         for d, a, b, text in drawn), key=lambda row: (row[0], row[1], -row[2])
    )  # fmt: skip
    expected = []
    for d, text in enumerate(texts):
        out, at = "", 0
        for _, start, end, new in (row for row in rows if row[0] == d):
            if start >= at:
                out += text[at:start] + new
            at = max(at, end)
        expected.append(out + text[at:])
    bytes_of = lambda d, place: len(texts[d][:place].encode())
    columns = [[d for d, *_ in rows], [bytes_of(d, a) for d, a, _, _ in rows], [bytes_of(d, b) for d, _, b, _ in rows]]
    places = (np.array(column, np.int64) for column in columns)
    edits = Edits(*places, ["k"] * len(rows), [text for *_, text in rows])
    assert batch_of(texts).edited(edits).texts == expected


def test_places_inside_characters_are_refused() -> None:
    one = np.array([1])
    with pytest.raises(ValueError, match="no part of document 0"):
        batch_of(["é"]).edited(Edits(one - 1, one, one, ["k"], [""]))


def test_results_are_those_of_any_number_of_threads() -> None:
    batch = batch_of([prose(n, 300) + "\n" + PIECES[n % len(PIECES)] for n in range(64)])
    results = []
    for threads in (1, 2, 4):
        _core.set_num_threads(threads)
        distribution = WordDistribution(8)
        distribution.add(batch)
        rows, numbers, flags = _core.analyse(*batch.buffers)
        lines = [column.tolist() for column in (*numbers, *flags)]
        results.append((rows.tolist(), lines, distribution.divergence(batch).tolist()))
    _core.set_num_threads(0)
    assert results[0] == results[1] == results[2]


def test_a_corpus_is_the_same_for_any_number_of_threads(tmp_path: Path, curated: Callable) -> None:
    texts = [f"{prose(n % 50, 90)}\nMenu\n{PIECES[n % len(PIECES)]} — {prose(n, 40)} [edit]" for n in range(80)]
    source = written(tmp_path / "a.jsonl", texts)
    contents = []
    try:
        for threads in (1, 2, 4):
            _core.set_num_threads(threads)
            _, out = curated(sources=[source], filters=["gopher", "c4", "fineweb", "personal_data"])
            contents.append({str(p.relative_to(out.path)): p.read_bytes() for p in out.path.rglob("*") if p.is_file()})
    finally:
        _core.set_num_threads(0)
    assert {f"{table}/000000.parquet" for table in ("documents", "scores", "edits")} <= set(contents[0])
    assert contents[0] == contents[1] == contents[2]


def test_a_filter_that_measures_something_else_is_named() -> None:
    class Odd:
        features: frozenset[str] = frozenset()
        measures = ("a",)

        def measure(self, batch: DocumentBatch) -> dict[str, np.ndarray]:
            return {"b": np.zeros(1)}

        def judge(self, batch: DocumentBatch) -> Any:
            raise AssertionError("never asked")

    odd: Filter = Odd()
    with pytest.raises(Exception, match="L3-DAT-262"):
        measured({"odd": odd}, batch_of(["x"]))
