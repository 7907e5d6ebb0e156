"""Diversity against the definitions and sacreBLEU."""

from __future__ import annotations

import math
from collections import Counter

import pytest
from data_texts import prose
from hypothesis import given, settings
from hypothesis import strategies as st
from sacrebleu.metrics import BLEU

from llama3.data.variety import diversity, self_bleu


def by_definition(texts: list[list[str]]) -> float:
    """Each text against all others, by sacreBLEU."""
    bleu = BLEU(smooth_method="add-k", smooth_value=1, tokenize="none", effective_order=False)
    scores = []
    for n, words in enumerate(texts):
        others = [" ".join(other) for m, other in enumerate(texts) if m != n]
        scores.append(bleu.sentence_score(" ".join(words), others).score / 100)
    return sum(scores) / len(scores)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.sampled_from("abcdefg"), min_size=4, max_size=30), min_size=2, max_size=6))
def test_self_bleu_is_that_of_sacrebleu(texts: list[list[str]]) -> None:
    assert self_bleu(texts) == pytest.approx(by_definition(texts), abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text("ab c", min_size=1, max_size=40), min_size=1, max_size=6))
def test_distinct_and_entropy_are_what_they_are_called(texts: list[str]) -> None:
    found = diversity(texts)
    for n in (1, 2, 3, 4):
        grams = [tuple(text.split()[k : k + n]) for text in texts for k in range(len(text.split()) - n + 1)]
        expected = len(set(grams)) / len(grams) if grams else math.nan
        assert found.distinct[n - 1] == pytest.approx(expected, nan_ok=True)
        if n == 3 and len(grams) > 1:
            counts = Counter(grams).values()
            bits = sum(count / len(grams) * math.log2(len(grams) / count) for count in counts)
            assert found.entropy == pytest.approx(bits / math.log2(len(grams)))


def test_the_same_again_and_again_is_seen_in_every_figure() -> None:
    varied = diversity([prose(n) for n in range(30)])
    alike = diversity([prose(n % 3) for n in range(30)])
    assert alike.self_bleu > 0.99 > varied.self_bleu
    assert alike.distinct[2] < 0.5 * varied.distinct[2]
    assert alike.entropy < varied.entropy
    assert diversity([prose(n) for n in reversed(range(30))]) == varied, "the order does not count"
    assert math.isnan(diversity([]).self_bleu)
    assert math.isnan(diversity([""]).entropy)
