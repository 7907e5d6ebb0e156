"""Dialogs as ids by a model's own chat template.

A template writes one text from many messages. What of it is whose is derived, and then checked:

    layout   the template runs with a sentinel in place of each text: what stands between them is its own
    match    it runs with the contents: the same words must stand around them, else it rewrites them
    cuts     where the prompt for an assistant's answer ends: what follows is the assistant's to write
    ids      only the template's own words can be control tokens; what stands between two of those, words and
             contents, is encoded together as in the whole text, but cut where an assistant begins

Words are the text that a template writes by itself. A message has one text, or one for each of its parts; a template
that knows no parts is given them joined. Texts are counted in UTF-8 bytes where tokens are concerned.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from itertools import accumulate
from typing import Any

import numpy as np
import numpy.typing as npt

from llama3.errors import DataError
from llama3.tokenizer.chat_sandbox import ChatProgram, TemplateFailed, compile_template
from llama3.tokenizer.llama3_chat import without_leading_blank_lines
from llama3.tokenizer.messages import Message, Rendered, Role, name_of, texts_of
from llama3.tokenizer.tokenizer import Ids, Tokenizer, _without_surrogates

_PLAIN = "use a template that writes every content once, in order and as it is"
NO_TEMPLATE = DataError.declare(
    "L3-CHT-002",
    "this tokenizer has no chat template, so there is no telling how a dialog is written",
    fix="use a model trained for chat, or put its chat_template.jinja beside its tokenizer.json",
)
FAILS = DataError.declare(
    "L3-CHT-003",
    "the chat template fails",
    why="{error}",
    fix="leave out what the template does not allow, or correct the template",
)
CHANGES = DataError.declare("L3-CHT-004", "the template {changes} this message", fix=_PLAIN)
MOVES = DataError.declare("L3-CHT-005", "the template moves this message", fix=_PLAIN)
OTHER_PROMPT = DataError.declare(
    "L3-CHT-006",
    "the text up to this message is not the prompt that an answer is generated from",
    why="a model would learn to go on from a text that it never meets",
    fix="use a template whose add_generation_prompt writes what it writes before an assistant's content",
)
NO_END = DataError.declare(
    "L3-CHT-007",
    "no control token ends this message, so a model could not learn to stop",
    fix="write {{{{ eos_token }}}} after the assistant's content in the template",
)
BROKEN = DataError.declare(
    "L3-CHT-008", "the chat template cannot be used", why="{error}", fix="correct the chat template"
)
OTHER_WORDS = DataError.declare("L3-CHT-010", "the template's own words depend on what the messages say", fix=_PLAIN)

Turn = tuple[Role, int]
"""A message without what it says: its role, and the number of its parts, where 0 means that it is text."""
Turns = tuple[Turn, ...]
Edges = npt.NDArray[np.int64]

_TRIMS: tuple[Callable[[str], str], ...] = (
    lambda text: text,
    str.strip,
    str.lstrip,
    str.rstrip,
    lambda text: text.strip("\n"),
    lambda text: text.lstrip("\n"),
    lambda text: text.rstrip("\n"),
    without_leading_blank_lines,
)
"""What templates do to a content; anything else is rewriting it."""
_DIALOG = "the dialog"
_NO_TIME = datetime(2000, 1, 1)  # for templates that do not ask: their layouts are kept


def render(tokenizer: Tokenizer, messages: Sequence[Message], generation_prompt: bool) -> Rendered:
    """Ids of a dialog; see `llama3.tokenizer.chat.render`."""
    return _dialect(tokenizer, tokenizer.chat_template).render(messages, generation_prompt)


def end_id(tokenizer: Tokenizer) -> int:
    """The control token that ends an assistant's message. Raises DataError where there is none."""
    dialect = _dialect(tokenizer, tokenizer.chat_template)
    layout = dialect.layout((("user", 0), ("assistant", 0)), False, datetime.now())
    return tokenizer.special_tokens[dialect.end_of(layout, 1).group()]


