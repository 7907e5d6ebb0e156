"""POST /inference/v1/generate: token ids in, token ids and their log-probabilities out, as vLLM's route of that name.

It is for trainers: nothing is tokenized on the way, so that what is learnt from is what was drawn. Where vLLM takes one
prompt, this takes several as well. The guards judge what ids say; an answer of which they keep back anything has no
tokens and ends with `content_filter`, because a part of it would be taken for all of it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from llama3.errors import GuardBlocked
from llama3.safety.guard import Turn
from llama3.serving.answers import ToldToken
from llama3.serving.choices import Delta, ServedChoice
from llama3.serving.completions import MAX_TOKENS, admitted_ids, prompts_of
from llama3.serving.fields import RolloutBody
from llama3.serving.prepared import Json, Prepared
from llama3.serving.record import Record
from llama3.serving.served import Served
from llama3.serving.service import Job
from llama3.serving.spelling import token_id

CHANGED_PROMPT = GuardBlocked.declare(
    "L3-SRV-040",
    "the prompt was refused",
    why="a guard wants a part of it redacted, and other token ids are another prompt",
    fix="ask with token ids that need no redaction",
)


async def roll_out(served: Served, record: Record, body: RolloutBody) -> Prepared:
    """Let the prompts in. Raises LlamaError for what is refused."""
    served.check_name(body.model)
    drawing = body.sampling_params
    asked = served.asked(record, is_stream=bool(body.stream))
    wanted = MAX_TOKENS if drawing.max_tokens is None else drawing.max_tokens
    jobs, traces = [], []
    for number, given in enumerate(prompts_of(body.token_ids)):
        ids, text = await admitted_ids(served, given, record, f"token_ids.{number}")
        if not np.array_equal(ids, np.array(given, np.uint32)):
            raise CHANGED_PROMPT(f"token_ids.{number}")
        sampling = served.sampling(drawing, ids, wanted, drawing.logprobs or 0)
        ends = sampling.stop_ids | set(drawing.stop_token_ids or ())
        jobs.append(Job(ids, dataclasses.replace(sampling, stop_ids=ends)))
        traces.append([Turn("user", text)])
    choices = served.choices(asked, jobs, None, traces)
    shape = RolloutShape(body.request_id or record.id, tells_logps=drawing.logprobs is not None)
    return Prepared(record, served.service, jobs, choices, shape, body.tells_usage)


class RolloutShape:
    """Writes answers as token ids."""

    def __init__(self, id: str, *, tells_logps: bool) -> None:
        self._id, self._tells_logps = id, tells_logps
        self._told: dict[ServedChoice, int] = {}  # tokens

    def begin(self, choice: ServedChoice) -> None:
        """Nothing."""

    def piece(self, choice: ServedChoice, delta: Delta) -> Json:
        """Tokens."""
        self._told[choice] = self._told.get(choice, 0) + len(delta.tokens)
        return self._body([self._choice(choice, delta.tokens, None)])

    def end(self, choice: ServedChoice) -> Json:
        """Why it is over."""
        return self._body([self._choice(choice, (), _finish(choice, self._told.get(choice, 0)))])

    def usage(self, usage: Json) -> Json:
        """No choices."""
        return {**self._body([]), "usage": usage}

    def whole(self, answers: Sequence[tuple[ServedChoice, list[Delta]]], usage: Json) -> Json:
        """All choices."""
        choices = []
        for choice, deltas in answers:
            tokens = [token for delta in deltas for token in delta.tokens]
            finish = _finish(choice, len(tokens))
            choices.append(self._choice(choice, () if finish == "content_filter" else tokens, finish))
        return {**self._body(choices), "usage": usage}

    def _body(self, choices: list[Json]) -> Json:
        return {"request_id": self._id, "choices": choices}

    def _choice(self, choice: ServedChoice, tokens: Sequence[ToldToken], finish: str | None) -> Json:
        logprobs = {"content": [_entry(token) for token in tokens]} if self._tells_logps else None
        ids = [token.id for token in tokens]
        return {"index": choice.number, "token_ids": ids, "logprobs": logprobs, "finish_reason": finish}


def _finish(choice: ServedChoice, told: int) -> str:
    """Why an answer is over of which so many tokens may be told."""
    return choice.finish_reason if told == choice.answer.count else "content_filter"


def _entry(token: ToldToken) -> Json:
    return {**_one(token.id, token.logp), "top_logprobs": [_one(*other) for other in token.top]}


def _one(id: int, logp: float) -> Json:
    return {"token": token_id(id), "logprob": logp, "bytes": None}
