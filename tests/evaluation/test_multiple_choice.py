"""Multiple choice by likelihood: items from a file or from held-out text, costs against one forward per choice."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import llama3
from llama3.data.corpus import Corpus
from llama3.errors import DataError
from llama3.evaluators import Batch, Subject, score, texts
from llama3_plugins.evaluators.multiple_choice import Item, MultipleChoice
from llama3_plugins.evaluators.options import MultipleChoiceOptions
from llama3_plugins.evaluators.read_items import read_items


@pytest.fixture
def subject(corpus, random_model):
    return Subject(llama3.load(random_model(0), device="cpu"), Corpus(corpus.path), {}, max_tokens=4)


def items_file(tmp_path, *rows):
    path = tmp_path / "items.jsonl"
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows))
    return path


ROW = {"context": "alpha beta", "choices": [" gamma", " count value", " read"], "answer": 1}


def test_costs_are_those_of_one_forward_per_choice(subject, tmp_path):
    rows = [ROW, {"context": "the total of", "choices": ["x", "first item write"], "answer": 0}]
    options = MultipleChoiceOptions(path=str(items_file(tmp_path, *rows)))
    result = MultipleChoice(options).run(subject, 10, 0)
    model, costs, right = subject.model, [], []
    for row in rows:
        context = model.tokenizer.encode(row["context"], bos=True)
        per_choice = []
        for choice in row["choices"]:
            ids = model.tokenizer.encode(choice)
            batch = Batch.of_documents(np.concatenate([context, ids]), [0])
            with torch.no_grad():
                logps = score(model.transformer, batch, {"logps"}).logps_M.double()
            per_choice.append(-float(logps[-len(ids) :].sum()) / len(choice))
        costs.append(per_choice[row["answer"]])
        right.append(int(np.argmin(per_choice)) == row["answer"])
    assert [row["nll_per_character"] for row in result.samples] == pytest.approx(costs, rel=1e-4)
    assert [row["score"] for row in result.samples] == [float(hit) for hit in right]
    assert result.metrics["nll_per_character"] == pytest.approx(np.mean(costs), rel=1e-4)
    assert result.metrics["accuracy"]["rate"] == pytest.approx(np.mean(right))
    assert result.metrics["chance"] == pytest.approx((1 / 3 + 1 / 2) / 2)


def test_items_of_held_out_text_are_true_continuations_of_it(subject):
    options = MultipleChoiceOptions(context=60, answer=16, choices=4)
    made = MultipleChoice(options)._made(subject, 30, seed=3)
    documents = [data.decode() for data in texts(subject.corpus, "held_out")]
    assert len(made) == 30
    assert len({item.id for item in made}) == 30
    for item in made:
        true = item.choices[item.answer]
        (home,) = [text for text in documents if item.context + true in text]
        assert (len(item.context), {len(choice) for choice in item.choices}) == (60, {16})
        assert all(choice in home for choice in item.choices)
        assert len(set(item.choices)) == 4
    assert made == MultipleChoice(options)._made(subject, 30, seed=3)
    assert made != MultipleChoice(options)._made(subject, 30, seed=4)
    places = {item.answer for item in made}
    assert places == {0, 1, 2, 3}, "the answer's place tells nothing"


def test_a_long_context_is_cut_at_its_beginning(subject, tmp_path):
    """The end of the context is what a choice follows."""
    long = "write first last " * 400
    choices = [" alpha beta", " gamma item"]
    two = [{"context": text + "the total", "choices": choices, "answer": 0} for text in (long, "read " + long)]
    result = MultipleChoice(MultipleChoiceOptions(path=str(items_file(tmp_path, *two)))).run(subject, 10, 0)
    one, other = (row["nll_per_character"] for row in result.samples)
    assert one == pytest.approx(other, rel=1e-5)


def test_a_choice_longer_than_the_context_is_told(subject, tmp_path):
    row = {"context": "a", "choices": ["b", "write " * 600], "answer": 0}
    with pytest.raises(DataError, match=r"item 2: choice.*\[L3-SCL-021\]"):
        MultipleChoice(MultipleChoiceOptions(path=str(items_file(tmp_path, ROW, row)))).run(subject, 10, 0)


def test_text_too_short_for_items_is_told(subject):
    with pytest.raises(DataError, match="L3-SCL-020"):
        MultipleChoice(MultipleChoiceOptions(context=10_000)).run(subject, 10, 0)


def test_everything_wrong_with_a_file_is_told_by_line(tmp_path):
    path = items_file(
        tmp_path,
        ROW,
        "{",
        [1],
        {"context": 1, "choices": ["a"], "answer": 0},
        {"context": "", "choices": ["a", "a"], "answer": 0},
        {"context": "", "choices": ["a", "b"], "answer": 2},
        {"context": "", "choices": ["a", "b"], "answer": True},
        {"context": "", "choices": ["a", ""], "answer": 0},
    )
    with pytest.raises(DataError) as caught:
        read_items(path)
    lines = [int(problem.where.rpartition(":")[2]) for problem in caught.value.problems]
    assert lines == [2, 3, 4, 4, 5, 6, 7, 8]


@pytest.mark.parametrize("content", ["", "\n\n"])
def test_an_empty_or_absent_file_is_told(tmp_path, content):
    (tmp_path / "empty.jsonl").write_text(content)
    with pytest.raises(DataError, match="L3-SCL-023"):
        read_items(tmp_path / "empty.jsonl")
    with pytest.raises(DataError, match="L3-SCL-022"):
        read_items(tmp_path / "nowhere.jsonl")


@given(st.text(), st.lists(st.text(min_size=1), min_size=2, unique=True), st.data())
def test_an_item_has_one_name(context, choices, data):
    answer = data.draw(st.integers(0, len(choices) - 1))
    assert Item(context, tuple(choices), answer).id == Item(context, tuple(choices), answer).id
    assert Item(context + "x", tuple(choices), answer).id != Item(context, tuple(choices), answer).id