@dataclass(frozen=True, slots=True)
class Layout:
    """What a template writes for a sequence of messages. Place k is the k-th of their texts in what it writes."""

    order: tuple[int, ...]
    """Number of the text at each place (a template may move a system message)."""
    owners: tuple[int, ...]
    """Index of the message it belongs to."""
    words: tuple[str, ...]
    """The template's own text before each place, and after the last."""

    def begins(self, place: int) -> bool:
        """Whether a message begins with the text at this place."""
        return place == 0 or self.owners[place - 1] != self.owners[place]

    def ends(self, place: int) -> bool:
        """Whether a message ends with the text at this place."""
        return place + 1 == len(self.owners) or self.owners[place + 1] != self.owners[place]

    def begins_with(self, other: Layout) -> bool:
        """Whether all that `other` writes stands at the beginning of this, word by word."""
        *whole, last = other.words
        number = len(whole)
        same = self.order[:number] == other.order and self.words[:number] == tuple(whole)
        return same and self.words[number].startswith(last)

    def match(self, text: str, contents: Sequence[str], turns: Turns) -> list[str]:
        """The contents as they stand in `text`, in its order. Raises DataError naming the first that is rewritten."""
        if not text.startswith(self.words[0]):
            raise OTHER_WORDS(_DIALOG)
        at = len(self.words[0])
        found: list[str] = []
        for number, owner, after in zip(self.order, self.owners, self.words[1:], strict=True):
            last = len(found) + 1 == len(self.order)
            for content in dict.fromkeys(trim(contents[number]) for trim in _TRIMS):
                end = at + len(content) + len(after)
                if text[at:end] == content + after and (not last or end == len(text)):
                    break
            else:
                raise CHANGES(name_of(owner, turns[owner][0]), changes="rewrites")
            found.append(content)
            at = end
        return found


@functools.lru_cache(maxsize=16)
def _dialect(tokenizer: Tokenizer, template: str | None) -> Dialect:
    """`template` is there for the cache: tokenizers are equal when they give equal ids."""
    if template is None:
        raise NO_TEMPLATE("tokenizer")
    try:
        return Dialect(tokenizer, compile_template(template))
    except TemplateFailed as error:
        raise BROKEN("tokenizer", error=error) from None


