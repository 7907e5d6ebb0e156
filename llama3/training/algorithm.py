"""What an algorithm is, and the services the core gives it.

An algorithm is a small object: it adds to a batch what needs no gradient (`prepare`) and names its loss as sums with
units (`loss`). The loop, the log-prob engine, sampling, rewards and the parallelism are the core's.

Legend: T tokens, M targets, S segments, R trees (roots) of a packed forest (llama3.model.batch).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from torch import Tensor

if TYPE_CHECKING:
    from llama3.inference.sampling import Sampling
    from llama3.model.batch import Batch
    from llama3.model.score import Scored
    from llama3.tokenizer import Tokenizer

Unit = Literal["target", "segment", "tree"]
Example = Any
"""One training example; its type is settled between a dataset and the `collate` that reads it."""
Collate = Callable[[Sequence[Example]], "Batch"]
"""Packs examples (for rollouts: prompts) into one forest, on the CPU."""


@dataclass(frozen=True, slots=True)
class Term:
    """One term of a loss, or a metric: a sum over a microbatch and the unit it is a sum over.

    The loop divides `sum` by the number of these units in the whole update (all ranks, all microbatches), so
    that accumulation, packing and the number of ranks leave the gradient as it is. A segment counts when it holds
    at least one target (an answer, not its prompt).
    """

    sum: Tensor
    """Scalar, with its graph where it is a loss."""
    per: Unit
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Plan:
    """How often the data of one step is used."""

    samples: int = 1
    """Answers drawn per prompt, for algorithms that need rollouts."""
    epochs: int = 1
    """Passes over the batch of one step."""
    minibatches: int = 1
    """Optimizer updates per pass."""
    own: float = 1.0
    """Share of a step's examples whose answers are drawn, for algorithms that need rollouts and no reward; the others
    keep the answers that they came with. With 0 nothing is drawn."""


class Algorithm(Protocol):
    """What a training algorithm implements. Subclass it to inherit the defaults written here."""

    plan: Plan = Plan()
    """Answers per prompt, passes over a step's batch, updates per pass."""
    collate: Collate | None = None
    """None: examples are packed as is usual for their kind of data (llama3.posttraining.datasets)."""

    def prepare(self, batch: Batch, services: Services) -> Batch:
        """Add columns that need no gradient (reference log-probs, advantages). Once per step, no_grad.

        Where the spec needs rollouts, the batch holds the answers that were drawn and rewarded (llama3.training.
        rollouts tells its columns). `batch.drop` leaves trees out. On a rank that has no share of the step, or of
        whose answers none could be scored, the batch is empty.
        """
        return batch

    def loss(self, scored: Scored, batch: Batch) -> dict[str, Term]:
        """The loss of one microbatch. Pure: no model, no randomness, no state."""
        raise NotImplementedError

    def metrics(self, scored: Scored, batch: Batch) -> dict[str, Term]:
        """Figures worth a look, as sums with units like the loss: read only on steps that are logged, no_grad."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """State carried from step to step, as JSON values (a KL coefficient); saved with checkpoints."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` returned."""
        return None


class Scorer(Protocol):
    """A model that scores: a frozen reference, the current policy, a teacher. No gradient."""

    def logps(self, batch: Batch) -> Tensor:
        """Log-probs (M,) of the batch's targets."""
        ...

    def top(self, batch: Batch, k: int) -> tuple[Tensor, Tensor]:
        """The k likeliest tokens at each target and their log-probs, likeliest first: ids (M, k), log-probs (M, k)."""
        ...


class ValueModel(Protocol):
    """The critic's estimates, no gradient (it is trained in the same loop through the value head)."""

    def values(self, batch: Batch) -> Tensor:
        """Values (M,) at the batch's targets."""
        ...


class Stats(Protocol):
    """Statistics over the whole step: all ranks, never a microbatch."""

    def sum(self, x: Tensor) -> Tensor:
        """Elementwise sum over ranks."""
        ...

    def moments(self, x_N: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and unbiased standard deviation over all ranks; N may differ from rank to rank."""
        ...

    def gather(self, x_N: Tensor) -> tuple[Tensor, slice]:
        """The values of all ranks back to back, and where this rank's own stand; N may differ from rank to rank."""
        ...


class Services(Protocol):
    """What `Algorithm.prepare` may ask for. Which of them exist follows from the algorithm's `needs`."""

    @property
    def sampling(self) -> Sampling:
        """needs: rollouts. How the answers of the batch were drawn."""
        ...

    @property
    def reference(self) -> Scorer:
        """needs: reference. A frozen copy, the policy without its adapter, or a cache on disk."""
        ...

    @property
    def policy(self) -> Scorer:
        """Always there: the current weights."""
        ...

    @property
    def context(self) -> int | None:
        """Always there: the longest sequence that the model takes; none: any."""
        ...

    @property
    def value(self) -> ValueModel:
        """needs: value."""
        ...

    @property
    def teacher(self) -> Scorer:
        """needs: teacher. The model that the config names under `teacher`."""
        ...

    @property
    def stats(self) -> Stats:
        """Always there."""
        ...

    @property
    def tokenizer(self) -> Tokenizer:
        """Always there."""
        ...


class Dataset(Protocol):
    """Where a loop's examples come from. One that has `documents` too (llama3.training.reliability) can say by name
    what was left out."""

    def examples(self, step: int) -> Sequence[Example]:
        """The examples of one step over all ranks: a pure function of the step."""
        ...
