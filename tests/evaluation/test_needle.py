"""The needle test against a reader that finds everything, one that is short-sighted, and real engines."""

from __future__ import annotations

import re
from types import SimpleNamespace

import numpy as np
import pytest
from pydantic import ValidationError

from llama3.errors import DataError
from llama3.evaluation.charts import heat_chart
from llama3.evaluation.evaluator import Subject
from llama3.inference.llama import Llama
from llama3.model.build import init_weights
from llama3.model.config import ModelConfig
from llama3.model.transformer import Transformer
from llama3.testing.toy_texts import sentences, toy_corpus
from llama3.tokenizer import Tokenizer
from llama3_plugins.evaluators.needle import Needle, haystack
from llama3_plugins.evaluators.options import NeedleOptions
from llama3_plugins.facts import KEYS

CONTEXT = 512


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train([sentences(40, seed) for seed in range(10)], 300, 16)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return toy_corpus(tmp_path_factory.mktemp("corpus"))


class Reader:
    """Answers as one does who reads the last `sight` tokens: the number that follows the question's words there."""

    def __init__(self, tokenizer: Tokenizer, sight: int) -> None:
        self.tokenizer, self.sight = tokenizer, sight
        self.prompts: list[np.ndarray] = []

    def generate(self, prompts, sampling):
        self.prompts += prompts
        text = self.tokenizer.decode(prompts[0][-self.sight :])
        question = text.rsplit("\n", 1)[1]
        found = re.search(re.escape(question) + r" ?(\d+)", text)
        ids = self.tokenizer.encode(f" {found[1]}" if found else " x")[: sampling.max_tokens]
        return [[SimpleNamespace(ids=ids)]]


def subject(tokenizer, corpus, sight: int = CONTEXT) -> Subject:
    config = SimpleNamespace(max_seq_len=CONTEXT)
    model = SimpleNamespace(tokenizer=tokenizer, config=config, engine=Reader(tokenizer, sight))
    return Subject(model=model, corpus=corpus, rewards={}, max_tokens=8)


def test_who_reads_all_finds_all_at_every_depth_and_exact_length(tokenizer, corpus):
    read = subject(tokenizer, corpus)
    result = Needle(NeedleOptions(steps=2, depths=5)).run(read, 1000, 0)
    assert result.metrics["heat_map"] == {
        "lengths": [256, 512], "depths": [0, 0.25, 0.5, 0.75, 1], "shares": [[1.0] * 5] * 2
    }  # fmt: skip
    assert result.metrics["recall"]["rate"] == 1.0
    room = len(tokenizer.encode(" 99999")) + 1
    assert [len(prompt) + room for prompt in read.model.engine.prompts] == [256] * 5 + [512] * 5
    for row, prompt in zip(result.samples, read.model.engine.prompts, strict=True):
        text = tokenizer.decode(prompt)
        at = text.index(f"{row['prompt']} {row['reference']}.")
        assert text.count(row["prompt"].split()[-2]) == 2, "hidden once, asked once"
        assert at / len(text) == pytest.approx(row["depth"], abs=0.25)


def test_who_sees_half_finds_what_lies_deep(tokenizer, corpus):
    result = Needle(NeedleOptions(lengths=[512], depths=11)).run(subject(tokenizer, corpus, 256), 1000, 0)
    (column,) = result.metrics["heat_map"]["shares"]
    assert column[:4] == [0.0] * 4
    assert column[-4:] == [1.0] * 4
    assert [row["score"] for row in result.samples] == column


def test_of_four_needles_two_are_asked_for(tokenizer, corpus):
    options = NeedleOptions(lengths=[512], depths=5, needles=4, retrieve=2)
    read = subject(tokenizer, corpus)
    result = Needle(options).run(read, 1000, 0)
    assert result.metrics["recall"] | {"low": 0, "high": 0} == {"rate": 1.0, "low": 0, "high": 0, "n": 10}
    for prompt in read.model.engine.prompts:
        assert sum(tokenizer.decode(prompt).count(f"number of {key} is ") for key in KEYS) == 4
    half = Needle(options).run(subject(tokenizer, corpus, 256), 1000, 0)
    assert {row["score"] for row in half.samples} >= {0.5}


def test_the_limit_leaves_cells_out_and_the_seed_says_which(tokenizer, corpus):
    def asked(seed: int) -> list[str]:
        result = Needle(NeedleOptions(depths=11)).run(subject(tokenizer, corpus), 5, seed)
        cells = [share for row in result.metrics["heat_map"]["shares"] for share in row]
        assert (cells.count(None), len(result.samples)) == (len(cells) - 5, 5)
        return [row["id"] for row in result.samples]

    assert asked(1) == asked(1) != asked(2)


def test_no_line_of_the_haystack_answers(tokenizer, corpus):
    held_out = SimpleNamespace(
        documents=lambda split, source=None: [SimpleNamespace(texts=["Paris is in France.\nA river.\n"])]
    )
    read = subject(tokenizer, held_out)
    assert tokenizer.decode(haystack(read, 12)).startswith("A river.\nA")
    with pytest.raises(DataError, match="L3-CTX-021"):
        haystack(subject(tokenizer, SimpleNamespace(documents=lambda split, source=None: [])), 12)


def test_what_has_no_room_is_refused(tokenizer, corpus):
    with pytest.raises(DataError, match=r"no room for the needles.*L3-CTX-020"):
        Needle(NeedleOptions(lengths=[16])).run(subject(tokenizer, corpus), 10, 0)
    with pytest.raises(ValidationError, match="2 facts are asked for, 1 are hidden"):
        NeedleOptions(retrieve=2)
    with pytest.raises(ValidationError, match="once each"):
        NeedleOptions(sentence="The number is {value}")
    with pytest.raises(ValidationError, match="stands before"):
        NeedleOptions(sentence="{value} is that of {key}")


def test_a_real_model_that_knows_nothing_finds_nothing(tokenizer, corpus):
    config = ModelConfig(16, 1, 2, 1, 32, tokenizer.vocab_size, max_seq_len=128, tied=True)
    model = Llama(init_weights(Transformer(config), 1), tokenizer)
    read = Subject(model=model, corpus=corpus, rewards={}, max_tokens=8)
    result = Needle(NeedleOptions(steps=1, depths=3)).run(read, 100, 0)
    assert [row["score"] for row in result.samples] == [0.0] * 3
    assert result == Needle(NeedleOptions(steps=1, depths=3)).run(read, 100, 0)


def test_the_heat_map_tells_full_partial_empty_and_unasked_cells_apart():
    svg = heat_chart([8192, 131072], [0.0, 1.0], [[1.0, 0.5], [0.0, None]], "length, tokens", "depth")
    kinds = re.findall(r'class="cell (\w+)"', svg)
    assert kinds == ["c2", "c3", "c1", "empty"]
    assert re.findall(r">(8K|128K|50|0|100 %|0 %)<", svg) == ["8K", "50", "128K", "0", "0 %", "100 %"]
    assert 'aria-label="share found by depth and length, tokens: 8K 75 %, 128K 0 %"' in svg