class Dialect:
    """A chat template with the tokenizer it was written for."""

    def __init__(self, tokenizer: Tokenizer, program: ChatProgram) -> None:
        self._tokenizer, self._program = tokenizer, program
        self._tokens = _variables(tokenizer)
        by_length = sorted(tokenizer.special_tokens, key=len, reverse=True)
        self._control = re.compile("|".join(map(re.escape, by_length)) or "(?!)")

    def render(self, messages: Sequence[Message], generation_prompt: bool) -> Rendered:
        """Ids of a dialog."""
        now = datetime.now() if self._program.tells_time else _NO_TIME
        parts = [texts_of(message.content) for message in messages]
        turns: Turns = tuple(
            (message.role, 0 if isinstance(message.content, str) else len(texts))
            for message, texts in zip(messages, parts, strict=True)
        )
        if any(number for _, number in turns) and not self._takes_parts(turns, generation_prompt, now):
            turns, parts = tuple((role, 0) for role, _ in turns), [["".join(texts)] for texts in parts]
        contents = [_without_surrogates(text) for texts in parts for text in texts]
        layout = self.layout(turns, generation_prompt, now)
        written = layout.match(self._text(turns, contents, generation_prompt, now), contents, turns)
        cuts = self._cuts(layout, turns, generation_prompt, now)
        ids, edges = self._ids(layout, written, cuts)
        learnt = [] if generation_prompt else [k for k, i in enumerate(layout.owners) if turns[i][0] == "assistant"]
        ends = {place: self.end_of(layout, place).end() for place in learnt if layout.ends(place)}
        return self._rendered(ids, edges, layout, written, cuts, ends)

    def _takes_parts(self, turns: Turns, generation_prompt: bool, now: datetime) -> bool:
        """Whether the template writes the text of every part."""
        try:
            self.layout(turns, generation_prompt, now)
        except DataError:
            return False
        return True

    # -- what the template writes --------------------------------------------------------------

    def layout(self, turns: Turns, generation_prompt: bool, now: datetime) -> Layout:
        """Raises DataError where the template refuses, drops, repeats or moves a message."""
        return _layout(self, turns, generation_prompt, now if self._program.tells_time else _NO_TIME)

    def _text(self, turns: Turns, contents: Sequence[str], generation_prompt: bool, now: datetime) -> str:
        messages = _messages(turns, contents)
        try:
            return self._write(messages, generation_prompt, now)
        except TemplateFailed as error:
            where = self._refused(messages, generation_prompt, now, str(error))
            raise FAILS(where, error=error) from None

    def _write(self, messages: Sequence[Mapping[str, Any]], generation_prompt: bool, now: datetime) -> str:
        return self._program.text(messages, generation_prompt=generation_prompt, tokens=self._tokens, now=now)

    def _refused(
        self, messages: Sequence[Mapping[str, Any]], generation_prompt: bool, now: datetime, reason: str
    ) -> str:
        """Name of the message with which the template begins to fail for this reason."""
        for index, message in enumerate(messages):
            try:
                self._write(messages[: index + 1], generation_prompt, now)
            except TemplateFailed as error:
                if str(error) == reason:
                    return name_of(index, message["role"])
        return _DIALOG

    def _cuts(self, layout: Layout, turns: Turns, generation_prompt: bool, now: datetime) -> dict[int, int]:
        """Where in the words before an assistant's content the prompt ends: place in the text -> characters.

        A template may write earlier turns in another way than when they were answered (without their reasoning, say):
        there the prompt ends where the content begins. The last turn is what is to be answered: it must not differ.
        """
        cuts = {}
        for place, index in enumerate(layout.owners):
            role, _ = turns[index]
            if role != "assistant" or not layout.begins(place):
                continue
            prompt = self._prompt(turns[:index], now)
            cuts[place] = len(layout.words[place])
            if prompt is not None and layout.begins_with(prompt):
                cuts[place] = len(prompt.words[-1])
            elif index == len(turns) - 1 and not generation_prompt:
                raise OTHER_PROMPT(name_of(index, role))
        return cuts

    def _prompt(self, turns: Turns, now: datetime) -> Layout | None:
        try:
            return self.layout(turns, True, now)
        except DataError:
            return None

    def end_of(self, layout: Layout, place: int) -> re.Match[str]:
        """The control token that ends a content, in the words after it. Raises DataError where there is none."""
        found = self._control.search(layout.words[place + 1])
        if found is None:
            raise NO_END(name_of(layout.owners[place], "assistant"))
        return found

    # -- ids -----------------------------------------------------------------------------------

    def _ids(self, layout: Layout, written: Sequence[str], cuts: dict[int, int]) -> tuple[Ids, Edges]:
        runs: list[str | int] = [""]  # texts that are encoded each by itself, and ids of control tokens
        for place, words in enumerate(layout.words):
            cut = cuts.get(place, len(words))
            self._add(runs, words[:cut])
            if place in cuts:
                runs.append("")
                self._add(runs, words[cut:])
            if place < len(written):
                runs[-1] = f"{runs[-1]}{written[place]}"
        return self._encoded(runs)

    def _encoded(self, runs: Sequence[str | int]) -> tuple[Ids, Edges]:
        """Ids of the runs, and where each token begins in the text and the last one ends. Runs begin exactly where they
        do; inside of one whose text is normalized, which changes its size, edges are in proportion."""
        ids, starts = self._tokenizer.encode_batch([run for run in runs if isinstance(run, str)])
        cuts = starts[1:-1].astype(np.int64)
        rows = zip(np.split(ids, cuts), np.split(_token_sizes(self._tokenizer, ids), cuts), strict=True)
        parts, edges, at = [], [np.zeros(1, np.int64)], 0
        for run in runs:
            if isinstance(run, int):
                row = np.array([run], np.uint32)
                ends = _token_sizes(self._tokenizer, row)
                size = int(ends[0])
            else:
                row, sizes = next(rows)
                ends, size = np.cumsum(sizes), _size(run)
                if len(ends) and ends[-1] != size:
                    ends = ends * size // ends[-1]
            parts.append(row)
            edges.append(at + ends)
            at += size
        return np.concatenate(parts), np.concatenate(edges)

    def _add(self, runs: list[str | int], words: str) -> None:
        """Continue the last run with a template's words, and begin another after each control token in them."""
        at = 0
        for control in self._control.finditer(words):
            runs[-1] = f"{runs[-1]}{words[at : control.start()]}"
            runs += [self._tokenizer.special_tokens[control.group()], ""]
            at = control.end()
        runs[-1] = f"{runs[-1]}{words[at:]}"

    def _rendered(
        self,
        ids: Ids,
        edges: Edges,
        layout: Layout,
        written: Sequence[str],
        cuts: dict[int, int],
        ends: dict[int, int],
    ) -> Rendered:
        """Say of each token whose it is, from its place among the bytes of the text."""
        sizes = [_size(text) for pair in zip(layout.words, [*written, ""], strict=True) for text in pair]
        offsets = [0, *accumulate(sizes)]  # of the words (even) and the contents (odd)
        is_format, is_target = np.ones(len(ids), bool), np.zeros(len(ids), bool)
        message_starts = [0] * (max(layout.owners, default=-1) + 1)
        learnt_from = 0
        for place, index in enumerate(layout.owners):
            words, content, after = offsets[2 * place : 2 * place + 3]
            if content < after:
                first, last = np.searchsorted(edges, content, "right") - 1, np.searchsorted(edges, after)
                is_format[first:last] = False
            if place in cuts:
                learnt_from = words + _size(layout.words[place][: cuts[place]])
            if place in ends:
                end = after + _size(layout.words[place + 1][: ends[place]])
                is_target[np.searchsorted(edges, learnt_from) : np.searchsorted(edges, end)] = True
            if place > 0 and layout.begins(place):
                begin = min(self._end_of_message(layout.words[place]), cuts.get(place, len(layout.words[place])))
                start = words + _size(layout.words[place][:begin])
                message_starts[index] = int(np.searchsorted(edges, start))
        return Rendered(ids, is_target, is_format, message_starts)

    def _end_of_message(self, words: str) -> int:
        """Of the words between two contents, those that belong to the first: its end token and the space after it."""
        control = self._control.search(words)
        if control is None:
            return 0
        rest = words[control.end() :]
        return control.end() + len(rest) - len(rest.lstrip())


