"""An answer of a model, why it ended, and whoever gives answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy.typing as npt

    from llama3.inference.sampling import Sampling


class FinishReason(IntEnum):
    """Why an answer ended. The number stands in `Batch.per_segment["finish_reason"]`, where a prompt has -1, and the
    `label` in JSON."""

    STOP = 0
    """A stop token was drawn."""
    LENGTH = 1
    """`max_tokens` were drawn and none of them ended it."""
    CANCELLED = 2
    """It was cancelled before it was over, and others of its request were not (`Engine.cancel`)."""

    @property
    def label(self) -> str:
        """The name as users see it: "stop", "length"."""
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class Completion:
    """One answer.

    ids: its tokens, the stop token that ended it included
    logps: log-probability of each under the model at temperature 1, in nats (see `llama3.inference.sampling.draw`)
    """

    ids: list[int]
    logps: list[float]
    finish_reason: FinishReason


class Generator(Protocol):
    """Answers prompts; `llama3.inference.Engine` is one."""

    def generate(self, prompts: Sequence[npt.ArrayLike], sampling: Sampling) -> list[list[Completion]]:
        """`sampling.n` answers to each prompt (token ids), in order."""
        ...
