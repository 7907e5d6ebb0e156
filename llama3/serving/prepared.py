"""`Prepared`: a request that was understood and let in, ready to be computed and told whole."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Protocol

from llama3.serving.choices import Delta, ServedChoice, merged
from llama3.serving.record import Record
from llama3.serving.service import Job, Service

Json = dict[str, Any]


class Shape(Protocol):
    """How a route writes answers."""

    def begin(self, choice: ServedChoice) -> Json | None:
        """The first event of an answer, before anything is drawn."""
        ...

    def piece(self, choice: ServedChoice, delta: Delta) -> Json:
        """An event with what comes next of an answer."""
        ...

    def end(self, choice: ServedChoice) -> Json:
        """The last event of an answer."""
        ...

    def usage(self, usage: Json) -> Json:
        """An event that only tells the tokens used."""
        ...

    def whole(self, answers: Sequence[tuple[ServedChoice, list[Delta]]], usage: Json) -> Json:
        """The body with all answers."""
        ...


@dataclass(frozen=True, slots=True)
class Prepared:
    """The jobs of a request, the answers to them, and the shape that writes those."""

    record: Record
    service: Service
    jobs: Sequence[Job]
    choices: Sequence[ServedChoice]
    shape: Shape
    tells_usage: bool

    def submit(self) -> None:
        """Queue the jobs. Raises what `Service.submit` raises."""
        self.service.submit(self.jobs, self.record.tenant)
        self.record.prompt_tokens = sum(len(job.prompt) for job in self.jobs)

    async def whole(self) -> Json:
        """All answers in one body, once the jobs are queued. Raises LlamaError where the server cannot go on."""
        answers: dict[ServedChoice, list[Delta]] = {choice: [] for choice in self.choices}
        try:
            async with aclosing(merged(self.choices)) as news:
                async for choice, delta in news:
                    self.record.told()
                    if delta is not None:
                        answers[choice].append(delta)
        finally:
            self.close()
        return self.shape.whole(list(answers.items()), self.usage())

    def close(self) -> None:
        """Nobody waits for the answers any more."""
        for job in self.jobs:
            self.service.cancel(job)
        self.record.timed([job.times for job in self.jobs])
        self.record.completion_tokens = sum(choice.answer.count for choice in self.choices)
        self.record.finish = [choice.finish_reason for choice in self.choices if choice.finish_reason]

    def usage(self) -> Json:
        """The tokens of the prompts and of the answers so far as they are closed."""
        prompt, answer = self.record.prompt_tokens, self.record.completion_tokens
        return {"prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer}
