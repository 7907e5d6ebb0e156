"""One row of a user's own data, in TRL's column names: which kind it is and what its cells say.

A prompt is text (one user message) or a list of messages; an answer is text or a list of one assistant message. The
content of a message is text or a list of text parts, which are joined; what else a message may say stands in
llama3.tasks.message_keys. Every row may have an `id`, and say itself
whether it is for training: `split` is `train` or `held_out`. All other columns are those of a kind
(llama3.tasks.data_kind).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from typing import Any, get_args

from llama3.errors import DataError, did_you_mean
from llama3.tasks.data_kind import DataKind, Message, Row, UserRow
from llama3.tasks.message_keys import is_learnt
from llama3.tasks.task import Split
from llama3.tokenizer.messages import ROLES, texts_of

NO_KIND = DataError.declare(
    "L3-OWN-002",
    "columns [{columns!r}] {what}",
    why="{near}",
    fix="name them as TRL does: messages (each with role and content); prompt, completion; prompt, chosen, rejected",
)
NOT_TEXT = DataError.declare("L3-OWN-003", "{column} is {type}", fix="give text or messages")
EMPTY_PROMPT = DataError.declare("L3-OWN-004", "the prompt is empty", fix="write what is asked, or drop the row")
ODD_COLUMN = DataError.declare(
    "L3-OWN-015", "{columns} does not belong to {kind}", why="{near}", fix="remove the column"
)
MISSPELT_COLUMN = DataError.declare(
    "L3-CLI-041",
    "column {column!r} is hardly more than {near!r} misspelt",
    why="as it is, the row is one of {kind}",
    fix="write {near}, or give the column another name",
)
MISSING_COLUMN = DataError.declare("L3-OWN-016", "{kind} need {columns}", fix="add the column")
BAD_ID = DataError.declare("L3-OWN-017", "id is {type}", fix="give text or a number")
UNKNOWN_SPLIT = DataError.declare("L3-OWN-018", "unknown split {split!r}", fix="train or held_out")
ENDS_WITH_ANSWER = DataError.declare("L3-OWN-019", "the prompt ends with the assistant", fix="end it with the user")
NOT_ONE_ANSWER = DataError.declare(
    "L3-OWN-051",
    "{column} is not one assistant message",
    why="only the last answer of a dialog is learnt",
    fix="move the messages before it into prompt",
)
EMPTY_ANSWER = DataError.declare("L3-OWN-052", "{column} is empty", why="there is nothing to learn", fix="drop the row")
NOT_LEARNT = DataError.declare(
    "L3-OWN-056",
    "the weight of {column} is 0",
    why="it is all that this row teaches",
    fix="drop the row, or the weight",
)
NO_MESSAGES = DataError.declare("L3-OWN-053", "not text and not a list of messages")
ODD_MESSAGE = DataError.declare("L3-OWN-054", "a message is {{role, content}} with text or parts as content")
UNKNOWN_ROLE = DataError.declare("L3-OWN-055", "unknown role {role!r}", why="{near}", fix="one of {roles}")

_SAME_WORD = 0.88
"""How alike two names are that differ in a letter of an ending or two (difflib's ratio): completions, Chosen."""
OF_EVERY_KIND = frozenset({"id", "split"})
_ROLES = {role: role for role in ROLES}
"""Roles as llama3.tokenizer.chat calls them."""

Kinds = Mapping[str, DataKind[Any]]


def parse_row(kinds: Kinds, row: Row, where: str) -> UserRow:
    """Understand a row as one of `kinds`. Raises DataError."""
    name = _kind(kinds, frozenset(row) - OF_EVERY_KIND, where)
    parsed = kinds[name].parse(row, where)
    own, split = row.get("id", row.get("prompt_id")), row.get("split")
    if own is not None and not isinstance(own, str | int):
        raise BAD_ID(where, type=type(own).__name__)
    if split not in (None, *get_args(Split)):
        raise UNKNOWN_SPLIT(where, split=split)
    return replace(parsed, kind=name, id=None if own is None else str(own), split=split)


def kind_of(kinds: Kinds, columns: frozenset[str]) -> list[str]:
    """The kinds that know most of a row's columns, and of these those of which it lacks least: one, if it is clear."""
    fits = {name: (kind.known(columns), -len(kind.missing(columns))) for name, kind in kinds.items()}
    best = max(fits.values(), default=(0, 0))
    return [name for name, fit in fits.items() if fit == best and best[0] > 0]


def _kind(kinds: Kinds, columns: frozenset[str], where: str) -> str:
    """The kind of a row with these columns. Raises DataError."""
    names = kind_of(kinds, columns)
    if len(names) != 1:
        known = frozenset().union(*(kind.columns for kind in kinds.values()))
        what = "may be of " + " or of ".join(names) if names else "are of no known kind"
        near = did_you_mean(min(columns - known, default=""), known)
        raise NO_KIND(where, columns=sorted(columns), what=what, near=near)
    (name,) = names
    _check_columns(name, kinds[name], columns, where)
    if kinds[name].optional is None:
        _check_spelling(name, kinds, columns, where)
    return name


def _check_spelling(name: str, kinds: Kinds, columns: frozenset[str], where: str) -> None:
    """Raises DataError where a kind that takes any column got one of another kind, but for its spelling: it would be
    taken for that kind, and what the column says never be learnt."""
    known = frozenset().union(*(kind.columns for kind in kinds.values()))
    for column in sorted(columns - known):
        near = get_close_matches(column.casefold(), sorted(known - columns), n=1, cutoff=_SAME_WORD)
        if near:
            raise MISSPELT_COLUMN(where, column=column, near=near[0], kind=name)


def _check_columns(name: str, kind: DataKind[Any], columns: frozenset[str], where: str) -> None:
    """Raises DataError where columns are missing or too many."""
    if kind.optional is not None and (unknown := sorted(columns - kind.columns - kind.aside)):
        raise ODD_COLUMN(where, columns=unknown, kind=name, near=did_you_mean(unknown[0], kind.columns))
    if missing := sorted(kind.missing(columns)):
        raise MISSING_COLUMN(where, kind=name, columns=missing)


def read_prompt(row: Row, where: str) -> tuple[Message, ...]:
    """The messages of the column `prompt`; text is one user message. Raises DataError."""
    prompt = row["prompt"]
    if isinstance(prompt, str):
        prompt = [{"role": "user", "content": prompt}]
    return as_prompt(read_messages(prompt, f"{where}: prompt"), where)


def as_prompt(messages: Sequence[Message], where: str) -> tuple[Message, ...]:
    """Messages that ask for an answer. Raises DataError."""
    if not any(message["role"] != "system" and message["content"].strip() for message in messages):
        raise EMPTY_PROMPT(where)
    if messages[-1]["role"] == "assistant":
        raise ENDS_WITH_ANSWER(where)
    return tuple(messages)


def read_answer(value: Any, where: str, column: str) -> str:
    """The text of an answer: text, or a list of one assistant message. Raises DataError."""
    if isinstance(value, list):
        messages = read_messages(value, f"{where}: {column}")
        if len(messages) != 1 or messages[0]["role"] != "assistant":
            raise NOT_ONE_ANSWER(where, column=column)
        if "weight" in messages[0]:
            raise NOT_LEARNT(where, column=column)
        value = messages[0]["content"]
    if not isinstance(value, str):
        raise NOT_TEXT(where, column=column, type=type(value).__name__)
    if not value.strip():
        raise EMPTY_ANSWER(where, column=column)
    return value


def read_messages(value: Any, where: str) -> list[Message]:
    """A list of messages, as role and content; `weight` is 0 where one is not to be learnt. Raises DataError."""
    if not isinstance(value, list) or not value:
        raise NO_MESSAGES(where)
    return list(_each_message(value, where))


def _each_message(value: list[Any], where: str) -> Iterator[Message]:
    for i, message in enumerate(value):
        if not isinstance(message, dict) or not isinstance(message.get("content"), str | list):
            raise ODD_MESSAGE(f"{where}[{i}]")
        role = _ROLES.get(str(message.get("role")))
        if role is None:
            named = message.get("role")
            raise UNKNOWN_ROLE(f"{where}[{i}]", role=named, near=did_you_mean(str(named), _ROLES), roles=list(_ROLES))
        content = "".join(texts_of(message["content"], f"{where}[{i}]"))
        learnt = is_learnt(message, role, f"{where}[{i}]")
        yield {"role": role, "content": content} | ({} if learnt else {"weight": 0})
