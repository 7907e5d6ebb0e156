"""No document takes built-in rules more than time in proportion to its size: those that would have made one of them
try again and again, at sizes at which what takes the square of it, or more, does not end."""

from __future__ import annotations

import itertools
import random
import re
from pathlib import Path

import pytest

from llama3.config.slot_types import Slot
from llama3.data.documents import DocumentBatch
from llama3.data.judging import build_filters
from llama3.data.opinions import opinion
from llama3_plugins.guards.personal_data import fold, luhn
from llama3_plugins.guards.secrets import _EXPRESSION, _web_tokens

NAME = "_".join("abcdefghijklmnopqrstuvwxyz" * 2)
PIECES = {
    "beginnings of web tokens": "-eyJ" + "a" * 10,
    "web tokens of two parts": "-eyJ" + "a" * 10 + ".",
    "names that are no expressions": f"password: {NAME}1! ",
    "ats": "@",
    "addresses that go on": "a@",
    "labels": "a.a-a@a.",
    "cards": "4111 ",
    "accounts": "GB12 ",
    "keys": "key=",
    "private keys": "-----BEGIN PRIVATE KEY-----\n",
    "numbers": "+1",
    "versions": "version 10.0.",
    "addresses of machines": "2001::",
    "phrases in one character": "\ufdfa",
    "digits of others": "\u0661",
    "invisible": "a\u200b",
    "one word": "a",
    "blanks": " ",
    "ends of lines": "\n",
    "bullets": "• ...\n",
    "brackets": "[edit[",
    "words again": "the of ",
    "quotes": '."',
}
LARGE = {"beginnings of web tokens": 3_000_000}
SIZE = 250_000


@pytest.mark.parametrize("name", PIECES)
def test_no_document_takes_more_than_its_size(tmp_path: Path, name: str) -> None:
    piece = PIECES[name]
    (tmp_path / "words").write_text("the\nof the\nthe of the of\n")
    listed = [{"name": "dirty_words", "lists": {"en": str(tmp_path / "words")}}, {"name": "url_lists"}]
    names = ["gopher", "c4", "fineweb", "repeated_lines", "personal_data", "token_distribution"]
    filters = build_filters([Slot.model_validate(slot) for slot in [*({"name": rule} for rule in names), *listed]])
    text = piece * (LARGE.get(name, SIZE) // len(piece.encode()))
    batch = DocumentBatch.of([text], source="s", urls=[f"http://a/{piece * 1000}"], language="en")
    assert len(opinion(filters, batch).keep_D) == 1


def test_a_name_is_an_expression_as_before() -> None:
    """The same language, brute force, as that of the expression which took twice as long for each underscore."""
    ambiguous = re.compile(r"[A-Za-z_][a-z_]*\d?(?:[._-][A-Za-z_]+\d?)*")
    for length in range(6):
        for letters in itertools.product("aA_1.", repeat=length):
            value = "".join(letters)
            assert (_EXPRESSION.fullmatch(value) is None) == (ambiguous.fullmatch(value) is None), value


def test_web_tokens_are_those_of_one_expression() -> None:
    whole = re.compile(r"(?<![A-Za-z0-9_])eyJ[\w-]{10,}\.eyJ[\w-]{10,}(?:\.[\w-]*)?")
    pieces = ["eyJ", "a" * 10, "-", ".", ".", "b", " ", "é", "_", "eyJ" + "c" * 10, ".eyJ" + "d" * 10, "e" * 9]
    draw = random.Random(1)
    for _ in range(4000):
        text = "".join(draw.choices(pieces, k=draw.randrange(1, 14)))
        assert list(_web_tokens(text)) == [match.span() for match in whole.finditer(text)], text


def test_luhns_digit_as_it_is_defined() -> None:
    draw = random.Random(2)
    for _ in range(2000):
        digits = "".join(draw.choices("0123456789", k=draw.randrange(1, 20)))
        doubled = [int(digit) * (1 + at % 2) for at, digit in enumerate(reversed(digits))]
        assert luhn(digits) == (sum(number // 10 + number % 10 for number in doubled) % 10 == 0)


def test_forms_that_stand_for_phrases_stay() -> None:
    assert fold("\ufdfa\uff11\u2121").text == "\ufdfa1TEL"
