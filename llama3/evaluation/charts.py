"""Small charts as inline SVG, so that a report is one file. Numbers in, markup out; no state.

Colours are classes (`c0` to `c5`) that the page's style sheet fills in for a light and a dark background; curves differ
in their dashes too, for whoever does not tell the colours apart.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import NamedTuple

from llama3.evaluation.intervals import Rate

WIDTH, HEIGHT = 480, 240
LEFT, RIGHT, TOP, BOTTOM = 58, 14, 12, 42
FONT = 14
COLOURS = 6
DASHES = ("", "7 3", "2 3", "9 3 2 3")
LEGEND_ROW, LEGEND_COLUMNS = 18, 3
Series = Mapping[str, Sequence[tuple[float, float]]]
Scale = Callable[[float], float]
Show = Callable[[float], str]


class Offered(NamedTuple):
    """A point of `offer_chart`: where it lies, what it is, and whether no other one beats it."""

    x: float
    y: float
    label: str
    is_best: bool


class RatePoint(NamedTuple):
    """A point of `plane_chart`: two rates, what it is, and whether it is drawn hollow."""

    x: Rate
    y: Rate
    label: str
    is_hollow: bool


def line_chart(series: Series, x_label: str, y_label: str) -> str:
    """Lines over a shared pair of linear axes; points that are not finite are left out."""
    finite = {name: [(x, y) for x, y in points if math.isfinite(x + y)] for name, points in series.items()}
    lines = {name: points for name, points in finite.items() if points}
    if not lines:
        return "<p>No points were recorded.</p>"
    at_x, at_y, parts = _axes(lines, x_label, y_label)
    for index, points in enumerate(lines.values()):
        path = " ".join(f"{at_x(x):.1f},{at_y(y):.1f}" for x, y in points)
        parts.append(f'<polyline class="curve {_colour(index)}"{_dash(index)} points="{path}"/>')
    return _svg(parts, f"{y_label} over {x_label}: {_spans(lines)}", legend=list(lines), dashed=True)


def fit_chart(points: Series, curves: Series, x_label: str, y_label: str) -> str:
    """Measured points, and the curves that were fitted to them: a name in both has one colour. What is not finite is
    left out."""
    names = list(dict.fromkeys([*points, *curves]))
    drawn = {name: [*points.get(name, ()), *curves.get(name, ())] for name in names}
    kept = {name: [(x, y) for x, y in row if math.isfinite(x + y)] for name, row in drawn.items()}
    if not any(kept.values()):
        return "<p>No points were recorded.</p>"
    at_x, at_y, parts = _axes({name: row for name, row in kept.items() if row}, x_label, y_label)
    for index, name in enumerate(names):
        path = " ".join(f"{at_x(x):.1f},{at_y(y):.1f}" for x, y in curves.get(name, ()) if math.isfinite(x + y))
        if path:
            parts.append(f'<polyline class="curve {_colour(index)}"{_dash(index)} points="{path}"/>')
        for x, y in points.get(name, ()):
            if math.isfinite(x + y):
                place = f'cx="{at_x(x):.1f}" cy="{at_y(y):.1f}"'
                label = f"<title>{escape(name)}: {x:.4g}, {y:.4g}</title>"
                parts.append(f'<circle class="point {_colour(index)}" {place} r="4">{label}</circle>')
    told = _spans({name: row for name, row in kept.items() if row})
    return _svg(parts, f"{y_label} over {x_label}: {told}", legend=names, dashed=True)


def offer_chart(offers: Mapping[str, Sequence[Offered]], x_label: str, y_label: str) -> str:
    """Lines through points that are offered for choice, and a mark at each: filled where it is worth choosing, hollow
    where another one beats it both ways. The y axis begins at 0."""
    lines = {name: [(offer.x, offer.y) for offer in points] for name, points in offers.items() if points}
    if not lines:
        return "<p>No points are there.</p>"
    origin = min(x for points in lines.values() for x, _ in points), 0.0
    at_x, at_y, parts = _axes({**lines, "": [origin]}, x_label, y_label)
    for index, name in enumerate(lines):
        path = " ".join(f"{at_x(x):.1f},{at_y(y):.1f}" for x, y in lines[name])
        parts.append(f'<polyline class="curve {_colour(index)}"{_dash(index)} points="{path}"/>')
        for offer in offers[name]:
            kind = f"point {_colour(index)}" + ("" if offer.is_best else " beaten")
            place = f'cx="{at_x(offer.x):.1f}" cy="{at_y(offer.y):.1f}"'
            parts.append(f'<circle class="{kind}" {place} r="4"><title>{escape(offer.label)}</title></circle>')
    told = ", ".join(offer.label for points in offers.values() for offer in points if offer.is_best)
    return _svg(parts, f"{y_label} over {x_label}; worth choosing: {told}", legend=list(lines), dashed=True)


def plane_chart(points: Mapping[str, Sequence[RatePoint]], x_label: str, y_label: str) -> str:
    """Points of two rates, each with both intervals, over the whole square of 0 to 100 %. Those of a name have one
    colour."""
    at_x = _scale(0, 1, LEFT, WIDTH - 2 * RIGHT)  # its last label has room
    at_y = _scale(0, 1, HEIGHT - BOTTOM, TOP)
    axis = [0, 0.25, 0.5, 0.75, 1]
    parts = [_axis_y(axis, at_y, y_label, whole_percent), _axis_x(axis, at_x, x_label, whole_percent)]
    for index, name in enumerate(points):
        marks = "".join(_placed(point, at_x, at_y) for point in points[name])
        parts.append(f'<g class="{_colour(index)}">{marks}</g>')
    told = "; ".join(f"{p.label}: {x_label} {p.x}, {y_label} {p.y}" for row in points.values() for p in row)
    return _svg(parts, told, legend=list(points))


def _placed(point: RatePoint, at_x: Scale, at_y: Scale) -> str:
    """The mark of a point over a line for each of its intervals."""
    x, y = at_x(point.x.rate), at_y(point.y.rate)
    spans = _line(at_x(point.x.low), y, at_x(point.x.high), y, "span")
    spans += _line(x, at_y(point.y.low), x, at_y(point.y.high), "span")
    kind = "point hollow" if point.is_hollow else "point"
    label = f"<title>{escape(point.label)}</title>"
    return f'{spans}<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="5">{label}</circle>'


def whole_percent(share: float) -> str:
    """A share in whole percent."""
    return f"{100 * share:.0f} %"


def rate_chart(rates: Mapping[str, Rate]) -> str:
    """One bar a rate, from 0 to 100 %, with its interval."""
    step = (WIDTH - LEFT - RIGHT) / max(1, len(rates))
    at_y = _scale(0, 1, HEIGHT - BOTTOM, TOP)
    parts = [_axis_y([0, 0.25, 0.5, 0.75, 1], at_y, "pass rate", whole_percent)]
    for index, (name, rate) in enumerate(rates.items()):
        x, width = LEFT + step * (index + 0.2), step * 0.6
        middle, top = x + width / 2, at_y(rate.rate)
        size = f'width="{width:.1f}" height="{at_y(0) - top:.1f}"'
        parts.append(f'<rect class="bar c0" x="{x:.1f}" y="{top:.1f}" {size}/>')
        parts.append(_line(middle, at_y(rate.low), middle, at_y(rate.high), "error"))
        parts += [_line(middle - 6, at_y(v), middle + 6, at_y(v), "error") for v in (rate.low, rate.high)]
        parts.append(_text(middle, HEIGHT - BOTTOM + 16, name))
        parts.append(_text(middle, HEIGHT - BOTTOM + 32, f"{100 * rate.rate:.1f} %"))
    told = ", ".join(f"{name} {rate}" for name, rate in rates.items())
    return _svg(parts, f"pass rates with 95 % intervals: {told}")


def change_chart(changes: Mapping[str, tuple[float, float, float]], unit: str) -> str:
    """Changes with their intervals (low, change, high), a row each, beside the line of no change. `unit` is that of a
    hundredth: % or points (pt)."""
    row, start, height = 30, 150, 30 * len(changes) + BOTTOM
    values = ticks(
        min(0.0, *(low for low, _, _ in changes.values())), max(0.0, *(high for *_, high in changes.values()))
    )
    at = _scale(values[0], values[-1], start, WIDTH - RIGHT)
    parts = [_line(at(0), 0, at(0), height - BOTTOM, "axis")]
    parts += [_text(at(v), height - BOTTOM + 17, f"{100 * v:+.3g} {unit}" if v else "0") for v in values]
    for index, (name, (low, change, high)) in enumerate(changes.items()):
        y = row * index + row / 2
        parts.append(_text(start - 8, y + 4, name, anchor="end"))
        parts.append(_line(at(low), y, at(high), y, "error"))
        parts += [_line(at(v), y - 5, at(v), y + 5, "error") for v in (low, high)]
        parts.append(f'<circle class="point c0" cx="{at(change):.1f}" cy="{y:.1f}" r="4"/>')
    told = ", ".join(
        f"{name} {100 * change:+.1f} {unit} [{100 * low:+.1f}, {100 * high:+.1f}]"
        for name, (low, change, high) in changes.items()
    )
    return _svg(parts, f"changes with 95 % intervals: {told}", height=height)


def histogram_chart(edges: Sequence[float], counts: Mapping[str, Sequence[int]], x_label: str) -> str:
    """Bars side by side: the share of each group's values in each bin. `edges` are one more than the bins."""
    groups = {name: row for name, row in counts.items() if sum(row)}
    if not groups:
        return "<p>No values were recorded.</p>"
    shares = {name: [count / sum(row) for count in row] for name, row in groups.items()}
    at_x = _scale(edges[0], edges[-1], LEFT, WIDTH - RIGHT)
    y_ticks = ticks(0, max(map(max, shares.values())))
    at_y = _scale(0, y_ticks[-1], HEIGHT - BOTTOM, TOP)
    inside = [value for value in ticks(edges[0], edges[-1]) if edges[0] <= value <= edges[-1]]
    parts = [_axis_x(inside, at_x, x_label), _axis_y(y_ticks, at_y, "share of answers", whole_percent)]
    for index, row in enumerate(shares.values()):
        for left, right, share in zip(edges, edges[1:], row, strict=False):
            width = (at_x(right) - at_x(left)) * 0.9 / len(shares)
            x = at_x(left) + width * index
            size = f'width="{width:.1f}" height="{at_y(0) - at_y(share):.1f}"'
            parts.append(f'<rect class="bar {_colour(index)}" x="{x:.1f}" y="{at_y(share):.1f}" {size}/>')
    told = ", ".join(f"{name} ({sum(row):,} answers)" for name, row in groups.items())
    return _svg(parts, f"share of answers over {x_label}: {told}", legend=list(shares) if len(shares) > 1 else ())


