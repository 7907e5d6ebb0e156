"""Prompts: what a model is asked by an algorithm that samples its answers and has them scored."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from llama3.data_kinds import (
    OF_EVERY_KIND,
    Custom,
    DataKind,
    Row,
    Task,
    UserRow,
    Writer,
    prompt_ids,
    read_prompt,
)
from llama3.errors import DataError

if TYPE_CHECKING:
    from llama3.data_kinds import Batch, Tokenizer

NOTHING_ASKED = DataError.declare("L3-OWN-020", "the prompt ends with the {role}", fix="end it with the user")

REWARD = "jsonl_tasks"
"""The reward that scores answers to a file's prompts."""


@dataclass(frozen=True, slots=True)
class PromptExample:
    """A prompt to be answered; `index` is its row in the rewarder's table of examples."""

    prompt: np.ndarray
    index: int = 0

    @property
    def num_tokens(self) -> int:
        """Of the prompt alone."""
        return len(self.prompt)


class Prompts(DataKind[PromptExample]):
    """Rows `{prompt}` with any columns that rewards read; the file has tasks (llama3.tasks.task), whose check holds the
    other columns.

    [prompt]: a root without targets, to which the sampler adds answers.
    """

    required = (("prompt",),)
    optional = None

    @property
    def stored(self) -> Mapping[str, Writer]:
        return {"prompts": task_rows}

    def parse(self, row: Row, where: str) -> UserRow:
        prompt = read_prompt(row, where)
        if prompt[-1]["role"] != "user":
            raise NOTHING_ASKED(where, role=prompt[-1]["role"])
        columns = {name: value for name, value in row.items() if name not in OF_EVERY_KIND | {"prompt"}}
        return UserRow(prompt, columns=columns)

    def example(self, tokenizer: Tokenizer, row: Row, where: str) -> PromptExample:
        return PromptExample(prompt_ids(tokenizer, Task.from_json(row).messages, where))

    def examples(self, tokenizer: Tokenizer, rows: Sequence[Row]) -> list[PromptExample]:
        found = super().examples(tokenizer, rows)
        return [replace(example, index=index) for index, example in enumerate(found)]

    def collate(self, examples: Sequence[PromptExample]) -> Batch:
        """One root per prompt, without targets. Column: per_tree["example"]."""
        from llama3.data_kinds import pack_answers

        return pack_answers(
            [(example.prompt, []) for example in examples],
            per_tree={"example": [example.index for example in examples]},
        )

    def toy(self, rng: np.random.Generator) -> PromptExample:
        from llama3.testing.toys import toy_ids

        return PromptExample(toy_ids(rng))


def task_rows(rows: Sequence[UserRow], stem: str) -> Iterator[dict[str, Any]]:
    """The different prompts, as tasks; those that do not end with the user cannot be asked. Prompts differ by any
    character, and by the columns that rewards read."""
    seen: set[str] = set()
    for row in rows:
        task = task_of(row, stem)
        if task.id not in seen and row.prompt[-1]["role"] == "user":
            seen.add(task.id)
            yield task.to_json()


def task_of(row: UserRow, stem: str) -> Task:
    """The task that asks a row's prompt. Its check holds the row's other columns, for the reward that knows them."""
    asked = json.dumps([row.prompt, row.columns if row.kind == "prompts" else {}], sort_keys=True)
    digest = hashlib.blake2b(asked.encode(), digest_size=6).hexdigest()
    *context, question = row.prompt
    columns = row.columns if row.kind == "prompts" else {}
    answer = columns.get("answer")
    reference = "" if answer is None else str(answer)
    family = f"file.{stem}"
    check = Custom(REWARD, dict(columns))
    return Task(f"{family}-{digest}", family, question["content"], reference, check, tuple(context))
