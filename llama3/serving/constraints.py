"""Answers that are JSON of a schema: llguidance says after each token which may come next.

What a schema may cost is bounded where it is compiled and at each token; one that is too large or uses what is not
known is refused before the request waits.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper

from llama3.errors import ConfigError, DataError
from llama3.inference.request import Constraint
from llama3.tokenizer.chat import stop_ids
from llama3.tokenizer.tokenizer import Tokenizer

NO_SCHEMA = ConfigError.declare(
    "L3-SRV-016", "the JSON schema cannot be used", why="{error}", fix="simplify the schema"
)
NO_END = ConfigError.declare(
    "L3-SRV-017", "this model's answers have no end", why="no token of its tokenizer ends a text", fix="leave it out"
)

DEEPEST = 200
"""Schemas inside each other, references followed: a compiler that calls itself for each has no room for thousands."""
MOST_SYMBOLS = 100_000
MOST_STATES = 50_000
"""Of a grammar and its lexer."""


class Schemas:
    """Makes constraints of JSON schemas for a tokenizer and a model with `rows` tokens."""

    def __init__(self, tokenizer: Tokenizer, rows: int) -> None:
        ends = sorted(stop_ids(tokenizer))
        self._ends = np.isin(np.arange(rows), ends)
        self._tokens = LLTokenizer(TokenizerWrapper(_Vocabulary(tokenizer, ends[0])), eos_token=ends) if ends else None

    def constrain(self, schema: dict[str, Any]) -> Callable[[], Constraint]:
        """What makes the constraint of one answer. Raises ConfigError for a schema that cannot be used."""
        if self._tokens is None:
            raise NO_END("response_format")
        if _depth(schema) > DEEPEST:
            raise NO_SCHEMA("schema", error=f"it lies over {DEEPEST} schemas deep, with what it refers to")
        try:
            # In one line, as `json.dumps` writes it: a model that may write blanks may write nothing else.
            grammar = LLMatcher.grammar_from_json_schema(
                json.dumps(schema),
                overrides={"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "},
            )
        except ValueError as error:
            raise NO_SCHEMA("schema", error=error) from None
        limits = LLParserLimits(max_grammar_size=MOST_SYMBOLS, max_lexer_states=MOST_STATES, verbose_errors=False)
        matcher = LLMatcher(self._tokens, grammar, log_level=0, limits=limits)
        if matcher.is_error():
            raise NO_SCHEMA("schema", error=matcher.get_error()[:300])
        return lambda: GrammarConstraint(matcher.deep_copy(), self._ends)


class GrammarConstraint:
    """What a grammar allows next; where it allows nothing, or gives up, the end of the answer."""

    def __init__(self, matcher: LLMatcher, ends: npt.NDArray[np.bool_]) -> None:
        self._matcher, self._ends = matcher, ends

    def allowed(self) -> npt.NDArray[np.bool_]:
        """bool[rows of the model]."""
        try:
            bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        except ValueError:  # the matcher is in error
            return self._ends
        known = np.unpackbits(bits, bitorder="little")[: len(self._ends)].astype(bool)
        mask = np.zeros(len(self._ends), bool)
        mask[: len(known)] = known
        return mask if mask.any() else self._ends

    def push(self, token: int) -> None:
        """This token was drawn."""
        self._matcher.consume_token(token)


def _depth(schema: dict[str, Any]) -> int:
    """How deep a walk through a schema gets that follows every reference into itself once, or DEEPEST + 1."""
    followed: set[str] = set()
    open_: list[tuple[Any, int]] = [(schema, 1)]
    deepest = 0
    while open_:
        value, depth = open_.pop()
        deepest = max(deepest, depth)
        if depth > DEEPEST:
            break
        inner = list(value.values() if isinstance(value, dict) else value if isinstance(value, list) else ())
        reference = value.get("$ref") if isinstance(value, dict) else None
        if isinstance(reference, str) and reference not in followed:
            followed.add(reference)
            inner.append(_at(schema, reference))
        open_ += [(one, depth + 1) for one in inner if isinstance(one, dict | list)]
    return deepest


def _at(schema: dict[str, Any], reference: str) -> Any:
    """What a reference into the schema points at (RFC 6901); None: nothing that is found."""
    found: Any = schema
    for key in reference.removeprefix("#").split("/")[1:]:
        key = key.replace("~1", "/").replace("~0", "~")
        found = found.get(key) if isinstance(found, dict) else None
    return found


class _Vocabulary:
    """A tokenizer as llguidance wants it."""

    def __init__(self, tokenizer: Tokenizer, end: int) -> None:
        self.eos_token_id, self.bos_token_id = end, tokenizer.bos_id
        self.tokens = [_bytes_of(tokenizer, id) for id in range(tokenizer.vocab_size)]
        self.special_token_ids = list(tokenizer.special_tokens.values())
        self._tokenizer = tokenizer

    def __call__(self, text: bytes | str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text).tolist()
        return ids


def _bytes_of(tokenizer: Tokenizer, id: int) -> bytes:
    try:
        return tokenizer.decode_bytes([id])
    except DataError:  # a gap in the vocabulary
        return b""
