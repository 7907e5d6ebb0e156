"""What an algorithm is, and the services the core gives it.

An algorithm is a small object: it packs examples (`collate`), adds what needs no gradient (`prepare`) and names
its loss as sums with units (`loss`). The loop, the log-prob engine, the sampler and the parallelism are the core's.

Legend: T tokens, M targets, S segments, R trees (roots) of a packed forest (llama3.model.batch).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from torch import Tensor

if TYPE_CHECKING:
    from llama3.model.batch import Batch
    from llama3.model.score import Scored
    from llama3.tokenizer import Tokenizer

Unit = Literal["target", "segment", "tree"]
Example = Any
"""One training example; its type is settled between a dataset and the `collate` that reads it."""


@dataclass(frozen=True, slots=True)
class Term:
    """One term of a loss: a sum over a microbatch and the unit it is a sum over.

    The loop divides `sum` by the number of these units in the whole update (all ranks, all microbatches), so
    that accumulation, packing and the number of ranks leave the gradient as it is. A segment counts when it holds
    at least one target (an answer, not its prompt).
    """

    sum: Tensor
    """Scalar, with its graph."""
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
    temperature: float | None = 1.0
    """At which models are scored. None: the sampler's, so that log-probs are those of the samples (on-policy)."""

    def scored_at(self, sampling: float) -> float:
        """The temperature of scoring where answers are sampled at `sampling`."""
        return sampling if self.temperature is None else self.temperature


class Algorithm(Protocol):
    """What a training algorithm implements. Subclass it to inherit the defaults written here.

    A NaN in `per_segment["reward"]` after `prepare` means "cannot be scored": the loop drops the segment and
    counts it.
    """

    plan: Plan = Plan()

    def collate(self, examples: Sequence[Example]) -> Batch:
        """Pack examples (for rollouts: prompts) into one forest, on the CPU."""
        raise NotImplementedError

    def prepare(self, batch: Batch, services: Services) -> Batch:
        """Add columns that need no gradient (reference log-probs, advantages). Once per step, no_grad."""
        return batch

    def loss(self, scored: Scored, batch: Batch) -> dict[str, Term]:
        """The loss of one microbatch. Pure: no model, no randomness, no state."""
        raise NotImplementedError

    def metrics(self, scored: Scored, batch: Batch) -> dict[str, Tensor]:
        """Scalars worth a look: means over the microbatch, read only on steps that are logged."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """State carried from step to step, as JSON values (a KL coefficient); saved with checkpoints."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` returned."""


class Scorer(Protocol):
    """A model that scores: a frozen reference, the current policy, a teacher. No gradient."""

    def logps(self, batch: Batch) -> Tensor:
        """Log-probs (M,) of the batch's targets."""
        ...


class Sampler(Protocol):
    """Draws answers from the current policy."""

    @property
    def max_tokens(self) -> int:
        """Length at which an answer is cut off."""
        ...

    def rollouts(self, prompts: Batch, samples: int) -> Batch:
        """Each tree's prompt with `samples` answers as its children; every answer token is a target.

        Adds per_target["sample_logps"] and per_segment["finish_reason"] (`FinishReason`; -1 for prompts).
        """
        ...


class Rewarder(Protocol):
    """Scores answers with the run's rewards."""

    def score(self, batch: Batch) -> Batch:
        """Add per_segment["reward"] (NaN: cannot be scored) and its parts as per_segment["reward/<name>"]."""
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
    def sampler(self) -> Sampler:
        """needs: rollouts."""
        ...

    @property
    def reward(self) -> Rewarder:
        """needs: reward."""
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
    def value(self) -> ValueModel:
        """needs: value."""
        ...

    @property
    def teacher(self) -> Scorer:
        """needs: teacher."""
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
    """Where a loop's examples come from."""

    def examples(self, step: int) -> Sequence[Example]:
        """The examples of one step over all ranks: a pure function of the step."""
        ...
