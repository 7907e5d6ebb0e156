"""What a capability recipe is. Torch-free."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from llama3.making.made import Made
from llama3.making.workshop import Workshop


class Capability(Protocol):
    """Built by the plugins of the family `capabilities`.

    The same workshop, count and seed give the same dialogs. A recipe has no state and no other means than the workshop:
    what it asked stays known, so that one that was killed is simply begun again.
    """

    def dialogs(self, shop: Workshop, count: int, seed: int) -> Iterator[Made]:
        """`count` dialogs, or as many as there is material for; those that were not verified too, with the reason."""
