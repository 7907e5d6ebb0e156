"""`Served`: the model that a server answers with, and what every route asks of it."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Sequence, Set
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from llama3.errors import CheckpointError
from llama3.inference.llama import Llama
from llama3.inference.sampling import Sampling
from llama3.inference.stops import read_stops
from llama3.safety.dialog import DialogGuard
from llama3.safety.engine import PolicyEngine
from llama3.safety.guard import Turn
from llama3.serving.answers import AnswerText
from llama3.serving.choices import Exchange, ServedChoice
from llama3.serving.fields import Drawing
from llama3.serving.problems import LONG_PROMPT, NO_MODEL
from llama3.serving.service import Job, Service
from llama3.serving.tools import CallReader
from llama3.tokenizer.chat import stop_ids
from llama3.tokenizer.tokenizer import Tokenizer

if TYPE_CHECKING:
    from llama3.serving.constraints import Schemas

OTHER_TOKENIZER = CheckpointError.declare(
    "L3-SRV-022",
    "the tokenizer has {tokens} tokens, the model {rows} of them",
    fix="put the tokenizer that the model was trained with beside it",
)
DEADLINE = 600.0
"""Seconds that an answer may take, the wait in the queue included."""


@dataclass(eq=False)
class Served:
    """A model under a name, with its guards in front of it and the service that computes."""

    llama: Llama
    name: str
    service: Service
    seconds: float = DEADLINE
    created: int = field(default_factory=lambda: int(time.time()))

    def __post_init__(self) -> None:
        tokens, rows = self.tokenizer.vocab_size, self.llama.config.vocab_size
        if tokens > rows:
            raise OTHER_TOKENIZER(self.name, tokens=tokens, rows=rows)
        self._dialogs = None if self.guard is None else DialogGuard(self.guard)

    @property
    def guard(self) -> PolicyEngine | None:
        """Stands between the model and everybody."""
        return self.llama.guard

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's."""
        return self.llama.tokenizer

    @cached_property
    def schemas(self) -> Schemas:
        """Constrains answers; made, and its package imported, when the first one is."""
        from llama3.serving.constraints import Schemas

        return Schemas(self.tokenizer, self.llama.config.vocab_size)

    def check_name(self, name: str | None) -> None:
        """Raises ConfigError for another model than the one that is served."""
        if name is not None and name != self.name:
            raise NO_MODEL("model", model=name, name=self.name)

    def asked(self, id: str, *, is_stream: bool) -> Exchange:
        """What the answers to a request that begins now have in common."""
        deadline = asyncio.get_running_loop().time() + self.seconds
        return Exchange(id, self.service, self.guard, is_stream, deadline, self.seconds)

    async def admit(self, text: str, id: str) -> str:
        """What of a user's text the guards let in. Raises GuardBlocked."""
        if self.guard is None:
            return text
        decision = await self.guard.adecide("input", text, (), id)
        decision.raise_if_blocked()
        return decision.text

    async def admit_dialog(self, turns: Sequence[Turn]) -> list[Turn]:
        """What of a conversation the guards let in. Raises GuardBlocked."""
        if self._dialogs is None:
            return list(turns)
        return await asyncio.to_thread(self._dialogs.admit, turns)

    def sampling(self, body: Drawing, prompt: npt.NDArray[np.uint32], wanted: int | None, top_logps: int) -> Sampling:
        """How answers are drawn: `wanted` tokens, as far as there is room. After a prompt that fills the context one
        token can still be drawn. Raises DoesNotFit, ConfigError."""
        if len(prompt) > self.service.max_tokens:
            raise LONG_PROMPT("prompt", tokens=len(prompt), limit=self.service.max_tokens)
        room = max(self.service.max_tokens - len(prompt), 1)
        bias = tuple((int(token), value) for token, value in (body.logit_bias or {}).items())
        return Sampling(
            room if wanted is None else min(max(wanted, 1), room),
            temperature=1.0 if body.temperature is None else body.temperature,
            top_p=1.0 if body.top_p is None else body.top_p,
            top_k=max(body.top_k, 0),
            n=body.n or 1,
            seed=secrets.randbits(64) if body.seed is None else body.seed % 2**64,
            stop_ids=stop_ids(self.tokenizer),
            top_logps=top_logps,
            logit_bias=bias,
        )

    def choices(
        self,
        asked: Exchange,
        jobs: Sequence[Job],
        stop: str | list[str] | None,
        traces: Sequence[Sequence[Turn]],
        functions: Set[str] = frozenset(),
    ) -> list[ServedChoice]:
        """The answers to jobs, each of which answers to its trace; calls of these functions are read from them."""
        stops = read_stops(stop)
        found: list[ServedChoice] = []
        for job, trace in zip(jobs, traces, strict=True):
            for index in range(job.sampling.n):
                text = AnswerText(self.tokenizer, stops, job.sampling.stop_ids)
                calls = CallReader(functions) if functions else None
                found.append(ServedChoice(asked, job, index, len(found), text, trace, calls))
        return found