def heat_chart(
    lengths: Sequence[int],
    depths: Sequence[float],
    shares: Sequence[Sequence[float | None]],
    x_label: str,
    y_label: str,
) -> str:
    """A cell for each length (across) and depth (down, 0 to 1): full where all was found, else with its share in words;
    hollow where nothing was asked. `shares` has a row of all depths for each length."""
    top, row = TOP, max(14.0, (HEIGHT - TOP - BOTTOM) / max(1, len(depths)))
    step, bottom = (WIDTH - LEFT - RIGHT) / max(1, len(lengths)), top + row * len(depths)
    parts = []
    for across, (length, by_depth) in enumerate(zip(lengths, shares, strict=True)):
        x = LEFT + step * across
        parts.append(_text(x + step / 2, bottom + 17, thousands(length)))
        for down, share in enumerate(by_depth):
            y = top + row * down
            kind = "empty" if share is None else "c2" if share == 1 else "c1" if share == 0 else "c3"
            size = f'width="{step - 2:.1f}" height="{row - 2:.1f}"'
            parts.append(f'<rect class="cell {kind}" x="{x + 1:.1f}" y="{y + 1:.1f}" {size}/>')
            if share is not None and share < 1:
                parts.append(_text(x + step / 2, y + row / 2 + 5, f"{100 * share:.0f}"))
    every = -(-len(depths) * FONT // max(1, int(row * len(depths))))
    parts += [
        _text(LEFT - 6, top + row * (down + 0.5) + 5, f"{100 * depth:.0f} %", anchor="end")
        for down, depth in enumerate(depths)
        if down % every == 0
    ]
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, bottom + 36, x_label))
    parts.append(f'<g transform="translate(12,{(top + bottom) / 2:.1f}) rotate(-90)">{_text(0, 0, y_label)}</g>')
    told = ", ".join(f"{thousands(n)} {_mean(by_depth)}" for n, by_depth in zip(lengths, shares, strict=True))
    return _svg(parts, f"share found by {y_label} and {x_label}: {told}", height=bottom + BOTTOM)


