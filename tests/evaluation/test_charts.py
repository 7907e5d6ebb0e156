"""Charts are well-formed, escape what they show, and survive odd input."""

import math
import xml.etree.ElementTree as ET

from hypothesis import example, given
from hypothesis import strategies as st

from llama3.evaluation.charts import (
    Offered,
    change_chart,
    fit_chart,
    funnel_chart,
    histogram_chart,
    line_chart,
    offer_chart,
    rate_chart,
    ticks,
)
from llama3.evaluation.intervals import wilson

finite = st.floats(-1e9, 1e9)


@given(st.lists(st.tuples(finite, finite), min_size=1, max_size=20))
def test_lines_stay_inside_the_picture(points):
    svg = ET.fromstring(line_chart({"a<b>": points}, "step", "loss"))
    (line,) = svg.findall("polyline")
    for pair in line.attrib["points"].split():
        x, y = map(float, pair.split(","))
        assert 0 <= x <= 640
        assert 0 <= y <= 260
    assert "a<b>" in [element.text for element in svg.iter("text")]


def test_no_finite_point_is_said_so():
    assert "No points" in line_chart({"a": [(1, math.nan)]}, "x", "y")
    assert "No steps" in funnel_chart([])


@given(st.lists(st.tuples(st.floats(0, 1e9), st.floats(0, 1e9), st.booleans()), min_size=1, max_size=20))
def test_offers_stay_inside_the_picture_and_show_which_are_worth_choosing(points):
    offers = [Offered(x, y, f"<{number}>", is_best) for number, (x, y, is_best) in enumerate(points)]
    svg = ET.fromstring(offer_chart({"a": offers, "none": []}, "ms", "tokens/s"))
    marks = svg.findall("circle")
    assert [mark.findtext("title") for mark in marks] == [offer.label for offer in offers]
    assert ["beaten" not in mark.attrib["class"].split() for mark in marks] == [offer.is_best for offer in offers]
    assert all(0 <= float(mark.attrib["cx"]) <= 480 and 0 <= float(mark.attrib["cy"]) <= 240 for mark in marks)
    assert "No points" in offer_chart({"none": []}, "ms", "tokens/s")


@given(st.lists(st.tuples(finite, finite), min_size=1, max_size=10), st.lists(st.tuples(finite, finite), max_size=10))
def test_points_and_their_curve_have_one_colour_and_stay_inside(points, curve):
    svg = ET.fromstring(fit_chart({"none": [], "a<b": points}, {"a<b": curve, "alone": [(0, math.nan)]}, "x", "y"))
    marks = svg.findall("circle")
    assert [mark.attrib["class"] for mark in marks] == ["point c1"] * len(points)
    assert all(0 <= float(mark.attrib["cx"]) <= 480 and 0 <= float(mark.attrib["cy"]) <= 240 for mark in marks)
    assert [line.attrib["class"] for line in svg.findall("polyline")] == ["curve c1"] * bool(curve)
    assert "No points" in fit_chart({"a": [(math.inf, 1)]}, {}, "x", "y")


def test_bars_and_funnels_parse():
    ET.fromstring(rate_chart({"base": wilson(0, 10), "final": wilson(9, 10)}))
    ET.fromstring(funnel_chart([("read", 0), ("kept & clean", 0)]))


@given(finite, finite)
@example(0.0, -5e-324)
def test_ticks_cover_the_range_in_order(a, b):
    low, high = min(a, b), max(a, b)
    values = ticks(low, high)
    span = max(high - low, 1e-12)
    assert values == sorted(values)
    assert values[0] <= low + 1e-6 * max(span, abs(low))
    assert values[-1] >= high - 1e-6 * max(span, abs(high))
    assert 2 <= len(values) <= 13


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=12), st.integers(0, 5), finite, st.floats(1e-6, 1e6))
def test_histogram_bars_are_shares_of_the_height(counts, other, low, width):
    edges = [low + width * i for i in range(len(counts) + 1)]
    svg = histogram_chart(edges, {"a": counts, "b": [other] * len(counts)}, "reward")
    if not sum(counts) and not other:
        assert "No values" in svg
        return
    bars = ET.fromstring(svg).findall("rect")
    assert len(bars) == len(counts) * (bool(sum(counts)) + bool(other))
    for bar in bars:
        assert 0 <= float(bar.attrib["y"]) <= 260
        assert 0 <= float(bar.attrib["height"]) <= 260


@given(
    st.dictionaries(st.text(min_size=1, max_size=9), st.lists(finite, min_size=3, max_size=3), min_size=1, max_size=9)
)
def test_changes_stay_inside_the_picture_beside_the_line_of_none(changes):
    drawn = {name: tuple(sorted(ends)) for name, ends in changes.items()}
    try:
        svg = ET.fromstring(change_chart(drawn, "pt"))
    except ET.ParseError:  # a name with characters that XML does not have
        return
    places = [float(mark.attrib["cx"]) for mark in svg.findall("circle")]
    assert len(places) == len(changes)
    assert all(150 <= place <= 480 for place in places)
    (none, *_) = svg.findall("line")
    for (_, change, _), place in zip(drawn.values(), places, strict=True):
        assert (place - float(none.attrib["x1"])) * change >= -0.2 * abs(change)
