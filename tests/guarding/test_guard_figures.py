"""Figures of a guard beside what they mean, counted one by one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama3.guarding.figures import auc, confusion, confusion_intervals, recall_at, separation, threshold_at

SCORES = st.lists(st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.75, 1.0]), min_size=1, max_size=30).map(np.array)
RATES = st.floats(0.01, 0.99)


@given(SCORES, SCORES)
def test_auc_counts_pairs(attacks, harmless):
    pairs = [1.0 if a > h else 0.5 if a == h else 0.0 for a in attacks for h in harmless]
    assert auc(attacks, harmless) == pytest.approx(sum(pairs) / len(pairs))


@given(SCORES, RATES)
def test_a_threshold_keeps_its_rate_and_no_lower_one_does(harmless, fpr):
    threshold = threshold_at(harmless, fpr)
    assert (harmless >= threshold).mean() <= fpr + 1e-9
    below = [score for score in harmless if score < threshold]
    if below:
        assert (harmless >= max(below)).mean() > fpr


def test_separation_of_scores_apart_and_alike():
    apart = separation(np.array([0.9, 0.8, 0.95]), np.array([0.1, 0.2, 0.3]), 0.01)
    assert apart["auc"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    assert apart["recall"]["value"] == 1.0
    rng = np.random.default_rng(0)
    alike = separation(rng.random(300), rng.random(300), 0.1)
    assert alike["auc"]["low"] < 0.5 < alike["auc"]["high"]
    assert alike["recall"]["low"] <= recall_at(rng.random(300), rng.random(300), 0.1) + 0.1


def test_confusion_is_what_was_counted():
    attack, found = np.array([1, 1, 1, 0, 0], bool), np.array([1, 1, 0, 1, 0], bool)
    assert confusion(attack, found) == pytest.approx(
        {"precision": 2 / 3, "recall": 2 / 3, "f1": 2 / 3, "fpr": 1 / 2, "attacks": 3, "harmless": 2}
    )
    ends = confusion_intervals(attack, found)
    assert ends["recall"] == ends["precision"] == pytest.approx([0.208, 0.939], abs=1e-3)
    nothing = confusion(np.zeros(2, bool), np.zeros(2, bool))
    assert (nothing["f1"], nothing["fpr"]) == (0.0, 0.0)


def test_no_mistake_on_few_texts_is_no_promise():
    attack = np.array([1] * 6 + [0] * 5, bool)
    ends = confusion_intervals(attack, attack)
    assert ends["fpr"] == pytest.approx([0.0, 0.434], abs=1e-3)
    assert ends["f1"] == [1.0, 1.0]
    assert "fpr" not in confusion_intervals(np.ones(3, bool), np.ones(3, bool)), "no harmless text was there"
