"""Dialogs and pairs as packed trees, and the order in which the loop reads them."""

from __future__ import annotations

from collections import Counter

import chatting
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama3.errors import DataError
from llama3.posttraining.datasets import Epochs
from llama3.posttraining.examples import answer_example, dialog_example, messages_of, prompt_ids
from llama3.tasks.rows import read_rows, write_rows
from llama3.tokenizer import render
from llama3_plugins.data_kinds.dialogs import Dialogs
from llama3_plugins.data_kinds.pairs import Pairs, pair_example
from llama3_plugins.data_kinds.prompts import PromptExample, Prompts

ASK = [{"role": "user", "content": "What is 1 plus 1?"}]


def said(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


AGAIN = {"role": "user", "content": "And 2 plus 2?"}


def test_all_answers_and_their_end_tokens_are_targets(tokenizer):
    dialog = [{"role": "system", "content": "Be brief."}, *ASK, said("2"), AGAIN, said("It is 4."), AGAIN]
    batch = Dialogs().collate([dialog_example(tokenizer, dialog)])
    assert (batch.num_trees, batch.num_segments) == (1, 2)
    learnt = batch.target_ids_M.numpy().astype(np.uint32)
    assert tokenizer.decode(learnt) == "2<|eot_id|>It is 4.<|eot_id|>"
    assert batch.per_target["is_format"].tolist() == (learnt == tokenizer.eot_id).tolist()
    assert batch.tokens_T.tolist() == render(tokenizer, messages_of(dialog[:-1], "dialog")).ids.tolist()


def test_an_answer_alone_is_the_target_after_its_prompt(tokenizer):
    dialog = [*ASK, said("2"), AGAIN]
    example = answer_example(tokenizer, dialog, "")
    assert example.prompt.tolist() == prompt_ids(tokenizer, dialog).tolist()
    assert example.answer.ids.tolist() == [tokenizer.eot_id]
    assert np.all(example.answer.is_target)


def test_the_template_of_a_dialog_decides_its_tokens(tmp_path):
    other = chatting.load(tmp_path, chatting.CHATML)
    example = dialog_example(other, [*ASK, said("2"), AGAIN, said("4")])
    assert other.decode(example.prompt).endswith("<|im_end|>\n<|im_start|>assistant\n")
    assert other.decode(example.answer.ids[example.answer.is_target]) == "2<|im_end|>4<|im_end|>"
    assert other.decode(example.answer.ids).endswith("4<|im_end|>")
    pair = pair_example(other, ASK, "2", "")
    chosen, rejected = (answer.ids for answer in pair.ranking)
    assert pair.prompt.tolist() == prompt_ids(other, ASK).tolist()
    assert (other.decode(chosen), other.decode(rejected)) == ("2<|im_end|>", "<|im_end|>")
    trimming = chatting.load(tmp_path, chatting.INSTRUCT)
    with pytest.raises(DataError, match="L3-DLG-003"):
        pair_example(trimming, ASK, "2", "2\n")


def test_a_dialog_that_the_template_refuses_is_named(tmp_path):
    with pytest.raises(DataError, match=r"row 7, message 2 \(user\): .*take turns"):
        dialog_example(chatting.load(tmp_path, chatting.INSTRUCT), [*ASK, *ASK, said("2")], "row 7")


def test_a_prompt_is_what_generation_starts_from(tokenizer):
    example = dialog_example(tokenizer, [*ASK, said("2")])
    assert example.prompt.tolist() == prompt_ids(tokenizer, ASK).tolist()


def test_a_pair_shares_its_prompt(tokenizer):
    batch = Pairs().collate([pair_example(tokenizer, ASK, "2", "three"), pair_example(tokenizer, ASK, "2", "")])
    assert batch.num_segments == 6
    assert batch.parents_S[batch.child(0)].tolist() == batch.parents_S[batch.child(1)].tolist() == [0, 3]
    decode = lambda s: tokenizer.decode(
        batch.tokens_T[batch.starts_S1[s] : batch.starts_S1[s + 1] - 1].numpy().astype(np.uint32)
    )
    assert [decode(s) for s in batch.child(0).tolist()] == ["2", "2"]
    assert [decode(s) for s in batch.child(1).tolist()] == ["three", ""]


def test_prompts_are_roots_without_targets(tokenizer):
    batch = Prompts().collate([PromptExample(prompt_ids(tokenizer, ASK), 7)])
    assert (batch.num_trees, batch.num_targets) == (1, 0)
    assert batch.per_tree["example"].tolist() == [7]


@pytest.mark.parametrize(
    ("messages", "what"),
    [
        (ASK, "nothing in this dialog is a target"),
        ([*ASK, said(""), AGAIN, said("")], "every answer in this dialog is empty"),
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
