"""Which tokens a chat template's own words become, and that no content ever becomes one of those.

Many tokenizers do not flag their turn markers as special (DeepSeek's, many ChatML finetunes): they are added tokens,
found in any text. Whatever added token a template writes is a control token here; contents spell it out.

A token that only answers hold (`<think>`, which no prompt has) is the assistant's own to write: there it is a token,
as generation gives it and as transformers reads it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from llama3.tokenizer.tokenizer import Ids, Tokenizer

Edges = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Spelling:
    """How the words of a template, the contents of an assistant and those of all others become ids."""

    others: Tokenizer
    """To which every token that the template writes is a control token."""
    answers: Tokenizer
    """To which every such token that stands in prompts is one."""

    @property
    def ids(self) -> Mapping[str, int]:
        """Of every control token by its name."""
        return self.others.special_tokens

    @cached_property
    def control(self) -> re.Pattern[str]:
        return any_of(self.ids)

    @cached_property
    def sizes(self) -> Edges:
        """Bytes of the tokens by id; 0: not asked for yet."""
        return np.zeros(self.others.vocab_size, np.int64)

    def runs(self) -> Runs:
        """To be filled with a dialog."""
        return Runs(self)


def spelling_of(tokenizer: Tokenizer, written: Iterable[str], in_prompts: Iterable[str]) -> Spelling:
    """Of a tokenizer whose template writes all of this, and this of it in prompts."""
    markers = any_of(name for name in tokenizer.added_tokens if _is_marker(name))
    prompted = {name for words in in_prompts for name in markers.findall(words)}
    names = prompted | {name for words in written for name in markers.findall(words)}
    others = tokenizer.with_special(names) if names else tokenizer
    return Spelling(others, others if names == prompted else tokenizer.with_special(prompted))


def any_of(names: Iterable[str]) -> re.Pattern[str]:
    """Finds the longest of the names at each place."""
    return re.compile("|".join(map(re.escape, sorted(names, key=len, reverse=True))) or "(?!)")


def _is_marker(name: str) -> bool:
    """Whether an added token can be structure; a word or a run of blanks that is a token of its own is text."""
    return len(name) > 1 and any(not char.isalnum() and not char.isspace() for char in name)


@dataclass
class _Run:
    """A text that is encoded by itself, or a control token with the blanks that it takes along."""

    text: str = ""
    id: int | None = None
    is_answer: bool = False
    """Nothing but an assistant's own."""


class Runs:
    """A dialog's text in the order it is written, cut at control tokens and where an assistant begins."""

    def __init__(self, spelling: Spelling) -> None:
        self._spelling = spelling
        self._runs = [_Run()]
        self._in_answer = self._has_content = False

    def begin_answer(self) -> None:
        """What follows is an assistant's to write, up to the control token after its content."""
        self._in_answer, self._has_content = True, False
        self._runs.append(_Run(is_answer=True))

    def add_content(self, content: str, is_answer: bool) -> None:
        """Continue the last run with what a message says."""
        last = self._runs[-1]
        last.text += content
        last.is_answer &= is_answer
        self._has_content = True

    def add_words(self, words: str) -> None:
        """Continue the last run with a template's words, and begin another after each control token in them."""
        at, last = 0, self._runs[-1]
        for control in self._spelling.control.finditer(words):
            id = self._spelling.ids[control.group()]
            before, after = self._spelling.others.strips.get(id, (False, False))
            start, end = control.span()
            if before:
                start = at + len(words[at:start].rstrip())
            if after:
                end += len(words[end:]) - len(words[end:].lstrip())
            last.text += words[at:start]
            self._in_answer &= not self._has_content
            last = _Run(is_answer=self._in_answer)
            self._runs += [_Run(words[start:end], id), last]
            at = end
        last.text += words[at:]

    def encoded(self) -> tuple[Ids, Edges]:
        """Ids, and where each token begins in the text and the last one ends. Runs begin exactly where they do; inside
        of one whose text is normalized, which changes its size, edges are in proportion."""
        texts = {is_answer: [run.text for run in self._runs if run.id is None and run.is_answer == is_answer]
                 for is_answer in (False, True)}  # fmt: skip
        rows = {
            False: self._rows(self._spelling.others, texts[False]),
            True: self._rows(self._spelling.answers, texts[True]),
        }
        parts, edges, at = [], [np.zeros(1, np.int64)], 0
        for run in self._runs:
            size = size_of(run.text)
            if run.id is not None:
                row, ends = np.array([run.id], np.uint32), np.array([size])
            else:
                row = next(rows[run.is_answer])
                ends = np.cumsum(self._sizes(row))
                if len(ends) and ends[-1] != size:
                    ends = ends * size // ends[-1]
            parts.append(row)
            edges.append(at + ends)
            at += size
        return np.concatenate(parts), np.concatenate(edges)

    @staticmethod
    def _rows(tokenizer: Tokenizer, texts: Sequence[str]) -> Iterator[Ids]:
        ids, starts = tokenizer.encode_batch(texts)
        return iter(np.split(ids, starts[1:-1].astype(np.int64)))

    def _sizes(self, ids: Ids) -> Edges:
        """Bytes of each token."""
        known = self._spelling.sizes
        for id in np.unique(ids[known[ids] == 0]):
            known[id] = len(self._spelling.others.decode_bytes([id]))
        return known[ids]


def size_of(text: str) -> int:
    """Bytes in UTF-8."""
    return len(text.encode())
