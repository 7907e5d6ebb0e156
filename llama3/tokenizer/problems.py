"""What can be wrong with a tokenizer's file, ids or names, as `DataError` with code and fix."""

from __future__ import annotations

from typing import NamedTuple

from llama3.errors import DataError, Problem


class _Kind(NamedTuple):
    code: str
    summary: str
    fix: str


# By the name that the Rust core gives its errors (core-rs/src/tokenizer/error.rs).
_KINDS = {
    "damaged": _Kind(
        "L3-TOK-001", "the tokenizer file is damaged", "get the file again; it is cut short or was changed"
    ),
    "unsupported": _Kind(
        "L3-TOK-002",
        "the file holds another kind of tokenizer",
        "use a model with byte-level BPE, whose pre-tokenizer ends with ByteLevel, as Llama 3's",
    ),
    "unknown_id": _Kind("L3-TOK-003", "no token has the id …", "decode with the tokenizer that made the ids"),
    "unknown_special": _Kind(
        "L3-TOK-004", "no special token is named …", "`special_tokens` lists the names that exist"
    ),
    "too_few_merges": _Kind(
        "L3-TOK-005", "the text yields too few merges", "train on more text or ask for a smaller vocabulary"
    ),
    "too_large": _Kind("L3-TOK-006", "a size is out of bounds", "stay within the bounds that the message names"),
    "unknown_rule": _Kind(
        "L3-TOK-011",
        "tokenizer.ggml.pre, the name of the split rule, is …",
        "use the model's Hugging Face directory, whose tokenizer.json holds the rule itself",
    ),
    "unreadable": _Kind("L3-TOK-007", "the tokenizer cannot be read", "name the tokenizer's file or its directory"),
}


def problem(kind: str, where: str, what: str) -> DataError:
    """The error of this kind. `what` says what exactly is wrong."""
    code, _, fix = _KINDS[kind]
    return DataError(Problem(code, where, what, fix=fix))


def from_core(error: Exception, where: str) -> DataError:
    """The error for a `_core.TokenizerError`."""
    kind, what = error.args
    return problem(kind, where, what)
