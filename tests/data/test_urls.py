"""Addresses of one page have one spelling, and the newest version of a page stays."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from data_texts import prose
from hypothesis import given
from hypothesis import strategies as st

from llama3.data.urls import _taken_apart, date_key, normalised_url


@pytest.mark.parametrize(
    ("url", "same"),
    [
        ("http://A.Example", "https://a.example/"),
        ("http://a.example:80/x", "https://a.example:443/x"),
        ("https://user:pass@a.example./x#part", "https://a.example/x"),
        ("https://a.example/x?utm_source=m&b=2&a=1&fbclid=q", "https://a.example/x?a=1&b=2"),
        ("https://a.example/%7euser/%c3%a9", "https://a.example/~user/é"),
        ("https://a.example/a/./b/../c", "https://a.example/a/c"),
        ("https://a.example/../x?", "https://a.example/x"),
        ("https://bücher.example/", "https://xn--bcher-kva.example/"),
        (" https://a.example/a b ", "https://a.example/a%20b"),
    ],
)
def test_spellings_of_one_page(url: str, same: str) -> None:
    assert normalised_url(url) == normalised_url(same) != ""


@pytest.mark.parametrize(
    ("url", "other"),
    [
        ("https://a.example/x", "https://a.example/X"),
        ("https://a.example/x", "https://a.example/x/"),
        ("https://a.example/x", "https://b.a.example/x"),
        ("https://a.example:8080/x", "https://a.example/x"),
        ("https://a.example/?p=1", "https://a.example/?p=2"),
        ("https://a.example/a%2Fb", "https://a.example/a/b"),
        ("https://a.example/?utm=1", "https://a.example/"),
    ],
)
def test_other_pages_are_others(url: str, other: str) -> None:
    assert "" != normalised_url(url) != normalised_url(other) != ""


@pytest.mark.parametrize(
    "url", ["", "/home/x.txt", "x.jsonl:3", "ftp://a.example/", "http://", "https://a:b:c/", "stdlib:os"]
)
def test_what_is_no_web_address_is_none(url: str) -> None:
    assert normalised_url(url) == ""


@given(st.text(), st.text(alphabet="aé%2F?&=./~ #;", max_size=20))
def test_any_text_is_taken_and_a_normal_form_stays(anything: str, tail: str) -> None:
    normalised_url(anything)
    found = normalised_url(f"https://a.example/{tail}")
    assert found.startswith("a.example/")
    assert normalised_url(f"https://{found}") == found


@given(
    st.sampled_from(["http://", "HTTPS://", "https://a."]),
    st.text(alphabet="aZ.-:@/%?~_9é ", max_size=12),
    st.text(alphabet="aZ./~_-%;", max_size=12),
)
def test_plain_addresses_are_those_that_were_taken_apart(scheme: str, host: str, path: str) -> None:
    url = f"{scheme}{host}/{path}"
    assert normalised_url(url) == _taken_apart(url)


def test_dates_are_in_order() -> None:
    dates = [
        "",
        "2022",
        "2022-12",
        "2022-12-31",
        "2023-01-01",
        "2023-01-01T00:00:09Z",
        "20230101000100",
        "2023-01-02 07:00",
    ]
    keys = list(map(date_key, dates))
    assert keys == sorted(keys)
    assert keys[0] == keys[1] == date_key("yesterday") == 0
    assert len(set(keys)) == len(keys) - 1


def test_the_newest_version_of_a_page_stays(tmp_path: Path, curated: Callable) -> None:
    rows = [
        ("http://a.example/p?utm_source=x", "2022-01-01"),
        ("https://a.example/p#top", "2023-05-05T10:00:00Z"),
        ("https://a.example/p", "2023-05-05"),
        ("https://a.example/q", ""),
        ("https://A.example/q", ""),
        ("", "2023-01-01"),
        ("", "2022-01-01"),
    ]
    lines = [json.dumps({"text": prose(n), "url": url, "date": date}) for n, (url, date) in enumerate(rows)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines[:3]))
    (tmp_path / "b.jsonl").write_text("\n".join(lines[3:]))
    sources = [{"name": "jsonl", "path": str(tmp_path)}]
    corpus, out = curated(sources=sources, filters=[], held_out=0.001)
    kept = {text for batch in corpus.documents(None) for text in batch.texts}
    assert kept == {prose(n) for n in (1, 3, 5, 6)}
    assert out.metrics["rejects"] == {"url.same_address": 3}
    assert corpus.funnel["url"]["jsonl"]["documents"] == 4
    assert {row["detail"] for row in corpus.rejects().to_pylist()} == {
        f"of {id}" for batch in corpus.documents(None) for id, text in zip(batch.column("id"), batch.texts, strict=True)
        if text in (prose(1), prose(3))
    }  # fmt: skip
    whole, _ = curated(sources=sources, filters=[], held_out=0.001, urls=False)
    assert len(whole) == 7
