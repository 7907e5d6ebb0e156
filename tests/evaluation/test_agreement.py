"""Agreement of annotators beside the packages krippendorff and nltk, its intervals, and how often models win."""

from __future__ import annotations

import warnings

import krippendorff
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nltk.metrics.agreement import AnnotationTask

from llama3.annotating.items import ModelAnswer, PairItem
from llama3.annotating.judgements import Annotation
from llama3.evaluation.agreement import (
    SCALE,
    SIDES,
    agreement_figures,
    cohens_kappa,
    krippendorffs_alpha,
    percent,
    places,
    wins,
)

NAMES = ("ada", "ben", "cyd")


def judged(table):
    """Of rows of one place for each annotator, None where nothing was said."""
    return {
        name: {f"i{row}": cells[column] for row, cells in enumerate(table) if cells[column] is not None}
        for column, name in enumerate(NAMES)
    }


def drawn(seed, scale, agree=0.6, count=40):
    """Three annotators who often say the same; one in five judgements is missing."""
    rng = np.random.default_rng(seed)
    truth = rng.choice(scale, count)
    table = np.where(rng.random((count, 3)) < agree, truth[:, None], rng.choice(scale, (count, 3)))
    return [[None if rng.random() < 0.2 else int(cell) for cell in row] for row in table]


def theirs(table, level, scale):
    data = [[np.nan if row[column] is None else row[column] for row in table] for column in range(3)]
    return krippendorff.alpha(reliability_data=data, level_of_measurement=level, value_domain=list(scale))


@pytest.mark.parametrize("seed", range(5))
def test_alpha_is_that_of_the_package_krippendorff(seed):
    sides, strengths = drawn(seed, SIDES), drawn(seed, SCALE)
    nominal = krippendorffs_alpha(judged(sides), SIDES, ordinal=False)
    ordinal = krippendorffs_alpha(judged(strengths), SCALE, ordinal=True)
    assert nominal.value == pytest.approx(theirs(sides, "nominal", SIDES), abs=1e-12)
    assert ordinal.value == pytest.approx(theirs(strengths, "ordinal", SCALE), abs=1e-12)
    assert -1 < nominal.low < nominal.value < nominal.high < 1


@settings(max_examples=30)
@given(st.lists(st.tuples(*[st.sampled_from(SIDES)] * 2), min_size=2, max_size=30))
def test_kappa_is_that_of_nltk(pairs):
    one, other = ({f"i{row}": pair[side] for row, pair in enumerate(pairs)} for side in (0, 1))
    found = cohens_kappa(one, other)
    data = [(name, item, str(value)) for name, said in (("a", one), ("b", other)) for item, value in said.items()]
    if len({value for pair in pairs for value in pair}) == 1:
        assert (found.value, found.low, found.high) == (None, -1.0, 1.0), "without any difference it says nothing"
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert found.value == pytest.approx(AnnotationTask(data=data).kappa(), abs=1e-12)


def test_percent_counts_every_two_judgements_of_an_item():
    found = percent(judged([[1, 1, 1], [1, 1, -1], [0, None, 0], [1, None, None]]))
    assert (found.value, found.n) == (pytest.approx((3 + 1 + 1) / (3 + 3 + 1)), 3)
    assert percent(judged([[1, None, None]])).to_json() == {"value": None, "low": 0.0, "high": 1.0, "n": 0}


def test_the_interval_holds_what_the_annotators_tend_to():
    tends_to = krippendorffs_alpha(judged(drawn(99, SIDES, count=20_000)), SIDES, ordinal=False).value
    found = [krippendorffs_alpha(judged(drawn(seed, SIDES, count=60)), SIDES, ordinal=False) for seed in range(40)]
    assert sum(one.low <= tends_to <= one.high for one in found) >= 35


def test_who_judges_alike_agrees_and_who_guesses_does_not():
    table = drawn(3, SCALE, agree=1.0, count=200)
    assert agreement_figures(judged(table))["side"]["value"] == 1.0
    guessed = agreement_figures(judged(drawn(3, SCALE, agree=0.0, count=400)))
    assert guessed["side"]["low"] < 0 < guessed["side"]["high"]
    assert guessed["strength"]["low"] < 0 < guessed["strength"]["high"]
    assert set(guessed["kappa"]) == {"ada, ben", "ada, cyd", "ben, cyd"}


def said(item, verdict, chosen=None):
    return Annotation(item, 0, verdict, "now", left=0, chosen=chosen)


def test_judgements_are_places_on_one_scale_whatever_side_they_stood_on():
    of = {"a": said("a", "significantly better", 0), "b": said("b", "marginally better", 1), "c": said("c", "tie")}
    assert places({"ada": of | {"d": said("d", "skip")}}) == {"ada": {"a": 4, "b": -1, "c": 0}}


def test_wins_of_one_model_against_another():
    models = [("base", "tuned"), ("tuned", "base"), ("base", "tuned"), ("base", "base")]
    items = {
        f"i{n}": PairItem(({"role": "user", "content": str(n)},), (ModelAnswer(a, "x"), ModelAnswer(b, "y")))
        for n, (a, b) in enumerate(models)
    }
    ada = {"i0": said("i0", "better", 1), "i1": said("i1", "better", 0), "i3": said("i3", "better", 0)}
    ben = {"i0": said("i0", "tie"), "i1": said("i1", "better", 1)}
    (row,) = wins(items, {"ada": ada, "ben": ben})
    assert (row["model"], row["other"], row["n"], row["rate"]) == ("base", "tuned", 3, pytest.approx(1 / 3))
