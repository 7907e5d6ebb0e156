"""Conformance of evaluators: figures that another program can read, items that two models can be compared on."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import get_args

import torch

from llama3.evaluation.evaluator import Better, Evaluator, KeepsPrompts, Result, Subject
from llama3.testing.conformance import Conformance
from llama3.testing.toy_texts import toy_corpus
from llama3.testing.toys import ToyTaskReward, toy_llama

LIMIT = 4


class EvaluatorConformance(Conformance):
    """Checks of an evaluator on a tiny model that knows nothing, a corpus of twelve documents, and a reward of sums."""

    family = "evaluators"

    def test_figures_are_plain_data(self) -> None:
        result = self._result()
        assert isinstance(result, Result)
        assert result.metrics, "nothing was measured"
        assert result.better in get_args(Better), f"better is {result.better!r}"
        for what in (result.metrics, result.samples):
            assert json.loads(json.dumps(what, allow_nan=False)) == what, "figures change on their way through JSON"

    def test_every_item_has_a_name_and_a_score(self) -> None:
        """Without them an audit cannot compare two models."""
        samples = self._result().samples
        assert all(isinstance(row.get("id"), str) for row in samples), "an item has no id"
        assert len({row["id"] for row in samples}) == len(samples), "two items have one id"
        for row in samples:
            score = row.get("score")
            assert isinstance(score, int | float), f"the score of {row['id']} is {score!r}"
            assert math.isfinite(score), f"the score of {row['id']} is {score}"
            assert row.get("weight", 1) > 0, f"weight of {row['id']}"

    def test_the_same_seed_gives_the_same_result(self) -> None:
        assert self._result() == self._result()

    def test_another_model_is_asked_the_same(self) -> None:
        one, other = self._result(), self._result(model_seed=1)
        assert [row["id"] for row in one.samples] == [row["id"] for row in other.samples]

    def test_one_item_is_enough(self) -> None:
        assert self._result(limit=1).metrics.keys() == self._result().metrics.keys()

    def test_the_model_stays_as_it_is(self) -> None:
        with self._subject() as subject:
            before = {name: value.clone() for name, value in subject.model.transformer.state_dict().items()}
            self._evaluator().run(subject, LIMIT, 0)
            after = subject.model.transformer.state_dict()
            assert all(torch.equal(value, after[name]) for name, value in before.items()), "the weights were changed"

    def test_prompts_that_nothing_may_learn_are_told_where_the_spec_says_so(self) -> None:
        evaluator = self._evaluator()
        if isinstance(evaluator, KeepsPrompts):
            assert getattr(self.spec, "keeps_prompts", False), "the spec needs keeps_prompts=True"
            assert evaluator.kept_prompts(), "no prompt is told"
            assert len({row.id for row in evaluator.kept_prompts()}) == len(evaluator.kept_prompts())

    # -- helpers ---------------------------------------------------------------------------------

    def _evaluator(self) -> Evaluator:
        evaluator: Evaluator = self.build()
        return evaluator

    def _result(self, limit: int = LIMIT, model_seed: int = 0) -> Result:
        with self._subject(model_seed) as subject:
            return self._evaluator().run(subject, limit, 0)

    @contextmanager
    def _subject(self, model_seed: int = 0) -> Iterator[Subject]:
        with tempfile.TemporaryDirectory() as folder:
            corpus = toy_corpus(Path(folder))
            yield Subject(toy_llama(model_seed), corpus, {"toy": ToyTaskReward()}, max_tokens=4)
