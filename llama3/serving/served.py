"""`Served`: the model that a server answers with, and what every route asks of it."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from llama3.errors import CheckpointError, GuardBlocked
from llama3.inference.llama import Llama
from llama3.inference.sampling import Sampling
from llama3.inference.stops import read_stops
from llama3.safety.dialog import DialogGuard
from llama3.safety.engine import PolicyEngine
from llama3.safety.guard import Turn
from llama3.serving.answers import AnswerText
from llama3.serving.choices import Exchange, ServedChoice
from llama3.serving.fields import Drawing
from llama3.serving.problems import GUARD_DOWN, LONG_PROMPT, NO_MODEL
from llama3.serving.record import Record
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
ENDED = "the engine has ended"
"""The status of a server that will never answer again."""
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
    under_way: int = 0
    """Requests of HTTP that were let in and are not over."""

    def __post_init__(self) -> None:
        tokens, rows = self.tokenizer.vocab_size, self.llama.config.vocab_size
        if tokens > rows:
            raise OTHER_TOKENIZER(self.name, tokens=tokens, rows=rows)
        self._dialogs = None if self.guard is None else DialogGuard(self.guard)
        if self.guard is not None:
            self.guard.most_waiting = self.service.max_queue

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

    @property
    def status(self) -> str:
        """Whether a request would be taken now: "ready", or why not."""
        if self.service.is_ready:
            down = [] if self.guard is None else self.guard.down()
            return f"no answer from the guard {', '.join(down)}" if down else "ready"
        return "stopping" if self.service.draining else ENDED

    def asked(self, record: Record, *, is_stream: bool) -> Exchange:
        """What the answers to a request that begins now have in common."""
        deadline = asyncio.get_running_loop().time() + self.seconds
        return Exchange(record, self.service, self.guard, is_stream, deadline, self.seconds)

    def require_room(self, tokens: int, where: str) -> int:
        """How many tokens an answer to so many may have: after a prompt that fills the context one can still be drawn.
        Raises DoesNotFit where the prompt is longer."""
        if tokens > self.service.max_tokens:
            raise LONG_PROMPT(where, tokens=tokens, limit=self.service.max_tokens)
        return max(self.service.max_tokens - tokens, 1)

    async def admit(self, text: str, record: Record) -> str:
        """What of a user's text the guards let in. Raises GuardBlocked, and LlamaError where too much waits for
        them, or one of them cannot be asked."""
        if self.guard is None:
            return text
        with self._unless_down():
            decision = await self.guard.adecide("input", text, (), record.id, record.tenant)
            decision.raise_if_blocked()
        return decision.text

    async def admit_dialog(self, turns: Sequence[Turn], record: Record) -> list[Turn]:
        """What of a conversation the guards let in. Raises as `admit`, and DoesNotFit for one that is too long for
        the model, before they see it."""
        self.require_room(sum(len(self.tokenizer.encode(turn.content.strip())) for turn in turns), "messages")
        if self._dialogs is None:
            return list(turns)
        with self._unless_down():
            return await self._dialogs.aadmit(turns, record.id, record.tenant)

    @contextmanager
    def _unless_down(self) -> Iterator[None]:
        """Judging what is asked. Raises LlamaError instead of GuardBlocked where it was not the text that was refused:
        a guard that cannot be asked objects to all."""
        try:
            yield
        except GuardBlocked as refused:
            reasons = refused.problems[0].why
            down = [] if self.guard is None else [name for name in self.guard.down() if f"{name}: " in reasons]
            if down:
                raise GUARD_DOWN(guards=", ".join(down)) from refused
            raise

    def sampling(self, body: Drawing, prompt: npt.NDArray[np.uint32], wanted: int | None, top_logps: int) -> Sampling:
        """How answers are drawn: `wanted` tokens, as far as there is room. Raises DoesNotFit, ConfigError."""
        room = self.require_room(len(prompt), "prompt")
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
        tools: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> list[ServedChoice]:
        """The answers to jobs, each of which answers to its trace; calls of these tools, which have the JSON schemas
        of their arguments here, are read from them."""
        stops = read_stops(stop)
        found: list[ServedChoice] = []
        for job, trace in zip(jobs, traces, strict=True):
            for index in range(job.sampling.n):
                text = AnswerText(self.tokenizer, stops, job.sampling.stop_ids)
                calls = CallReader(tools.keys()) if tools else None
                found.append(ServedChoice(asked, job, index, len(found), text, trace, calls, tools or {}))
        return found
