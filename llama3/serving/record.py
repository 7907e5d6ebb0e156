"""`Record`: a request as far as it has come, for whoever answers it and whoever tells of it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field


@dataclass(eq=False)
class Record:
    """A request as far as it has come."""

    id: str
    method: str
    path: str
    tenant: str = ""
    status: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    finish: list[str] = field(default_factory=list)
    error: str = ""
    first_token: float | None = None
    """Seconds from the beginning; None: none was told."""
    began: float = field(default_factory=time.monotonic)
    created: int = field(default_factory=lambda: int(time.time()))
    """Seconds since 1970, as the answer tells it."""

    @property
    def seconds(self) -> float:
        """Since it began."""
        return time.monotonic() - self.began

    def told(self) -> None:
        """Something of an answer goes to the client."""
        if self.first_token is None:
            self.first_token = self.seconds
