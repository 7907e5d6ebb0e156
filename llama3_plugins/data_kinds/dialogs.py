"""Dialogs: what the assistant should say, as finetuning learns it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from llama3.data_kinds import (
    DataKind,
    DialogExample,
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


class Dialogs(DataKind[DialogExample]):
    """Rows `{messages}` or `{prompt, completion}`; the file has `{id, source, messages}`.

    [prompt] <- [answers]: targets are what the assistant wrote, in every turn.
    """

    required = (("messages",), ("prompt", "completion"))

    @property
    def stored(self) -> Mapping[str, Writer]:
        return {"dialogs": _dialog_rows}

    def parse(self, row: Row, where: str) -> UserRow:
        if "messages" not in row:
            return UserRow(read_prompt(row, where), (read_answer(row["completion"], where, "completion"),))
        if row.keys() & {"prompt", "completion"}:
            raise MORE_COLUMNS(where)
        *asked, last = read_messages(row["messages"], f"{where}: messages")
        if last["role"] != "assistant":
            raise NO_ANSWER(where, role=last["role"])
        return UserRow(as_prompt(asked, where), (read_answer([last], where, "messages"),))

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
        messages = [*row.prompt, {"role": "assistant", "content": row.answers[0]}]
        yield {"id": row.id, "source": "own_data", "messages": messages}
