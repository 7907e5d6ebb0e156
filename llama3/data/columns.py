"""Texts of any kind as one Arrow column, and what of Python's strings Arrow cannot hold."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llama3.errors import DataError

SURROGATE = re.compile("[\ud800-\udfff]")
NOT_TEXTS = DataError.declare(
    "L3-DAT-111", "{given} given where texts are wanted", fix="give a list of strings, or one Arrow column of text"
)
HALF_A_PAIR = "it holds half of a surrogate pair, which is no character"
HAS_NUL = "it holds a NUL character"
VISIBLE = re.compile(
    "[^\\s\x00-\x1f\x7f-\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e"
    "\u2060-\u206f\u2800\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
    "\U000e0000-\U000e0fff]"
)
"""A character that can be seen: no space, no control character, and none of those that Unicode lets be drawn as nothing
(Default_Ignorable_Code_Point) or as an empty cell."""
NOTHING_VISIBLE = "it holds no character that can be seen"
NOT_A_TEXT = DataError.declare("L3-DAT-112", "text {number} is no text", why="{error}")


def text_column(texts: Any) -> pa.Array:
    """Texts (any iterable of str, or an Arrow array or column of text in any layout) as one `large_string` array.

    Raises DataError: L3-DAT-111 for what holds no texts at all, L3-DAT-112 naming the first item that is none.
    """
    if isinstance(texts, str | bytes | Mapping | pa.Table | pa.RecordBatch):
        raise NOT_TEXTS("texts", given=f"a {type(texts).__name__}")
    if not isinstance(texts, pa.Array | pa.ChunkedArray) and hasattr(texts, "__arrow_c_stream__"):
        texts = pa.chunked_array(texts)
    if isinstance(texts, pa.Array | pa.ChunkedArray):
        column = plain(texts)
        if not is_text(column.type):
            raise NOT_TEXTS("texts", given=f"a column of {column.type}")
        return _whole(column)
    if not isinstance(texts, Iterable):
        raise NOT_TEXTS("texts", given=f"a {type(texts).__name__}")
    listed = list(texts)
    for number, text in enumerate(listed):
        if not isinstance(text, str | bytes):
            raise NOT_A_TEXT("texts", number=number, error=f"it is a {type(text).__name__}")
    try:
        return pa.array(listed, pa.large_string())
    except UnicodeEncodeError:
        number = next(n for n, text in enumerate(listed) if isinstance(text, str) and printable(text) != text)
        raise NOT_A_TEXT("texts", number=number, error=HALF_A_PAIR) from None


def _whole(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    """One array without nulls."""
    try:
        array = column.cast(pa.large_string())
    except pa.ArrowException as error:
        raise NOT_TEXTS("texts", given=f"a column of {column.type} that is not all UTF-8") from error
    array = array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array
    if array.null_count:
        number = int(np.argmax(np.asarray(array.is_null(), bool)))
        raise NOT_A_TEXT("texts", number=number, error="it is null")
    return array


def plain(column: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """A column without dictionary, run-length and extension layouts: each value stands for itself."""
    while True:
        kind = column.type
        if isinstance(kind, pa.BaseExtensionType):
            column = column.cast(kind.storage_type)
        elif pa.types.is_dictionary(kind):
            column = column.cast(kind.value_type)
        elif pa.types.is_run_end_encoded(kind):
            column = pc.run_end_decode(column)
        elif kind == pa.string_view():
            column = column.cast(pa.large_string())
        elif kind == pa.binary_view():
            column = column.cast(pa.large_binary())
        else:
            return column


def is_text(kind: pa.DataType) -> bool:
    """Whether a plain column of this type holds text, or bytes that may be text."""
    tests = (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary)
    return any(test(kind) for test in tests)


def printable(text: str) -> str:
    """`text` with what no encoding knows written out: halves of surrogate pairs, and bytes of file names that are not
    UTF-8 (`caf\\xe9.txt`)."""
    return text if text.isascii() else SURROGATE.sub(_written_out, text)


def _written_out(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else f"\\u{code:04x}"
