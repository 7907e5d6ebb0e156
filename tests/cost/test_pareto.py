"""The Pareto front against its definition."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from llama3.cost.pareto import front

few = st.integers(0, 6).map(float)
"""So that points are equal, or equal in one of the two, as often as not."""
points = st.lists(st.tuples(few | st.floats(0, 1e9), few | st.floats(0, 1e9)), max_size=30)


def is_beaten(point, by):
    return by[0] <= point[0] and by[1] >= point[1] and by != point


@given(points)
def test_a_point_is_on_it_unless_another_beats_it(points):
    assert front(points) == [not any(is_beaten(point, other) for other in points) for point in points]
