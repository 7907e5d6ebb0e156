"""What `quantization_config` says of the matrices of a `compressed-tensors` checkpoint, held against its tensors.

Codes and scales alone tell how a matrix is read. Where the file says otherwise, one of the two is another checkpoint's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llama3.foreign import Fields

_GROUPS = {"channel": "one for each row", "tensor": "one for all"}


@dataclass(frozen=True, slots=True)
class Form:
    """How the matrices of one group are kept."""

    bits: int
    strategy: str | None
    """What shares a scale: "channel" (a row), "tensor", "group" (of columns); others are not compared."""
    group_size: int

    def __str__(self) -> str:
        shared = f"one for {self.group_size} columns" if self.strategy == "group" else _GROUPS.get(self.strategy or "")
        return f"codes of {self.bits} bits" + (f" and scales {shared}" if shared else "")

    def fits(self, packed_bits: int | None, scale: tuple[int, ...], columns: int) -> bool:
        """Whether a matrix of so many columns is kept so. packed_bits: None where codes have a byte each, in which
        fewer bits may lie."""
        groups = scale[1] if len(scale) == 2 else 1
        kept = {
            "group": self.group_size > 0 and groups * self.group_size == columns,
            "channel": groups == 1 and len(scale) > 0,
            "tensor": scale in ((), (1,), (1, 1)),
        }
        return packed_bits in (None, self.bits) and kept.get(self.strategy or "", True)


def stated_forms(raw: Mapping[str, Any], faults: list[str]) -> list[Form]:
    """Of each group that config.json describes; values of another type are told in `faults`."""
    groups = Fields(raw, faults=faults).object("quantization_config").object("config_groups")
    weights = [groups.object(name).object("weights") for name in groups.raw]
    return [
        Form(
            form.whole("num_bits", 8),
            form.text("strategy"),
            form.whole("group_size", -1) if "group_size" in form else -1,
        )
        for form in weights
        if form.raw
    ]
