"""YAML as people mean it, with places."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama3.config.yaml import dump, parse, parse_value
from llama3.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5e-7", 5e-7),
        ("1e3", 1000.0),
        ("-.5", -0.5),
        ("3.", 3.0),
        ("010", 10),
        ("0x1f", 31),
        ("0o17", 15),
        ("+7", 7),
        ("no", "no"),
        ("yes", "yes"),
        ("on", "on"),
        ("12:30:00", "12:30:00"),
        ("2024-07-31", "2024-07-31"),
        ("1.2.3", "1.2.3"),
        ("null", None),
        ("~", None),
        ("true", True),
        ("False", False),
        ("'5'", "5"),
        ('""', ""),
        ("", ""),
        ("[1, no, {a: 2}]", [1, "no", {"a": 2}]),
        (".inf", math.inf),
    ],
)
def test_scalars_follow_yaml_1_2(text, value):
    got = parse_value(text, "--set x")
    assert got == value
    assert type(got) is type(value)


def test_marks_point_at_keys_and_items():
    parsed = parse("a:\n  b: 1\nlist:\n  - x\n  - {k: 2}\n")
    assert parsed.marks[("a",)] == "1:1"
    assert parsed.marks[("a", "b")] == "2:3"
    assert parsed.marks[("list", 0)] == "4:5"
    assert parsed.marks[("list", 1, "k")] == "5:6"


@pytest.mark.parametrize(
    ("text", "where", "what"),
    [
        ("a: 1\nb: 2\na: 3\n", "f.yaml:3:1: a", "duplicate key; first at line 1"),
        ("model:\nrun: {seed: 1}\n", "f.yaml:1:1: model", "nothing after the colon"),
        ("a: [1,\n", "f.yaml:2:1", "not valid YAML"),
        ("a:\n\t- 1\n", "f.yaml:2:1", "not valid YAML"),
        ("", "f.yaml", "nothing in it"),
        ("# only a comment\n", "f.yaml", "nothing in it"),
        ("a: &x 1\nb: *x\n", "f.yaml:2:1: b", "anchors"),
        ("a: !!python/name:os.system ''\n", "f.yaml:1:1: a", "tag"),
        ("? [1, 2]\n: 3\n", "f.yaml:1:1", "a key must be text"),
        ("a: 1\n---\nb: 2\n", "f.yaml:2:1", "not valid YAML"),
        ("a: \x00\n", "f.yaml", "not valid YAML"),
    ],
)
def test_what_is_refused_is_named_with_its_place(text, where, what):
    with pytest.raises(ConfigError) as caught:
        parse(text, "f.yaml")
    (problem,) = caught.value.problems
    assert problem.where == where
    assert what in problem.what


def test_all_problems_at_once():
    with pytest.raises(ConfigError) as caught:
        parse("a:\nb: 1\nb: 2\nc:\n", "f.yaml")
    assert len(caught.value.problems) == 3


def test_a_recursive_alias_ends():
    with pytest.raises(ConfigError, match="anchors"):
        parse("a: &a [*a]\n", "f.yaml")


LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters(codec="utf-8"))
DATA = st.recursive(LEAVES, lambda inner: st.lists(inner) | st.dictionaries(st.text("abc5.~ -", min_size=1), inner))


@settings(max_examples=50)
@given(st.dictionaries(st.text("abc", min_size=1), DATA, min_size=1))
def test_dump_is_read_back_equal(data):
    assert repr(parse(dump(data)).data) == repr(data)
