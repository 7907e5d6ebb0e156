"""Histograms of rewards from the rows that loggers write."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from llama3.evaluation.reward_histograms import reward_histograms


def row(step, reward, stage="prefer", answer="a", prompt="p"):
    return {"stage": stage, "step": step, "prompt": prompt, "answer": answer, "reward": reward, "length": 3}


def test_two_halves_of_a_stage():
    rows = [row(step, float(step > 2), answer=f"{i}") for step in (1, 2, 3, 4) for i in range(5)]
    found = reward_histograms(rows)["prefer"]
    assert sum(found["counts"]["first half"]) == sum(found["counts"]["last half"]) == 10
    assert found["counts"]["first half"][0] == found["counts"]["last half"][-1] == 10
    assert (found["edges"][0], found["edges"][-1], found["unknown"]) == (0, 1, 0)


def test_what_a_resumed_run_tells_again_counts_once():
    assert sum(reward_histograms([row(1, 0.5), row(1, 0.5), row(1, 0.5, answer="b")])["prefer"]["counts"]["all"]) == 2


def test_odd_rows_do_no_harm():
    rows = [
        {},
        {"stage": "sft", "step": 1, "text": "no reward"},
        row(1, None, "other"),
        row(1, None),
        row(2, float("nan")),
        row(None, 1.0),
    ]
    found = reward_histograms(rows)
    assert found.keys() == {"prefer", "other"}
    assert found["other"] == {"edges": [], "counts": {}, "unknown": 1}
    assert found["prefer"]["unknown"] == 2
    assert sum(map(sum, found["prefer"]["counts"].values())) == 1


@given(st.lists(st.tuples(st.integers(0, 9) | st.none(), st.none() | st.floats(-1e6, 1e6)), min_size=1, max_size=60))
def test_every_known_reward_is_in_one_bin(pairs):
    rows = [row(step, reward, prompt=f"{i}") for i, (step, reward) in enumerate(pairs)]
    found = reward_histograms(rows)["prefer"]
    known = sum(reward is not None for _, reward in pairs)
    assert sum(map(sum, found["counts"].values())) == known
    assert found["unknown"] == len(pairs) - known
