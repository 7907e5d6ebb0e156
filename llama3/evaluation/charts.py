"""Small charts as inline SVG, so that a report is one file. Numbers in, markup out; no state."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape

from llama3.evaluation.intervals import Rate

WIDTH, HEIGHT = 640, 260
LEFT, RIGHT, TOP, BOTTOM = 56, 16, 16, 40
COLOURS = ("#2563eb", "#dc2626", "#059669", "#d97706", "#7c3aed", "#0891b2")
Series = Mapping[str, Sequence[tuple[float, float]]]
Scale = Callable[[float], float]


def line_chart(series: Series, x_label: str, y_label: str) -> str:
    """Lines over a shared pair of linear axes; points that are not finite are left out."""
    finite = {name: [(x, y) for x, y in points if math.isfinite(x + y)] for name, points in series.items()}
    lines = {name: points for name, points in finite.items() if points}
    if not lines:
        return "<p>No points were recorded.</p>"
    xs = [x for points in lines.values() for x, _ in points]
    ys = [y for points in lines.values() for _, y in points]
    x_ticks, y_ticks = ticks(min(xs), max(xs)), ticks(min(ys), max(ys))
    at_x = _scale(min(*xs, x_ticks[0]), max(*xs, x_ticks[-1]), LEFT, WIDTH - RIGHT)
    at_y = _scale(min(*ys, y_ticks[0]), max(*ys, y_ticks[-1]), HEIGHT - BOTTOM, TOP)
    parts = [_axis_x(x_ticks, at_x, x_label), _axis_y(y_ticks, at_y, y_label)]
    for index, (name, points) in enumerate(lines.items()):
        path = " ".join(f"{at_x(x):.1f},{at_y(y):.1f}" for x, y in points)
        colour = COLOURS[index % len(COLOURS)]
        parts.append(f'<polyline fill="none" stroke="{colour}" stroke-width="1.8" points="{path}"/>')
        parts.append(_text(WIDTH - RIGHT - 4, TOP + 14 + 16 * index, name, anchor="end", fill=colour))
    return _svg(parts, f"{y_label} over {x_label}")


def rate_chart(rates: Mapping[str, Rate]) -> str:
    """One bar a rate, from 0 to 100 %, with its interval."""
    step = (WIDTH - LEFT - RIGHT) / max(1, len(rates))
    at_y = _scale(0, 1, HEIGHT - BOTTOM, TOP)
    parts = [_axis_y([0, 0.25, 0.5, 0.75, 1], at_y, "pass rate", lambda v: f"{100 * v:.0f} %")]
    for index, (name, rate) in enumerate(rates.items()):
        x, width = LEFT + step * (index + 0.2), step * 0.6
        middle, top = x + width / 2, at_y(rate.rate)
        size = f'width="{width:.1f}" height="{at_y(0) - top:.1f}"'
        parts.append(f'<rect x="{x:.1f}" y="{top:.1f}" {size} fill="{COLOURS[0]}"/>')
        parts.append(_line(middle, at_y(rate.low), middle, at_y(rate.high), "#111", 2))
        parts += [_line(middle - 6, at_y(v), middle + 6, at_y(v), "#111", 2) for v in (rate.low, rate.high)]
        parts.append(_text(middle, HEIGHT - BOTTOM + 18, f"{name} {100 * rate.rate:.1f} %"))
    return _svg(parts, "pass rates with 95 % intervals")


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
    parts = [_axis_x(inside, at_x, x_label), _axis_y(y_ticks, at_y, "share of answers", lambda v: f"{100 * v:.0f} %")]
    for index, (name, row) in enumerate(shares.items()):
        colour = COLOURS[index % len(COLOURS)]
        for left, right, share in zip(edges, edges[1:], row, strict=False):
            width = (at_x(right) - at_x(left)) * 0.9 / len(shares)
            x = at_x(left) + width * index
            size = f'width="{width:.1f}" height="{at_y(0) - at_y(share):.1f}"'
            parts.append(f'<rect x="{x:.1f}" y="{at_y(share):.1f}" {size} fill="{colour}"/>')
        parts.append(_text(WIDTH - RIGHT - 4, TOP + 14 + 16 * index, name, anchor="end", fill=colour))
    return _svg(parts, f"share of answers over {x_label}")


def funnel_chart(steps: Sequence[tuple[str, float]]) -> str:
    """What is left after each step, as horizontal bars."""
    if not steps:
        return "<p>No steps were recorded.</p>"
    most, row = max(value for _, value in steps) or 1, 26
    parts = []
    for index, (name, value) in enumerate(steps):
        y, width = row * index, (WIDTH - 330) * value / most
        parts.append(f'<rect x="170" y="{y + 4}" width="{width:.1f}" height="{row - 8}" fill="{COLOURS[2]}"/>')
        parts.append(_text(162, y + 18, name, anchor="end"))
        parts.append(_text(176 + width, y + 18, f"{value:,.0f}", anchor="start"))
    return _svg(parts, "documents left after each step", height=row * len(steps) + 4)


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round values that cover [low, high]: steps of 1, 2 or 5 times a power of ten."""
    if high - low < 1e-300:  # equal, or so near that no step lies between
        high = low + (abs(low) if abs(low) > 1e-300 else 1)
    raw = (high - low) / about
    power = 10 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [step * index for index in range(first, last + 1)]


def _scale(low: float, high: float, start: float, end: float) -> Scale:
    span = (high - low) or 1.0
    return lambda value: start + (value - low) / span * (end - start)


def _axis_x(values: Sequence[float], at: Scale, label: str) -> str:
    bottom = HEIGHT - BOTTOM
    parts = [_line(LEFT, bottom, WIDTH - RIGHT, bottom)]
    parts += [_text(at(v), bottom + 16, _number(v)) for v in values]
    return "".join([*parts, _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, label)])


def _axis_y(values: Sequence[float], at: Scale, label: str, show: Callable[[float], str] | None = None) -> str:
    parts = [_line(LEFT, at(v), WIDTH - RIGHT, at(v), "#ddd") for v in values]
    parts += [_text(LEFT - 6, at(v) + 4, (show or _number)(v), anchor="end") for v in values]
    middle = (TOP + HEIGHT - BOTTOM) / 2
    return "".join([*parts, f'<g transform="translate(12,{middle}) rotate(-90)">{_text(0, 0, label)}</g>'])


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _line(x1: float, y1: float, x2: float, y2: float, stroke: str = "#111", width: float = 1) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{stroke}" stroke-width="{width}"/>'


def _text(x: float, y: float, text: str, anchor: str = "middle", fill: str = "#111") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{fill}">{escape(text)}</text>'


def _svg(parts: Sequence[str], label: str, height: float = HEIGHT) -> str:
    head = f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(label)}" font-size="12">'
    return "".join([head, *parts, "</svg>"])
