"""`FairQueue`: what waits, a queue for each tenant; the tenant that was given the least is next.

After Sheng et al., "Fairness in Serving Large Language Models" (2024): a tenant that comes back begins where the
poorest that waits stands, so that nobody saves up for a flood. What is given, tokens or seconds, the user says.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Generic, TypeVar

T = TypeVar("T")


class FairQueue(Generic[T]):
    """Not safe between threads: its user has a lock anyway."""

    def __init__(self) -> None:
        self._waiting: dict[str, deque[T]] = {}
        self._given: dict[str, float] = {}

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    def waiting(self, tenant: str) -> int:
        """How many of this tenant wait."""
        return len(self._waiting.get(tenant, ()))

    def push(self, tenant: str, items: Iterable[T]) -> None:
        """Let items of a tenant wait."""
        queue = self._waiting.setdefault(tenant, deque())
        if not queue:
            poorest = min((self._given[other] for other, items in self._waiting.items() if items), default=0)
            self._given[tenant] = max(self._given.get(tenant, 0), poorest)
        queue.extend(items)

    def pop(self) -> T:
        """The next one. Raises IndexError where nothing waits."""
        tenants = [tenant for tenant, items in self._waiting.items() if items]
        if not tenants:
            raise IndexError("nothing waits")
        return self._waiting[min(tenants, key=self._given.__getitem__)].popleft()

    def remove(self, tenant: str, item: T) -> bool:
        """Forget an item; whether it waited."""
        queue = self._waiting.get(tenant, deque())
        if item not in queue:
            return False
        queue.remove(item)
        return True

    def charge(self, tenant: str, given: float) -> None:
        """This much was given to a tenant."""
        self._given[tenant] = self._given.get(tenant, 0) + given
