"""Changes for people: of shares in points (pt), of costs in percent of what it was."""

from __future__ import annotations


def unit_of(better: str) -> str:
    """What a change is told in: points (pt) of shares, percent of what it was of costs."""
    return "%" if better == "lower" else "pt"


def told_size(change: float, better: str) -> str:
    """`5.0 pt`, of a margin or a loss."""
    return f"{100 * change:.1f} {unit_of(better)}"


def told_ends(low: float, high: float) -> str:
    """`[+1.2, +5.4]`, the interval of a change; with a second digit where the first does not show that it excludes
    0."""
    digits = _digits(low, high)
    return f"[{100 * low:+.{digits}f}, {100 * high:+.{digits}f}]"


def told_interval(low: float, high: float, better: str) -> str:
    """`[+1.2, +5.4] pt`."""
    return f"{told_ends(low, high)} {unit_of(better)}"


def change_cells(change: float, low: float, high: float, better: str) -> tuple[str, str]:
    """A change and its interval for people: `+3.3 pt` and `[+1.2, +5.4]`, with as many digits as the interval."""
    return f"{100 * change:+.{_digits(low, high)}f} {unit_of(better)}", told_ends(low, high)


def _digits(low: float, high: float) -> int:
    nearest = low if low > 0 else high
    hidden = (low > 0 or high < 0) and round(100 * nearest, 1) == 0
    return 2 if hidden else 1
