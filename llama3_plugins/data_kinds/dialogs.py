"""Dialogs: what the assistant should say, as finetuning learns it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from llama3.data_kinds import (
    DataKind,
    DialogExample,
    Message,
    Row,
    UserRow,
    Writer,
    as_prompt,
    dialog_example,
    read_answer,
    read_messages,
    read_prompt,
)
from llama3.errors import DataError

if TYPE_CHECKING:
    from llama3.data_kinds import Batch, Tokenizer

MORE_COLUMNS = DataError.declare("L3-OWN-031", "messages hold the whole dialog", fix="remove prompt and completion")
NO_ANSWER = DataError.declare(
    "L3-OWN-032",
    "the dialog ends with the {role}",
    why="there is no answer to learn",
    fix="end it with an assistant message",
)


NOTHING_LEARNT = DataError.declare(
    "L3-OWN-033", "every answer of the dialog has the weight 0", why="nothing is learnt from it", fix="drop the row"
)


class Dialogs(DataKind[DialogExample]):
    """Rows `{messages}` or `{prompt, completion}`; the file has `{id, source, messages}`.

    [prompt] <- [answers]: targets are what the assistant wrote, in every turn but those whose weight is 0.
    """

    required = (("messages",), ("prompt", "completion"))

    @property
    def stored(self) -> Mapping[str, Writer]:
        return {"dialogs": _dialog_rows}

    def parse(self, row: Row, where: str) -> UserRow:
        if "messages" not in row:
            # As in TRL, the completion alone is learnt, whatever the assistant said before.
            asked = [_left_out(message) for message in read_prompt(row, where)]
            return UserRow(tuple(asked), (read_answer(row["completion"], where, "completion"),))
        if row.keys() & {"prompt", "completion"}:
            raise MORE_COLUMNS(where)
        *asked, last = read_messages(row["messages"], f"{where}: messages")
        if last["role"] != "assistant":
            raise NO_ANSWER(where, role=last["role"])
        if last.get("weight") == 0 and not any(_is_learnt(message) for message in asked):
            raise NOTHING_LEARNT(where)
        answer = read_answer(last["content"], where, "messages")
        return UserRow(as_prompt(asked, where), (answer,), {} if _is_learnt(last) else {"weight": 0})

    def example(self, tokenizer: Tokenizer, row: Row, where: str) -> DialogExample:
        return dialog_example(tokenizer, row["messages"], where)

    def collate(self, examples: Sequence[DialogExample]) -> Batch:
        """One tree per dialog. Column: per_target["is_format"]."""
        from llama3.data_kinds import pack_answers

        return pack_answers([(example.prompt, [example.answer]) for example in examples])

    def toy(self, rng: np.random.Generator) -> DialogExample:
        from llama3.testing.toys import toy_answer, toy_ids

        return DialogExample(toy_ids(rng), toy_answer(rng))


def _dialog_rows(rows: Sequence[UserRow], stem: str) -> Iterator[dict[str, Any]]:
    for row in rows:
        messages = [*row.prompt, {"role": "assistant", "content": row.answers[0], **row.columns}]
        yield {"id": row.id, "source": "own_data", "messages": messages}


def _is_learnt(message: Message) -> bool:
    return message["role"] == "assistant" and message.get("weight") != 0


def _left_out(message: Message) -> Message:
    return {**message, "weight": 0} if message["role"] == "assistant" else message
