"""Choices between two rates that should both be low: which no other one beats, and which of them bends the curve."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

REFERENCE = (1.0, 1.0)
"""The worst point: everything violates and everything is refused."""


def front(points_P2: np.ndarray) -> list[int]:
    """The points that no other one beats (is as low in both rates and lower in one), by the first rate, of equal ones
    the first."""
    best: list[int] = []
    lowest = np.inf
    for index in np.lexsort((np.arange(len(points_P2)), points_P2[:, 1], points_P2[:, 0])):
        if points_P2[index, 1] < lowest:
            best.append(int(index))
            lowest = points_P2[index, 1]
    return best


def hypervolume(points_P2: np.ndarray, reference: tuple[float, float] = REFERENCE) -> float:
    """The area that the points beat, up to the reference (Zitzler & Thiele 1998)."""
    area, right = 0.0, reference[1]
    for x, y in points_P2[front(points_P2)]:
        if x < reference[0] and y < right:
            area += (reference[0] - x) * (right - y)
            right = y
    return float(area)


def knee(points_F2: Sequence[tuple[float, float]] | np.ndarray) -> int:
    """Of a front, in its order, the point that lies furthest below the line between its ends, both rates stretched to
    [0, 1]; of fewer than three the one whose rates sum to the least."""
    points_F2 = np.asarray(points_F2, np.float64)
    if len(points_F2) < 3:
        return int(points_F2.sum(1).argmin())
    low, high = points_F2.min(0), points_F2.max(0)
    stretched_F2 = (points_F2 - low) / np.where(high > low, high - low, 1.0)
    return int(stretched_F2.sum(1).argmin())
