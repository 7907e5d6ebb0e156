"""Fronts, their knee and what they beat, beside brute force."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from llama3.evaluation.pareto import front, hypervolume, knee

SHARES = st.integers(0, 8).map(lambda k: k / 8)
POINTS = st.lists(st.tuples(SHARES, SHARES), min_size=1, max_size=25).map(np.array)


@given(POINTS)
def test_a_point_is_on_the_front_where_none_beats_it(points):
    beats = lambda a, b: (a <= b).all() and (a < b).any()
    wanted = {tuple(p) for p in points if not any(beats(q, p) for q in points)}
    found = points[front(points)]
    assert {tuple(p) for p in found} == wanted
    assert len(found) == len(wanted), "each once"
    assert (np.diff(found[:, 0]) > 0).all()
    assert (np.diff(found[:, 1]) < 0).all()


@given(POINTS)
def test_the_hypervolume_is_the_share_of_cells_that_some_point_beats(points):
    middles = (np.arange(8) + 0.5) / 8
    x, y = np.meshgrid(middles, middles)
    beaten = np.zeros_like(x, bool)
    for px, py in points:
        beaten |= (x > px) & (y > py)
    assert np.isclose(hypervolume(points), beaten.mean())


def test_the_knee_bends_the_curve():
    points = np.array([[0.0, 1.0], [0.05, 0.3], [0.1, 0.1], [0.6, 0.05], [1.0, 0.0]])
    assert front(points) == [0, 1, 2, 3, 4]
    assert knee(points) == 2
    assert knee(points[[0, 4]]) == 0
    assert knee(np.array([[0.5, 0.5]])) == 0
    # Stretched: a front whose rates are small has the same knee.
    assert knee(points * [0.01, 0.2]) == 2
