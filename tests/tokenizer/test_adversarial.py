"""Inputs that make other tokenizers quadratic, panic or overflow their stack: 1 MB of each ends, with the right ids.

There is no limit of time here beyond pytest's own; a quadratic path would take hours.
"""

from __future__ import annotations

import base64
import random
import string

import numpy as np
import pytest

from llama3.tokenizer import Tokenizer

SIZE = 1_000_000
RNG = random.Random(6)


def repeated(unit):
    return unit * (SIZE // len(unit.encode()))


KINDS = {
    "letters": repeated("a"),
    "alternating letters": repeated("ab"),
    "spaces before a word": " " * SIZE + "x",
    "spaces": " " * SIZE,
    "tabs and spaces": repeated("\t ") + "x",
    "carets": repeated("^"),
    "line feeds": repeated("\n"),
    "line feeds and spaces": repeated("\n ") + "x",
    "one line feed, then spaces": "\n" + " " * SIZE + "x",
    "carriage returns": repeated("\r\n"),
    "symbols and line feeds": repeated("!\n"),
    "quotes": repeated("'"),
    "contractions": repeated("'s"),
    "digits": repeated("7"),
    "random letters": "".join(RNG.choices(string.ascii_lowercase, k=SIZE)),
    "random Han": "".join(chr(RNG.randrange(0x4E00, 0x9FFF)) for _ in range(SIZE // 3)),
    "Thai": "".join(chr(RNG.randrange(0xE01, 0xE2F)) for _ in range(SIZE // 3)),
    "emoji": repeated("😀"),
    "family emoji": repeated("👨‍👩‍👧‍👦"),
    "combining marks": "a" + repeated("\u0301"),
    "base64": base64.b64encode(RNG.randbytes(SIZE * 3 // 4)).decode(),
    "non-breaking spaces": repeated("\xa0") + "x",
    "NUL": repeated("\0"),
    "special tokens": repeated("<|eot_id|>"),
    "beginnings of special tokens": repeated("<|eot_id"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_megabyte_of(llama3, kind):
    text = KINDS[kind]
    ids = llama3.encode(text)
    assert llama3.decode(ids) == text
    assert llama3.count(text) == len(ids)
    assert int(ids.max()) < llama3.bos_id
    if "special" in kind:
        control = llama3.encode(text, allowed_special="all")
        assert llama3.decode(control) == text


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("spaces before a word", "tabs and spaces")])
def test_the_ids_are_the_references(llama3, reference, kind):
    text = KINDS[kind][:5000]
    assert llama3.encode(text).tolist() == reference.encode_ordinary(text)


def test_a_batch_of_such_texts(llama3):
    texts = [text[:20_000] for text in KINDS.values()]
    ids, starts = llama3.encode_batch(texts)
    assert np.array_equal(ids, np.concatenate([llama3.encode(text) for text in texts]))
    assert len(starts) == len(texts) + 1


def test_bytes_that_never_become_utf8(llama3):
    for data in (b"\xff" * SIZE, b"a" * SIZE + b"\xf0", b" " * SIZE + b"\xe4\xb8", RNG.randbytes(SIZE)):
        assert llama3.decode_bytes(llama3.encode(data)) == data


@pytest.mark.parametrize("text", ["a" * SIZE, " " * SIZE, "ab" * SIZE, "\n" * SIZE])
def test_training_on_one_endless_word(text):
    """Tokens stay within 1024 bytes, so such a text yields few merges; the rest must still be learned."""
    tokenizer = Tokenizer.train([text, "one two three four five six"], 256 + 24 + 12, 12)
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert len(tokenizer.encode(text)) < len(text) / 100
