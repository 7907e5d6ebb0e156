"""`Record`: a request as far as it has come, for whoever answers it and whoever tells of it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(eq=False)
class Record:
    """A request as far as it has come."""

    id: str
    method: str
    route: str
    """Its name, as `/v1/models/{name:path}`; of an unknown path the beginning."""
    is_known: bool = True
    """Whether there is such a route."""
    tenant: str = ""
    parent: dict[str, str] = field(default_factory=dict)
    """The headers of W3C's trace context, of which this is a part."""
    status: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    finish: list[str] = field(default_factory=list)
    error: str = ""
    first_token: float | None = None
    """Seconds from the beginning; None: none was told."""
    stages: dict[str, float] = field(default_factory=dict)
    """Seconds that it waited for the engine, that its prompts took and that its answers took."""
    began: float = field(default_factory=time.monotonic)
    created: int = field(default_factory=lambda: int(time.time()))
    """Seconds since 1970, as the answer tells it."""

    @property
    def seconds(self) -> float:
        """Since it began."""
        return time.monotonic() - self.began

    def timed(self, times: Sequence[Mapping[str, float]]) -> None:
        """Its jobs have these times (see `Job.times`): those of the first to come are told, of answers the last."""

        def earliest(name: str) -> float | None:
            return min((time[name] for time in times if name in time), default=None)

        queued, begun, first = earliest("queued"), earliest("begun"), earliest("first")
        last = max((time["last"] for time in times if "last" in time), default=None)
        parts = {"queue_seconds": (queued, begun), "prefill_seconds": (begun, first), "decode_seconds": (first, last)}
        self.stages = {
            name: end - start for name, (start, end) in parts.items() if start is not None and end is not None
        }

    def told(self) -> None:
        """Something of an answer goes to the client."""
        if self.first_token is None:
            self.first_token = self.seconds
