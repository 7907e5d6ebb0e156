"""Silent corruption: weights and moments that are not what the updates made them (paper 3.3.4: six interruptions).

After every `every`-th update each rank sums up the bits of what it holds, and again before it is used for the next
update or a checkpoint: in between nothing may have changed. Then the ranks tell each other these sums, by what they are
of: parts of which several ranks have a copy (all under cp alone, the norms under tp) must be equal everywhere. A sum
that differs names its rank: one whose own memory changed, or the minority of the copies, or all holders where there is
no majority.

Where each rank has a part of its own (fsdp) only the first of the two can be found.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from llama3.training.parallel import ParallelContext
from llama3.training.recovery import BIT_FLIP, GoBack

_PRIME = 1_000_003
_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class Integrity:
    """Compares the sums of one training loop. Every rank calls every method."""

    def __init__(
        self, every: int, module: nn.Module, optimizer: torch.optim.Optimizer, context: ParallelContext
    ) -> None:
        """every: updates between two comparisons; 0: none"""
        self._every, self._module, self._optimizer, self._context = every, module, optimizer, context
        self._marked: dict[str, int] | None = None

    def mark(self, step: int) -> None:
        """After the update of the 0-based `step`: from now on nothing may change, if it is its turn."""
        if self._every and (step + 1) % self._every == 0:
            self._marked = self.sums()

    def check(self) -> None:
        """Before the next update or a checkpoint. Raises GoBack, on all ranks together, where sums differ."""
        if self._marked is None:
            return
        now, marked, self._marked = self.sums(), self._marked, None
        told = self._context.gather({"kept": now == marked, "sums": now}, "world")
        if ranks := suspects(told):
            raise GoBack("bit flip", BIT_FLIP("weights", ranks=ranks))

    def forget(self) -> None:
        """What was marked is no longer there: a checkpoint was loaded."""
        self._marked = None

    @torch.no_grad()
    def sums(self) -> dict[str, int]:
        """A number for each set of parameters that this rank shares with the same other ranks, by where in the mesh
        its parts belong."""
        parts: dict[str, list[Tensor]] = defaultdict(list)
        for parameter in self._module.parameters():
            moments = self._optimizer.state.get(parameter, {})  # a checkpoint gives them back in another order
            held = (parameter, *(moments[name] for name in sorted(moments)))
            parts[self._part(parameter)] += [_bits(tensor) for tensor in held]
        return {part: _combined(torch.stack(sums).tolist()) for part, sums in parts.items()}

    def _part(self, parameter: Tensor) -> str:
        stage = f"pp {self._context.axis('pp')[1]} " if self._context.dims.pp > 1 else ""
        if not isinstance(parameter, DTensor):
            return f"{stage}whole"
        mesh, place = parameter.device_mesh, parameter.device_mesh.get_coordinate() or ()
        names = mesh.mesh_dim_names or ()
        cut = [
            f"{name} {at}" for name, at, how in zip(names, place, parameter.placements, strict=False) if how.is_shard()
        ]
        return f"{stage}{' '.join(cut) or 'whole'}"


def suspects(told: Sequence[Mapping[str, Any]]) -> list[int]:
    """The ranks whose memory is not to be trusted; `told[rank]` is {kept, sums by part}."""
    own = [rank for rank, row in enumerate(told) if not row["kept"]]
    if own:
        return own
    odd: set[int] = set()
    for part in sorted({part for row in told for part in row["sums"]}):
        sums = {rank: row["sums"][part] for rank, row in enumerate(told) if part in row["sums"]}
        counts = Counter(sums.values()).most_common()
        if len(counts) > 1:
            most = counts[0][0] if counts[0][1] > counts[1][1] else None
            odd |= {rank for rank, number in sums.items() if number != most}
    return sorted(odd)


def _bits(tensor: Tensor) -> Tensor:
    """The sum of the bits read as integers, modulo 2^64: one flip always changes it."""
    local = tensor.to_local() if isinstance(tensor, DTensor) else tensor
    return local.detach().reshape(-1).contiguous().view(_INTEGERS[local.element_size()]).sum(dtype=torch.int64).cpu()


def _combined(sums: Sequence[int]) -> int:
    total = 0
    for number in sums:
        total = (total * _PRIME + number) % (1 << 61)
    return total
