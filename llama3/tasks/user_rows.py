"""One row of a user's own data, in TRL's column names: which kind it is and what it says.

| columns | kind |
|---|---|
| `messages`, or `prompt` and `completion` | dialogs |
| `chosen` and `rejected`, perhaps `prompt` and `edited`; or `prompt` and `ranking`, best first | pairs |
| `prompt`, `completion` and `label` (true or false) | labels |
| `prompt`, and any columns that rewards read | prompts |

A prompt is text (one user message) or a list of messages; an answer is text or a list of one assistant message. Where
pairs have no `prompt`, it is the longest common prefix of `chosen` and `rejected`. Every row may have an `id`, and say
itself whether it is for training: `split` is `train` or `held_out`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from llama3.errors import DataError, Problem, did_you_mean
from llama3.tasks import Split

Kind = Literal["dialogs", "pairs", "labels", "prompts"]
KINDS: tuple[Kind, ...] = get_args(Kind)

_COLUMNS: dict[Kind, frozenset[str]] = {
    "dialogs": frozenset({"messages", "prompt", "completion"}),
    "pairs": frozenset({"prompt", "chosen", "rejected", "edited", "ranking"}),
    "labels": frozenset({"prompt", "completion", "label"}),
}
_OF_EVERY_KIND = frozenset({"id", "split"})
_ROLES = {"system": "system", "user": "user", "assistant": "assistant", "tool": "ipython", "ipython": "ipython"}
"""Roles as written, and as llama3.tokenizer.chat calls them."""


@dataclass(frozen=True, slots=True)
class UserRow:
    """A row that was understood.

    `answers`: one of dialogs and labels, best first of pairs, none of prompts. `edited`: the first answer of a pair is
    a corrected `chosen`. `columns` are what prompts carry for rewards.
    """

    kind: Kind
    prompt: tuple[Mapping[str, str], ...]
    answers: tuple[str, ...] = ()
    label: bool | None = None
    edited: bool = False
    columns: Mapping[str, Any] = field(default_factory=dict)
    id: str | None = None
    split: Split | None = None

    @property
    def prompt_text(self) -> str:
        """All of the prompt's text: what decides whether the row is held out."""
        return "\n".join(message["content"] for message in self.prompt)


def parse_row(row: Mapping[str, Any], where: str) -> UserRow:
    """Understand a row. Raises DataError."""
    parsed = _PARSERS[_kind(row, where)](row, where)
    name, split = row.get("id"), row.get("split")
    if name is not None and not isinstance(name, str | int):
        raise DataError(Problem("L3-OWN-003", where, f"id is {type(name).__name__}", fix="give text or a number"))
    if split not in (None, *get_args(Split)):
        raise DataError(Problem("L3-OWN-003", where, f"unknown split {split!r}", fix="train or held_out"))
    return replace(parsed, id=None if name is None else str(name), split=split)


def _kind(row: Mapping[str, Any], where: str) -> Kind:
    columns = row.keys() - _OF_EVERY_KIND
    kind = _kind_of(columns)
    if kind is None:
        near = did_you_mean(min(columns, default=""), frozenset().union(*_COLUMNS.values()))
        raise DataError(
            Problem(
                "L3-OWN-002",
                where,
                f"columns {sorted(columns)} are of no known kind",
                near,
                "name them as TRL does: messages; prompt, completion; prompt, chosen, rejected",
            )
        )
    unknown = sorted(columns - _COLUMNS.get(kind, columns))
    if unknown:
        near = did_you_mean(unknown[0], _COLUMNS[kind])
        raise DataError(
            Problem("L3-OWN-002", where, f"{', '.join(unknown)} does not belong to {kind}", near, "remove the column")
        )
    if "messages" in columns and len(columns) > 1:
        raise DataError(
            Problem("L3-OWN-002", where, "messages hold the whole dialog", fix="remove prompt and completion")
        )
    if "ranking" in columns and columns & {"chosen", "rejected", "edited"}:
        raise DataError(
            Problem("L3-OWN-002", where, "a ranking holds all answers", fix="remove chosen, rejected and edited")
        )
    needed = {"dialogs": {"messages"} if "messages" in columns else {"prompt", "completion"},
              "pairs": {"prompt", "ranking"} if "ranking" in columns else {"chosen", "rejected"},
              "labels": {"prompt", "completion", "label"}, "prompts": {"prompt"}}[kind]  # fmt: skip
    if missing := sorted(needed - columns):
        raise DataError(Problem("L3-OWN-002", where, f"{kind} need {', '.join(missing)}", fix="add the column"))
    return kind


def _kind_of(columns: set[str]) -> Kind | None:
    if columns & {"chosen", "rejected", "ranking", "edited"}:
        return "pairs"
    if "label" in columns:
        return "labels"
    if columns & {"messages", "completion"}:
        return "dialogs"
    return "prompts" if "prompt" in columns else None


def _dialog(row: Mapping[str, Any], where: str) -> UserRow:
    if "messages" in row:
        *asked, last = _messages(row["messages"], f"{where}: messages")
        if last["role"] != "assistant":
            raise DataError(
                Problem(
                    "L3-OWN-003",
                    where,
                    f"the dialog ends with the {last['role']}",
                    "there is no answer to learn",
                    "end it with an assistant message",
                )
            )
        return UserRow("dialogs", _asked(asked, where), (_answer([last], where, "messages"),))
    prompt = _prompt(row, where)
    return UserRow("dialogs", prompt, (_answer(row["completion"], where, "completion"),))