@functools.lru_cache(maxsize=1024)
def _layout(dialect: Dialect, turns: Turns, generation_prompt: bool, now: datetime) -> Layout:
    owners = [index for index, (_, parts) in enumerate(turns) for _ in range(parts or 1)]
    sentinels = [f"\ue5f1{number}\ue5f2" for number in range(len(owners))]  # of a private use area
    text = dialect._text(turns, sentinels, generation_prompt, now)
    for owner, sentinel in zip(owners, sentinels, strict=True):
        if sentinel not in text:
            raise CHANGES(name_of(owner, turns[owner][0]), changes="drops")
        if text.count(sentinel) > 1:
            raise CHANGES(name_of(owner, turns[owner][0]), changes="repeats")
    order = sorted(range(len(owners)), key=lambda number: text.index(sentinels[number]))
    _check_order(order, owners, turns)
    pieces = re.split("\ue5f1[0-9]+\ue5f2", text)
    return Layout(tuple(order), tuple(owners[number] for number in order), tuple(pieces))


def _messages(turns: Turns, contents: Sequence[str]) -> list[dict[str, Any]]:
    """As templates are given them; `contents` are the texts of all messages."""
    rest = iter(contents)
    return [
        {"role": role, "content": [{"type": "text", "text": next(rest)} for _ in range(parts)] if parts else next(rest)}
        for role, parts in turns
    ]


def _check_order(order: Sequence[int], owners: Sequence[int], turns: Turns) -> None:
    said = [number for number in order if turns[owners[number]][0] != "system"]
    for number, wanted in zip(said, sorted(said), strict=True):
        if number != wanted:
            owner = owners[wanted]
            raise MOVES(name_of(owner, turns[owner][0]))


def _variables(tokenizer: Tokenizer) -> dict[str, str]:
    """`bos_token` and so on, as far as the tokenizer has them."""
    ids = {"bos_token": tokenizer.bos_id, "pad_token": tokenizer.pad_id}
    with suppress(DataError):  # no end of a text is named
        ids["eos_token"] = tokenizer.eos_id
    names = {id: name for name, id in tokenizer.special_tokens.items()}
    return {role: names[id] for role, id in ids.items() if id is not None}


def _size(text: str) -> int:
    return len(text.encode())


def _token_sizes(tokenizer: Tokenizer, ids: Ids) -> Edges:
    """Bytes of each token."""
    known = _known_sizes(tokenizer)
    for id in np.unique(ids[known[ids] == 0]):
        known[id] = len(tokenizer.decode_bytes([id]))
    return known[ids]


@functools.lru_cache(maxsize=4)
def _known_sizes(tokenizer: Tokenizer) -> Edges:
    """By id; 0: not asked for yet."""
    return np.zeros(tokenizer.vocab_size, np.int64)
