"""Dialogs and pairs as packed trees, and the order in which the loop reads them."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama3.errors import DataError
from llama3.posttraining.datasets import (
    Epochs,
    PromptExample,
    collate_dialogs,
    collate_pairs,
    collate_prompts,
    dialog_example,
    pair_example,
    prompt_ids,
    read_rows,
    write_rows,
)

ASK = [{"role": "user", "content": "What is 1 plus 1?"}]


def said(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def test_only_the_final_answer_and_its_end_token_are_targets(tokenizer):
    dialog = [{"role": "system", "content": "Be brief."}, *ASK, said("2"), {"role": "user", "content": "And 2 plus 2?"}]
    batch = collate_dialogs([dialog_example(tokenizer, [*dialog, said("It is 4.")])])
    assert batch.num_trees == 1
    assert tokenizer.decode(batch.target_ids_M[:-1].numpy().astype(np.uint32)) == "It is 4."
    assert int(batch.target_ids_M[-1]) == tokenizer.eot_id
    assert batch.per_target["is_format"].tolist() == [False] * (batch.num_targets - 1) + [True]


def test_a_prompt_is_what_generation_starts_from(tokenizer):
    example = dialog_example(tokenizer, [*ASK, said("2")])
    assert example.prompt.tolist() == prompt_ids(tokenizer, ASK).tolist()


def test_a_pair_shares_its_prompt(tokenizer):
    batch = collate_pairs([pair_example(tokenizer, ASK, "2", "three"), pair_example(tokenizer, ASK, "2", "")])
    assert batch.num_segments == 6
    assert batch.parents_S[batch.child(0)].tolist() == batch.parents_S[batch.child(1)].tolist() == [0, 3]
    decode = lambda s: tokenizer.decode(
        batch.tokens_T[batch.starts_S1[s] : batch.starts_S1[s + 1] - 1].numpy().astype(np.uint32)
    )
    assert [decode(s) for s in batch.child(0).tolist()] == ["2", "2"]
    assert [decode(s) for s in batch.child(1).tolist()] == ["three", ""]


def test_prompts_are_roots_without_targets(tokenizer):
    batch = collate_prompts([PromptExample(prompt_ids(tokenizer, ASK), 7)])
    assert (batch.num_trees, batch.num_targets) == (1, 0)
    assert batch.per_tree["example"].tolist() == [7]


@pytest.mark.parametrize(
    ("messages", "what"),
    [
        (ASK, "nothing in this dialog is a target"),
        ([], "."),
        ([{"role": "user"}], "role and content"),
        (["hello"], "role and content"),
        ([{"role": "teacher", "content": "hi"}], "'teacher' does not exist"),
    ],
)
def test_dialogs_without_an_answer_are_refused(tokenizer, messages, what):
    with pytest.raises(DataError, match=what):
        dialog_example(tokenizer, messages)


def test_a_pair_of_equal_answers_is_refused(tokenizer):
    with pytest.raises(DataError, match="two answers are the same"):
        pair_example(tokenizer, ASK, "2", "2")


@given(count=st.integers(1, 40), batch=st.integers(1, 12), epochs=st.integers(1, 4), seed=st.integers(0, 99))
def test_every_example_is_used_once_per_epoch(count, batch, epochs, seed):
    dataset = Epochs(range(count), batch=batch, epochs=epochs, seed=seed)
    read = [example for step in range(dataset.steps) for example in dataset.examples(step)]
    assert Counter(read) == dict.fromkeys(range(count), epochs)
    assert all(sorted(read[e * count : (e + 1) * count]) == list(range(count)) for e in range(epochs))
    assert all(len(dataset.examples(step)) == batch for step in range(dataset.steps - 1))
    again = Epochs(range(count), batch=batch, epochs=epochs, seed=seed)
    assert again.examples(dataset.steps - 1) == dataset.examples(dataset.steps - 1), "a pure function of the step"


def test_nothing_to_train_on_is_an_error():
    with pytest.raises(DataError, match="no examples"):
        Epochs([], batch=4, epochs=1, seed=0)


def test_rows_round_trip_and_bad_lines_are_named(tmp_path):
    rows = [{"id": "a", "text": "é\u2028x"}, {"id": "b"}]
    write_rows(tmp_path / "rows.jsonl", rows)
    assert list(read_rows(tmp_path / "rows.jsonl")) == rows
    (tmp_path / "bad.jsonl").write_text('{"id": 1}\n{"id":\n')
    with pytest.raises(DataError, match=r"bad\.jsonl:2"):
        list(read_rows(tmp_path / "bad.jsonl"))
    (tmp_path / "list.jsonl").write_text("[1]\n")
    with pytest.raises(DataError, match=r"list\.jsonl:1: not a JSON object"):
        list(read_rows(tmp_path / "list.jsonl"))
