"""POST /v1/completions: prompts as text or token ids, continued."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from llama3.inference.readers import PromptLogps
from llama3.safety.guard import Turn
from llama3.serving.answers import ToldToken
from llama3.serving.choices import Delta, ServedChoice
from llama3.serving.fields import CompletionBody
from llama3.serving.prepared import Json, Prepared
from llama3.serving.record import Record
from llama3.serving.served import Served
from llama3.serving.service import Job
from llama3.serving.spelling import spelling, token_id
from llama3.tokenizer.tokenizer import Tokenizer

MAX_TOKENS = 16
"""Of an answer, unless it is said: OpenAI's default."""
Spell = Callable[[int], str]
"""How a token is told."""


async def complete(served: Served, record: Record, body: CompletionBody) -> Prepared:
    """Let the prompts in. Raises LlamaError for what is refused."""
    served.check_name(body.model)
    asked = served.asked(record, is_stream=bool(body.stream))
    wanted = MAX_TOKENS if body.max_tokens is None else body.max_tokens
    jobs, traces = [], []
    for prompt in prompts_of(body.prompt):
        ids, text = await admitted_ids(served, prompt, record)
        sampling = served.sampling(body, ids, wanted, body.logprobs or 0)
        reads = body.echo and body.logprobs is not None
        jobs.append(Job(ids, sampling, reader=PromptLogps(ids, body.logprobs or 0) if reads else None))
        traces.append([Turn("user", text)])
    choices = served.choices(asked, jobs, body.stop, traces)
    shape = CompletionShape(served, record, body, answers=wanted > 0)
    return Prepared(record, served.service, jobs, choices, shape, body.tells_usage)


def prompts_of(given: str | list[Any]) -> list[str | list[int]]:
    """One prompt, or several, as a list of prompts."""
    if isinstance(given, str) or isinstance(given[0], int):
        return [given]
    return given


async def admitted_ids(
    served: Served, prompt: str | list[int], record: Record, where: str = "prompt"
) -> tuple[npt.NDArray[np.uint32], str]:
    """A prompt as the guards let it in: its ids and its text. Ids stay what they are unless something is redacted.
    Raises as `Served.admit`, and DoesNotFit for one that is too long for the model, before they see it."""
    ids = served.tokenizer.encode(prompt, bos=True) if isinstance(prompt, str) else np.array(prompt, np.uint32)
    served.require_room(len(ids), where)
    said = prompt if isinstance(prompt, str) else served.tokenizer.decode(ids)
    text = await served.admit(said, record)
    return (ids if text == said else served.tokenizer.encode(text, bos=True)), text


class CompletionShape:
    """Writes answers as completions. Without `answers` only the echo of the prompt is told."""

    def __init__(self, served: Served, record: Record, body: CompletionBody, *, answers: bool) -> None:
        self._served, self._body, self._answers = served, body, answers
        self._spell = token_id if body.return_tokens_as_token_ids else partial(spelling, served.tokenizer)
        head = {"id": f"cmpl-{record.id}", "object": "text_completion", "created": record.created}
        self._head = {**head, "model": body.model}
        self._offsets: dict[ServedChoice, int] = {}

    def begin(self, choice: ServedChoice) -> Json | None:
        """The echo, where nothing has to be computed for it."""
        if not self._body.echo or self._body.logprobs is not None:
            return None
        return self._event(choice, self._echo(choice), (), None)

    def piece(self, choice: ServedChoice, delta: Delta) -> Json:
        """With the echo before the first, where it has log-probabilities."""
        echo, logprobs = self._first(choice)
        text = delta.text if self._answers else ""
        return self._event(choice, echo + text, delta.tokens, self._logprobs(choice, logprobs, delta.tokens))

    def end(self, choice: ServedChoice) -> Json:
        """Without text, unless nothing came before."""
        echo, logprobs = self._first(choice)
        return self._event(choice, echo, (), self._logprobs(choice, logprobs, ()), choice.finish_reason)

    def usage(self, usage: Json) -> Json:
        """No choices."""
        return {**self._head, "choices": [], "usage": usage}

    def whole(self, answers: Sequence[tuple[ServedChoice, list[Delta]]], usage: Json) -> Json:
        """All choices."""
        choices = []
        for choice, deltas in answers:
            echo = self._echo(choice) if self._body.echo else ""
            _, logprobs = self._first(choice)
            text = "".join(delta.text for delta in deltas) if self._answers else ""
            tokens = [token for delta in deltas for token in delta.tokens]
            told = self._logprobs(choice, logprobs, tokens)
            choices.append(self._choice(choice, echo + text, tokens, told, choice.finish_reason))
        return {**self._head, "choices": choices, "usage": usage}

    def _event(
        self,
        choice: ServedChoice,
        text: str,
        tokens: Sequence[ToldToken],
        logprobs: Json | None,
        finish: str | None = None,
    ) -> Json:
        return {**self._head, "choices": [self._choice(choice, text, tokens, logprobs, finish)]}

    def _choice(
        self,
        choice: ServedChoice,
        text: str,
        tokens: Sequence[ToldToken],
        logprobs: Json | None,
        finish: str | None,
    ) -> Json:
        told = {"index": choice.number, "text": text, "logprobs": logprobs, "finish_reason": finish}
        if self._body.return_token_ids:
            told["prompt_token_ids"] = choice.job.prompt.tolist()
            told["token_ids"] = [token.id for token in tokens] if self._answers else []
        return told

    def _echo(self, choice: ServedChoice) -> str:
        """The prompt as it was let in; a BOS that was put before it is no part of it."""
        return choice.trace[0].content

    def _first(self, choice: ServedChoice) -> tuple[str, Json | None]:
        """The echo and its log-probabilities the first time, where they are told."""
        reader = choice.job.reader
        if choice in self._offsets or not isinstance(reader, PromptLogps):
            return "", None
        echo = self._echo(choice)
        self._offsets[choice] = len(echo)
        return echo, _prompt_logprobs(self._served.tokenizer, self._spell, reader, echo)

    def _logprobs(self, choice: ServedChoice, before: Json | None, tokens: Sequence[ToldToken]) -> Json | None:
        if self._body.logprobs is None:
            return None
        found = before or {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
        if self._answers:
            _append(found, self._spell, tokens, self._offsets.get(choice, 0), self._body.logprobs)
        return found


def _append(found: Json, spell: Spell, tokens: Sequence[ToldToken], offset: int, top: int) -> None:
    for told in tokens:
        found["tokens"].append(spell(told.id))
        found["token_logprobs"].append(told.logp)
        found["top_logprobs"].append(_tops(spell, told.top) if top else None)
        found["text_offset"].append(offset + told.start)


def _tops(spell: Spell, top: Sequence[tuple[int, float]]) -> dict[str, float]:
    return {spell(id): logp for id, logp in top}


def _prompt_logprobs(tokenizer: Tokenizer, spell: Spell, reader: PromptLogps, echo: str) -> Json:
    ids = reader.prompt.tolist()
    stream, offsets, at = tokenizer.stream(), [], len(echo) - len(tokenizer.decode(ids))
    for id in ids:
        offsets.append(max(0, at))
        at += len(stream.push(id))
    tops = [_tops(spell, top) if top else None for top in reader.tops]
    return {
        "tokens": [spell(id) for id in ids],
        "token_logprobs": [None, *reader.logps],
        "top_logprobs": [None, *tops],
        "text_offset": offsets,
    }