def _mean(shares: Sequence[float | None]) -> str:
    known = [share for share in shares if share is not None]
    return f"{100 * sum(known) / len(known):.0f} %" if known else "not asked"


def thousands(count: int) -> str:
    """`8K` of 8,192, `1.5K` of 1,536; smaller numbers as they are."""
    return f"{count / 1024:.3g}K" if count >= 1024 else str(count)


def funnel_chart(steps: Sequence[tuple[str, float]]) -> str:
    """What is left after each step, as horizontal bars."""
    if not steps:
        return "<p>No steps were recorded.</p>"
    most, row, start, room = max(value for _, value in steps) or 1, 26, 150, 90
    parts = []
    for index, (name, value) in enumerate(steps):
        y, width = row * index, (WIDTH - start - room) * value / most
        parts.append(f'<rect class="bar c2" x="{start}" y="{y + 4}" width="{width:.1f}" height="{row - 8}"/>')
        parts.append(_text(start - 8, y + 18, name, anchor="end"))
        parts.append(_text(start + 6 + width, y + 18, f"{value:,.0f}", anchor="start"))
    told = ", ".join(f"{name} {value:,.0f}" for name, value in steps)
    return _svg(parts, f"documents left after each step: {told}", height=row * len(steps) + 4)


def _axes(lines: Series, x_label: str, y_label: str) -> tuple[Scale, Scale, list[str]]:
    """Where values of both axes lie, and the axes, for what there is to draw."""
    xs = [x for points in lines.values() for x, _ in points]
    ys = [y for points in lines.values() for _, y in points]
    x_ticks, y_ticks = _whole(ticks(min(xs), max(xs)), xs), ticks(min(ys), max(ys))
    at_x = _scale(min(*xs, x_ticks[0]), max(*xs, x_ticks[-1]), LEFT, WIDTH - RIGHT)
    at_y = _scale(min(*ys, y_ticks[0]), max(*ys, y_ticks[-1]), HEIGHT - BOTTOM, TOP)
    return at_x, at_y, [_axis_x(x_ticks, at_x, x_label), _axis_y(y_ticks, at_y, y_label)]


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round values that cover [low, high]: steps of 1, 2 or 5 times a power of ten."""
    if high - low < 1e-300:  # equal, or so near that no step lies between
        high = low + (abs(low) if abs(low) > 1e-300 else 1)
    raw = (high - low) / about
    power = 10 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [step * index for index in range(first, last + 1)]


def _whole(values: list[float], of: Sequence[float]) -> list[float]:
    """Without the fractions, where what is counted has none (steps)."""
    whole = [value for value in values if abs(value - round(value)) < 1e-9]
    return whole if len(whole) > 1 and all(float(x).is_integer() for x in of) else values


def _spans(lines: Series) -> str:
    """What a reader who does not see the curves is told."""
    return ", ".join(f"{name} from {points[0][1]:.4g} to {points[-1][1]:.4g}" for name, points in lines.items())


def _scale(low: float, high: float, start: float, end: float) -> Scale:
    span = (high - low) or 1.0
    return lambda value: start + (value - low) / span * (end - start)


def _axis_x(values: Sequence[float], at: Scale, label: str, show: Show | None = None) -> str:
    bottom, show = HEIGHT - BOTTOM, show or labels(values)
    parts = [_line(LEFT, bottom, WIDTH - RIGHT, bottom, "axis")]
    parts += [_text(at(v), bottom + 17, show(v)) for v in values]
    return "".join([*parts, _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, label)])


def _axis_y(values: Sequence[float], at: Scale, label: str, show: Show | None = None) -> str:
    show = show or labels(values)
    parts = [_line(LEFT, at(v), WIDTH - RIGHT, at(v), "tick") for v in values]
    parts += [_text(LEFT - 6, at(v) + 4, show(v), anchor="end") for v in values]
    middle = (TOP + HEIGHT - BOTTOM) / 2
    return "".join([*parts, f'<g transform="translate(12,{middle}) rotate(-90)">{_text(0, 0, label)}</g>'])


def labels(values: Sequence[float]) -> Show:
    """How ticks are written: with as many decimals as tell them apart."""
    step = min((b - a for a, b in itertools.pairwise(values)), default=1.0)
    decimals = max(0, -math.floor(math.log10(step) + 1e-9)) if step > 0 else 0
    largest = max((abs(value) for value in values), default=0)
    if decimals > 4 or largest >= 1e6:
        digits = max(1, math.ceil(math.log10(max(largest / step, 1)))) if step > 0 else 6
        return lambda value: f"{value:.{min(digits + 1, 6)}g}"
    return lambda value: f"{value:,.{decimals}f}"


def _colour(index: int) -> str:
    return f"c{index % COLOURS}"


def _dash(index: int) -> str:
    pattern = DASHES[index % len(DASHES)]
    return f' stroke-dasharray="{pattern}"' if pattern else ""


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _text(x: float, y: float, text: str, anchor: str = "middle") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _legend(names: Sequence[str], dashed: bool) -> str:
    """The names below the plot, each beside a piece of its curve or bar."""
    width = (WIDTH - LEFT - RIGHT) / LEGEND_COLUMNS
    parts = []
    for index, name in enumerate(names):
        x, y = LEFT + width * (index % LEGEND_COLUMNS), HEIGHT + LEGEND_ROW * (index // LEGEND_COLUMNS) + 12
        kind = f'class="curve"{_dash(index)}' if dashed else 'class="swatch"'
        line = f'<line {kind} x1="{x:.1f}" y1="{y - 4}" x2="{x + 24:.1f}" y2="{y - 4}"/>'
        parts.append(f'<g class="{_colour(index)}">{line}{_text(x + 30, y, name, anchor="start")}</g>')
    return "".join(parts)


def _svg(
    parts: Sequence[str], label: str, height: float = HEIGHT, legend: Sequence[str] = (), dashed: bool = False
) -> str:
    height += LEGEND_ROW * math.ceil(len(legend) / LEGEND_COLUMNS)
    head = f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(label)}" font-size="{FONT}">'
    return "".join([head, *parts, _legend(legend, dashed), "</svg>"])
