"""Rates: how many requests and tokens a key may ask for, in buckets that fill steadily and hold a minute's worth.

A request is counted before anything is done for it: with the tokens of its prompts and the most that its answers may
have. What they did not need is given back at their end. Who asks for more than a minute's worth at once waits for a
full bucket, and then until it is paid for.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from typing import ClassVar

from llama3.errors import LlamaError


class TooFast(LlamaError):  # noqa: N818 - says what it is
    """A key asked for more than its rate allows. `seconds` until it may ask again."""

    seconds: float = 1.0


TOO_FAST = TooFast.declare(
    "L3-SRV-041",
    "this key has asked for too many {unit}",
    why="it has {limit} per minute",
    fix="ask again in {seconds} s, or start the server with a larger --{unit}-per-minute",
)
MINUTE = 60.0


class Bucket:
    """What is left of `size`; it fills at `size` per minute. Below 0 more was taken than there was."""

    def __init__(self, size: int, clock: Callable[[], float]) -> None:
        self.size = size
        self._clock, self._left, self._seen = clock, float(size), clock()

    @property
    def left(self) -> float:
        """Now."""
        now = self._clock()
        self._left = min(self.size, self._left + (now - self._seen) * self.size / MINUTE)
        self._seen = now
        return self._left

    def seconds_until(self, amount: float) -> float:
        """Until so much is left, or the bucket is full."""
        return max(0.0, min(amount, self.size) - self.left) * MINUTE / self.size

    def add(self, amount: float) -> None:
        """Give back, or take where it is below 0."""
        self._left = min(self.size, self.left + amount)


class RateLimits:
    """The buckets of every tenant. None: any number. Used in the event loop only."""

    UNITS: ClassVar[tuple[str, str]] = ("requests", "tokens")

    def __init__(
        self,
        requests_per_minute: int | None = None,
        tokens_per_minute: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sizes = {"requests": requests_per_minute, "tokens": tokens_per_minute}
        self._clock = clock
        self._buckets: dict[tuple[str, str], Bucket] = {}

    def take(self, tenant: str, unit: str, amount: int) -> None:
        """Count so many requests or tokens. Raises TooFast where there are fewer left; nothing is counted then."""
        bucket = self._bucket(tenant, unit)
        if bucket is None:
            return
        if seconds := round(bucket.seconds_until(amount), 3):
            error = TOO_FAST(unit=unit, limit=bucket.size, seconds=math.ceil(seconds))
            error.seconds = seconds
            raise error
        bucket.add(-amount)

    def give_back(self, tenant: str, unit: str, amount: int) -> None:
        """So many of what was counted were not needed."""
        if (bucket := self._bucket(tenant, unit)) is not None:
            bucket.add(amount)

    def headers(self, tenant: str) -> Iterator[tuple[bytes, bytes]]:
        """What OpenAI's servers tell of the limits with every answer."""
        for unit in self.UNITS:
            if (bucket := self._bucket(tenant, unit)) is not None:
                told = {
                    "limit": str(bucket.size),
                    "remaining": str(max(0, math.floor(bucket.left))),
                    "reset": f"{bucket.seconds_until(bucket.size):.3f}s",
                }
                yield from ((f"x-ratelimit-{what}-{unit}".encode(), value.encode()) for what, value in told.items())

    def _bucket(self, tenant: str, unit: str) -> Bucket | None:
        size = self._sizes[unit]
        if size is None:
            return None
        if (tenant, unit) not in self._buckets:
            self._buckets[tenant, unit] = Bucket(size, self._clock)
        return self._buckets[tenant, unit]
