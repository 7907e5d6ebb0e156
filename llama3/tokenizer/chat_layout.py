"""What a chat template writes for messages, whatever they say: its own words, and the places of theirs."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from llama3.errors import DataError
from llama3.tokenizer.llama3_chat import without_leading_blank_lines
from llama3.tokenizer.messages import Role, name_of

_PLAIN = "use a template that writes every content once, in order and as it is"
CHANGES = DataError.declare("L3-CHT-004", "the template {changes} this message", fix=_PLAIN)
MOVES = DataError.declare("L3-CHT-005", "the template moves this message", fix=_PLAIN)
OTHER_WORDS = DataError.declare("L3-CHT-010", "the template's own words depend on what the messages say", fix=_PLAIN)

Turn = tuple[Role, int]
"""A message without what it says: its role, and the number of its parts, where 0 means that it is text."""
Turns = tuple[Turn, ...]

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
DIALOG = "the dialog"
_SENTINEL = "\ue5f1{}\ue5f2"
"""Stands for a text; of a private use area."""


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
            raise OTHER_WORDS(DIALOG)
        at = len(self.words[0])
        found: list[str] = []
        for number, owner, after in zip(self.order, self.owners, self.words[1:], strict=True):
            last = len(found) + 1 == len(self.order)
            for content in _spellings(contents[number], turns[owner][0]):
                end = at + len(content) + len(after)
                if text[at:end] == content + after and (not last or end == len(text)):
                    break
            else:
                raise CHANGES(name_of(owner, turns[owner][0]), changes="rewrites")
            found.append(content)
            at = end
        return found


def sentinels(turns: Turns) -> list[str]:
    """A text for each place, which no template writes by itself."""
    return [_SENTINEL.format(number) for number in range(sum(parts or 1 for _, parts in turns))]


def read_layout(text: str, turns: Turns) -> Layout:
    """The layout of what a template wrote with `sentinels` in place of the texts.

    Raises DataError where it drops, repeats or moves a message.
    """
    owners = [index for index, (_, parts) in enumerate(turns) for _ in range(parts or 1)]
    *words, last = re.split(_SENTINEL.format("([0-9]+)"), text)
    order = [int(number) for number in words[1::2]]
    counts = Counter(order)
    for number, owner in enumerate(owners):
        if counts[number] != 1:
            changes = "repeats" if counts[number] else "drops"
            raise CHANGES(name_of(owner, turns[owner][0]), changes=changes)
    _check_order(order, owners, turns)
    return Layout(tuple(order), tuple(owners[number] for number in order), (*words[::2], last))


def _spellings(content: str, role: Role) -> Iterator[str]:
    """What a template may write for a content: all but some whitespace of it; of what no assistant says, also the
    inside of a JSON string (a tool's results, as Llama 3.1 is told them)."""
    trimmed = dict.fromkeys(trim(content) for trim in _TRIMS)
    yield from trimmed
    if role != "assistant":
        yield from (json.dumps(text, ensure_ascii=False)[1:-1] for text in trimmed)


def _check_order(order: Sequence[int], owners: Sequence[int], turns: Turns) -> None:
    said = [number for number in order if turns[owners[number]][0] != "system"]
    for number, wanted in zip(said, sorted(said), strict=True):
        if number != wanted:
            owner = owners[wanted]
            raise MOVES(name_of(owner, turns[owner][0]))
