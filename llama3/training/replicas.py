"""Replica groups: launches that train the same model on the same steps, and may come and go between two of them.

Each is a run of its own, with its own processes, checkpoints and ledger. A strategy along `dp` brings them together
(`ParallelStrategy.replicas`), and the loop goes through every step with them:

    meet      who takes part? Whoever is behind takes over the state of one that is not; nobody goes back
      -> every group takes its share of the step's examples, cut by who is there
      -> sums over all shares: counts of units, gradients, metrics, what the ledger says of the samples
    commit    did every one of these sums come about? Only then the update is made. Otherwise the step is done again,
              by those who are still there

A step's examples are a function of the step, so that whoever is there has all of them between them: a step that is
committed was trained on whole and once, whoever took part. A group that learnt too late that others have committed is
behind, and takes over theirs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from llama3.errors import ConfigError, Problem
from llama3.training.algorithm import Plan
from llama3.training.parts import Groups, StoredTensors

UNFIT = ConfigError.declare(
    "L3-TRN-060",
    "replica groups that come and go cannot train this: {what}",
    why="a step that is not committed is done again, which must be the same step: one update, of given examples",
    fix="{fix}",
)


class NotCommitted(Exception):  # noqa: N818 - not an error: an order to the loop
    """Somebody was lost in this step: it is done again."""


@dataclass(frozen=True)
class HandedOver:
    """What a group takes over that is behind: JSON values, and of each group of tensors what a rank holds of it."""

    state: dict[str, Any]
    tensors: dict[str, dict[str, Tensor]]


@dataclass(frozen=True)
class Member:
    """This launch, as a strategy sees it."""

    identity: int
    """62 bits that stand for what is trained on what: equal in all groups."""
    step: Callable[[], int]
    """Finished steps."""
    fingerprint: Callable[[], int]
    """62 bits that stand for all weights and moments of this rank."""
    give: Callable[[], HandedOver]
    take: Callable[[HandedOver], None]
    """Go on from the state of another group, in whichever step that is."""


class Replicas(Protocol):
    """The replica groups as one of them sees them. All ranks of a launch call each method together, each speaks with
    the ranks of the others that stand where it does."""

    place: int
    """Of this group among those that take part in the step, and how many these are. 0 of 1 between `commit` and
    `meet`."""
    count: int

    def meet(self, member: Member) -> None:
        """Begin a step, as above. Raises LlamaError where no groups can be found, or others that train something
        else."""
        ...

    def all_reduce(self, x: Tensor, op: Literal["sum", "max"] = "sum") -> None:
        """In place, over those that take part; the same bits everywhere. Where one of them is lost nothing is raised:
        `x`, and all that is reduced later in this step, stays as it is, and `commit` says no."""
        ...

    def commit(self) -> bool:
        """End a step. True: its update must be made, now."""
        ...

    def close(self) -> None:
        """Leave the others."""
        ...


def unfit(where: str, plan: Plan, *, draws: bool, goes_back: bool) -> list[Problem]:
    """What speaks against training by replica groups."""
    single, other = "set epochs and minibatches to 1", "choose another strategy along dp, such as ddp or fsdp"
    wrong = [
        ("its algorithm makes several updates in a step", single, plan.epochs * plan.minibatches > 1),
        ("it learns from answers that it draws", other, draws),
        ("a loss spike goes back, which all would have to do together", "leave out spike", goes_back),
    ]
    return [UNFIT.problem(where, what=what, fix=fix) for what, fix, is_so in wrong if is_so]


def number_of(value: Any) -> int:
    """62 bits that stand for a JSON value."""
    digest = hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 2


def gather(value: Any, replicas: Replicas) -> list[Any]:
    """The JSON values of all that take part, in order; this one's alone where one was lost."""
    message = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
    sizes_N = torch.zeros(replicas.count, dtype=torch.int64)
    sizes_N[replicas.place] = len(message)
    replicas.all_reduce(sizes_N)
    rows_NB = torch.zeros(replicas.count, int(sizes_N.max()), dtype=torch.uint8)
    rows_NB[replicas.place, : len(message)] = message
    replicas.all_reduce(rows_NB)
    found = zip(rows_NB, sizes_N.tolist(), strict=True)
    rows = [bytes(row_B[:size].numpy()) for row_B, size in found]
    # Where the second sum failed, the rows of others are still zeros.
    return [json.loads(row) for row in rows if row.strip(b"\0")]


class SentTensors(StoredTensors):
    """The tensors of a group as another launch sent them: of each the part that this rank holds as well."""

    def __init__(self, tensors: Mapping[str, Tensor], shapes: Mapping[str, list[int]]) -> None:
        """shapes: of the whole tensors"""
        self._tensors = tensors
        self.shapes = {name: torch.Size(shape) for name, shape in shapes.items()}

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name]

    def __contains__(self, name: object) -> bool:
        return name in self._tensors

    def __iter__(self) -> Any:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def part(self, name: str, part: Any) -> Tensor:
        return self._tensors[name]


def whole_shapes(groups: Groups) -> dict[str, dict[str, list[int]]]:
    """Of each tensor, as it is where no rank has cut it."""
    return {group: {name: list(tensor.shape) for name, tensor in held.items()} for group, held in groups.items()}
