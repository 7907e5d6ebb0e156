"""What people hand to a tokenizer: the right thing happens, or a clear refusal, and never another text in silence."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from llama3.testing.toys import toy_tokenizer
from llama3.tokenizer import Tokenizer

TEXTS = ["a river", "", "zwei ✓"]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return toy_tokenizer()


@pytest.mark.parametrize(
    "column",
    [
        tuple,
        iter,
        np.array,
        pa.array,
        lambda texts: pa.chunked_array([texts[:1], texts[1:]]),
        lambda t: pa.array(t)[0:],
    ],
)
def test_a_batch_is_any_column_of_texts(tokenizer, column):
    for got, wanted in zip(tokenizer.encode_batch(column(TEXTS)), tokenizer.encode_batch(TEXTS), strict=True):
        np.testing.assert_array_equal(got, wanted)


def test_batches_are_decoded_row_by_row(tokenizer):
    rows = [tokenizer.encode(text) for text in TEXTS]
    assert tokenizer.decode_batch(rows) == TEXTS
    assert tokenizer.decode_batch([]) == []
    with pytest.raises(TypeError, match="decode_batch"):
        tokenizer.decode([[65, 66], [67, 68]])
    with pytest.raises(TypeError, match="decode_batch"):
        tokenizer.decode_bytes(np.array([[65], [66]]))


def test_one_string_is_not_taken_for_texts(tokenizer):
    with pytest.raises(TypeError, match="one string"):
        Tokenizer.train("a river and a bridge " * 1000, 300, 16)
    with pytest.raises(TypeError, match="one string"):
        tokenizer.encode_batch("a river")
    for wrong in (["a"], None, 3):
        with pytest.raises(TypeError):
            tokenizer.encode(wrong)
    with pytest.raises(TypeError):
        tokenizer.encode_batch(["a", None])