def _pair(row: Mapping[str, Any], where: str) -> UserRow:
    if "ranking" in row:
        ranking = row["ranking"]
        if not isinstance(ranking, list) or len(ranking) < 2:
            raise DataError(Problem("L3-OWN-003", where, "a ranking is a list of at least two answers, best first"))
        prompt, edited = _prompt(row, where), False
        answers = [_answer(answer, where, f"ranking[{i}]") for i, answer in enumerate(ranking)]
    else:
        prompt, better, worse = _sides(row, where)
        answers = [_answer(better, where, "chosen"), _answer(worse, where, "rejected")]
        edited = row.get("edited") is not None
        if edited:
            answers.insert(0, _answer(row["edited"], where, "edited"))
    if len(set(answers)) < len(answers):
        raise DataError(
            Problem("L3-OWN-005", where, "two answers are the same", "they cannot be told apart", "drop the row")
        )
    return UserRow("pairs", prompt, tuple(answers), edited=edited)


def _label(row: Mapping[str, Any], where: str) -> UserRow:
    label = row["label"]
    if not isinstance(label, bool):
        raise DataError(Problem("L3-OWN-003", where, f"label is {label!r}", fix="write true or false"))
    prompt = _prompt(row, where)
    return UserRow("labels", prompt, (_answer(row["completion"], where, "completion"),), label)


def _question(row: Mapping[str, Any], where: str) -> UserRow:
    prompt = _prompt(row, where)
    if prompt[-1]["role"] != "user":
        raise DataError(
            Problem("L3-OWN-003", where, f"the prompt ends with the {prompt[-1]['role']}", fix="end it with the user")
        )
    columns = {name: value for name, value in row.items() if name not in _OF_EVERY_KIND | {"prompt"}}
    return UserRow("prompts", prompt, columns=columns)


_PARSERS = {"dialogs": _dialog, "pairs": _pair, "labels": _label, "prompts": _question}


def _sides(row: Mapping[str, Any], where: str) -> tuple[tuple[Mapping[str, str], ...], Any, Any]:
    """Prompt, chosen and rejected; an implicit prompt is taken off both answers."""
    chosen, rejected = row["chosen"], row["rejected"]
    if "prompt" in row:
        return _prompt(row, where), chosen, rejected
    if not isinstance(chosen, str | list) or type(chosen) is not type(rejected):
        raise DataError(Problem("L3-OWN-003", where, "chosen and rejected must both be text or both be messages"))
    cut = _common(chosen, rejected)
    prompt, better, worse = chosen[:cut], chosen[cut:], rejected[cut:]
    if not prompt:
        raise DataError(
            Problem(
                "L3-OWN-003",
                where,
                "chosen and rejected have no common beginning",
                "it would be the prompt",
                "add the column prompt",
            )
        )
    if isinstance(better, str) and isinstance(worse, str):
        better, worse = better.strip(), worse.strip()
    return _prompt({"prompt": prompt}, where), better, worse


def _common(chosen: Sequence[Any], rejected: Sequence[Any]) -> int:
    """The length of the common beginning of two texts or two dialogs. A space belongs to the word after it."""
    shorter = min(len(chosen), len(rejected))
    cut = next((i for i in range(shorter) if chosen[i] != rejected[i]), shorter)
    return cut - 1 if 0 < cut < shorter and chosen[cut - 1] == " " else cut


def _prompt(row: Mapping[str, Any], where: str) -> tuple[Mapping[str, str], ...]:
    """The messages of a prompt; text is one user message."""
    prompt = row["prompt"]
    if isinstance(prompt, str):
        prompt = [{"role": "user", "content": prompt}]
    return _asked(_messages(prompt, f"{where}: prompt"), where)


def _asked(messages: Sequence[Mapping[str, str]], where: str) -> tuple[Mapping[str, str], ...]:
    if not any(message["role"] != "system" and message["content"].strip() for message in messages):
        raise DataError(Problem("L3-OWN-004", where, "the prompt is empty", fix="write what is asked, or drop the row"))
    if messages[-1]["role"] == "assistant":
        raise DataError(Problem("L3-OWN-003", where, "the prompt ends with the assistant", fix="end it with the user"))
    return tuple(messages)


def _answer(value: Any, where: str, column: str) -> str:
    """The text of an answer: text, or a list of one assistant message."""
    if isinstance(value, list):
        messages = _messages(value, f"{where}: {column}")
        if len(messages) != 1 or messages[0]["role"] != "assistant":
            raise DataError(
                Problem(
                    "L3-OWN-003",
                    where,
                    f"{column} is not one assistant message",
                    "only the last answer of a dialog is learnt",
                    "move the messages before it into prompt",
                )
            )
        value = messages[0]["content"]
    if not isinstance(value, str):
        raise DataError(
            Problem("L3-OWN-003", where, f"{column} is {type(value).__name__}", fix="give text or messages")
        )
    if not value.strip():
        raise DataError(Problem("L3-OWN-004", where, f"{column} is empty", "there is nothing to learn", "drop the row"))
    return value


def _messages(value: Any, where: str) -> list[Mapping[str, str]]:
    if not isinstance(value, list) or not value:
        raise DataError(Problem("L3-OWN-003", where, "not text and not a list of messages"))
    return list(_each_message(value, where))


def _each_message(value: list[Any], where: str) -> Iterator[Mapping[str, str]]:
    for i, message in enumerate(value):
        if not isinstance(message, dict) or not isinstance(message.get("content"), str):
            raise DataError(Problem("L3-OWN-003", f"{where}[{i}]", "a message is {role, content} with text as content"))
        role = _ROLES.get(str(message.get("role")))
        if role is None:
            raise DataError(
                Problem(
                    "L3-OWN-003",
                    f"{where}[{i}]",
                    f"unknown role {message.get('role')!r}",
                    did_you_mean(str(message.get("role")), _ROLES),
                    f"one of {', '.join(_ROLES)}",
                )
            )
        yield {"role": role, "content": message["content"]}
