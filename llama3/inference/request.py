"""What an engine works on: a request is a prompt with the answers that were asked of it."""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from llama3.inference.completion import Completion, FinishReason
from llama3.inference.sampling import Sampling, Top
from llama3.inference.speculation import PromptLookup

if TYPE_CHECKING:
    from torch import Tensor

    from llama3.inference.forwards import OutputHead


class Constraint(Protocol):
    """Says of one answer which tokens may come next. What it raises ends its request, and no other."""

    def allowed(self) -> npt.NDArray[np.bool_]:
        """bool[vocabulary], at least one of them true."""
        ...

    def push(self, token: int) -> None:
        """This token was drawn."""
        ...


class Reader(Protocol):
    """Is shown a prompt's final hidden states, piece by piece and in order, in the thread that computes. What it raises
    ends its request, and no other."""

    def read(self, model: OutputHead, h_TD: Tensor) -> None: ...


@dataclass(eq=False)
class Answer:
    """One running answer: a row of the pool."""

    request: Request
    index: int
    row: int
    seed: int
    ids: list[int] = field(default_factory=list)
    logps: list[float] = field(default_factory=list)
    tops: list[Top] = field(default_factory=list)
    constraint: Constraint | None = None
    lookup: PromptLookup | None = None
    """Drafts of it, where the engine speculates."""

    def push(self, token: int, logp: float, top: Top) -> None:
        """This token was drawn. Raises what the constraint raises; the answer is then as it was."""
        if self.constraint is not None:
            self.constraint.push(token)
        self.logps.append(logp)
        self.tops.append(top)
        self.ids.append(token)  # last: other threads read as far as there are ids

    @property
    def is_over(self) -> bool:
        """Whether no more of it is wanted."""
        return self.request.error is not None or self.request.completions[self.index] is not None

    @property
    def finish_reason(self) -> FinishReason | None:
        """Why it is over, or None while it is not."""
        if self.ids[-1] in self.request.sampling.stop_ids:
            return FinishReason.STOP
        return FinishReason.LENGTH if len(self.ids) == self.request.sampling.max_tokens else None


@dataclass(eq=False)
class Request:
    """A prompt and its answers. `completions[i]` is None until answer i is over; `answers` are those started so far,
    by number, `unstarted` the numbers of the others.
    `salt`, `constrain`, `reader`: see `Engine.submit`."""

    prompt: npt.NDArray[np.uint32]
    sampling: Sampling
    salt: bytes = b""
    constrain: Callable[[], Constraint] | None = None
    reader: Reader | None = None
    answers: dict[int, Answer] = field(init=False)
    unstarted: deque[int] = field(init=False)
    completions: list[Completion | None] = field(init=False)
    error: BaseException | None = None
    """Why there will be no more of it: what the model, its constraint or its reader raised, or CancelledError."""

    def __post_init__(self) -> None:
        if self.reader is not None:
            self.salt = secrets.token_bytes(16)  # nothing of the prompt is to be found in the cache
        self.completions = [None] * self.sampling.n
        self.restart()

    @property
    def is_over(self) -> bool:
        return self.error is not None or None not in self.completions

    def ids(self, index: int) -> list[int]:
        """The tokens of answer `index` so far."""
        answer = self.answers.get(index)
        return [] if answer is None else answer.ids

    def is_past(self, index: int, count: int) -> bool:
        """Whether answer `index` has more than `count` tokens, or will never have."""
        return len(self.ids(index)) > count or self.error is not None or self.completions[index] is not None

    def cancel(self, index: int) -> None:
        """Answer `index` is over with the tokens that it has."""
        ids = list(self.ids(index))
        logps = self.answers[index].logps[: len(ids)] if ids else []
        self.completions[index] = Completion(ids, logps, FinishReason.CANCELLED)

    def result(self) -> list[Completion]:
        """The answers of a request that is over. Raises `error`."""
        if self.error is not None:
            raise self.error
        return [completion for completion in self.completions if completion is not None]

    def restart(self) -> None:
        """Back to the beginning. The same tokens will be drawn again, because they depend on seed and prompt only. What
        was cancelled stays so."""
        self.answers = {}
        self.completions = [
            done if done is not None and done.finish_reason is FinishReason.CANCELLED else None
            for done in self.completions
        ]
        self.unstarted = deque(index for index, done in enumerate(self.completions) if done is None)


@dataclass
class Prefill:
    """An admitted prompt: the row that holds it, how many of its tokens are computed, how many the next step adds, the
    answers it starts; whether it is not admitted again for answers that there was no room for."""

    request: Request
    row: int
    done: int
    answers: list[Answer]
    is_first: bool
    piece: int = 0

    @property
    def left(self) -> int:
        return len(self.request.prompt) - self.done
