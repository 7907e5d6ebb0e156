"""Labels: answers that are good or bad by themselves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from llama3.data_kinds import AnswerTokens, DataKind, Row, UserRow, Writer, answer_example, read_answer, read_prompt
from llama3.errors import DataError
from llama3_plugins.data_kinds.prompts import task_rows

if TYPE_CHECKING:
    from llama3.data_kinds import Batch, Tokenizer

NO_LABEL = DataError.declare("L3-DLG-008", "the label is {label}", fix="give true or false")
ODD_LABEL = DataError.declare("L3-OWN-030", "label is {label}", fix="write true or false")


@dataclass(frozen=True, slots=True)
class LabelExample:
    """A prompt and one answer that is good or bad by itself."""

    prompt: np.ndarray
    answer: AnswerTokens
    desirable: bool

    @property
    def num_tokens(self) -> int:
        """Of the longest path."""
        return len(self.prompt) + len(self.answer.ids)


class Labels(DataKind[LabelExample]):
    """Rows `{prompt, completion, label}`; the file has `{id, messages, completion, label}`.

    [prompt] <- [answer], and whether the answer is desirable.
    """

    required = (("prompt", "completion", "label"),)

    @property
    def stored(self) -> Mapping[str, Writer]:
        return {"labels": _label_rows, "prompts": task_rows}

    def parse(self, row: Row, where: str) -> UserRow:
        label = row["label"]
        if not isinstance(label, bool):
            raise ODD_LABEL(where, label=repr(label))
        answer = read_answer(row["completion"], where, "completion")
        return UserRow(read_prompt(row, where), (answer,), {"label": label})

    def example(self, tokenizer: Tokenizer, row: Row, where: str) -> LabelExample:
        return label_example(tokenizer, row["messages"], row["completion"], row["label"], where)

    def collate(self, examples: Sequence[LabelExample]) -> Batch:
        """One tree per answer. Columns: per_target["is_format"], per_tree["desirable"] (0 or 1)."""
        from llama3.data_kinds import pack_answers

        return pack_answers(
            [(example.prompt, [example.answer]) for example in examples],
            per_tree={"desirable": [float(example.desirable) for example in examples]},
        )

    def toy(self, rng: np.random.Generator) -> LabelExample:
        from llama3.testing.toys import toy_answer, toy_ids

        return LabelExample(toy_ids(rng), toy_answer(rng), bool(rng.integers(2)))


def label_example(
    tokenizer: Tokenizer, messages: Sequence[Mapping[str, str]], completion: str, label: Any, where: str = "label"
) -> LabelExample:
    """Tokenize a labelled answer: `messages` are the prompt, `completion` is the assistant's next message."""
    if not isinstance(label, bool):
        raise NO_LABEL(where, label=repr(label))
    dialog = answer_example(tokenizer, messages, completion, where)
    return LabelExample(dialog.prompt, dialog.answer, label)


def label_row(id: str | None, row: UserRow, answer: str, label: bool) -> dict[str, Any]:
    """A row of the kind's file."""
    return {"id": id, "messages": list(row.prompt), "completion": answer, "label": label}


def _label_rows(rows: Sequence[UserRow], stem: str) -> Iterator[dict[str, Any]]:
    for row in rows:
        yield label_row(row.id, row, row.answers[0], row.columns["label"])
