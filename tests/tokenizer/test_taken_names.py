"""An added token with the name of a token of bytes and another id cannot be kept in a file: it is refused at once."""

from __future__ import annotations

import pytest
from tokenizers.pre_tokenizers import ByteLevel

from llama3 import _core
from llama3.errors import DataError
from llama3.tokenizer import Tokenizer
from llama3.tokenizer.byte_names import BYTE_OF, bytes_named

BASE = [*(bytes([byte]) for byte in range(256)), b"th", b"the", b" the"]


@pytest.mark.parametrize("name", ["the", "\u0120the", "t", "\u0120"])
def test_a_name_that_is_taken_is_refused(name):
    with pytest.raises(DataError, match="L3-CLI-042"):
        Tokenizer(_core.Bpe(BASE, [(259, "<s>"), (260, name)]))


@pytest.mark.parametrize("name", [" the", "thee", "<s>", "the the", "\u65e5"])
def test_other_names_are_kept(name, tmp_path):
    tokenizer = Tokenizer(_core.Bpe(BASE, [(259, "<|x|>"), (260, name)]))
    tokenizer.save(tmp_path)
    assert Tokenizer.load(tmp_path) == tokenizer


def test_the_alphabet_is_byte_level_s():
    assert set(BYTE_OF) == set(ByteLevel.alphabet())
    for byte in range(0x80):  # what one character of text is made of
        ((written, _),) = ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(chr(byte))
        assert bytes_named(written) == bytes([byte])
    assert bytes_named("the brown") is None
