"""Which of several offers nobody needs: those that another one beats both ways."""

from __future__ import annotations

from collections.abc import Sequence


def front(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Of points (latency, throughput) which are on the Pareto front.

    A point is not where another is as fast and as productive and better in one of the two. Equal points stand together.
    """
    order = sorted(range(len(points)), key=lambda index: (points[index][0], -points[index][1]))
    on_front = [False] * len(points)
    best: tuple[float, float] | None = None  # of those that are on it so far, the one of the highest throughput
    for index in order:
        if best is None or points[index][1] > best[1] or points[index] == best:
            best, on_front[index] = points[index], True
    return on_front
