"""POST /v1/chat/completions: conversations, answered by the model's own chat template."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Sequence
from typing import Any

from llama3.safety.guard import Turn
from llama3.serving.answers import ToldToken
from llama3.serving.chat_fields import ChatBody, ChatMessage, SchemaFormat, ToolSpec
from llama3.serving.choices import Delta, ServedChoice
from llama3.serving.prepared import Json, Prepared
from llama3.serving.problems import BAD_FIELD
from llama3.serving.record import Record
from llama3.serving.served import Served
from llama3.serving.service import Job
from llama3.serving.spelling import spelling
from llama3.serving.tools import FunctionCall, call_schema, schemas_of, told_calls, with_tools
from llama3.tokenizer.chat import Message, knows_tools, render
from llama3.tokenizer.tokenizer import Tokenizer

ANY_OBJECT: dict[str, Any] = {"type": "object"}


async def chat(served: Served, record: Record, body: ChatBody) -> Prepared:
    """Let the conversation in. Raises LlamaError for what is refused."""
    served.check_name(body.model)
    asked = served.asked(record, is_stream=bool(body.stream))
    tools = [] if body.tool_choice == "none" else body.tools or []
    told = await _admit_tools(served, tools, record)
    messages = [_message(message, f"messages.{number}") for number, message in enumerate(body.messages)]
    trace = await served.admit_dialog([Turn(message.role, message.text) for message in messages], record)
    admitted = [
        message if message.text == turn.content else dataclasses.replace(message, content=turn.content)
        for message, turn in zip(messages, trace, strict=True)
    ]
    if told and not knows_tools(served.tokenizer):
        admitted, told = with_tools(admitted, told), []
    prompt = render(served.tokenizer, admitted, generation_prompt=True, tools=told).ids
    wanted = body.max_completion_tokens or body.max_tokens
    sampling = served.sampling(body, prompt, wanted, body.top_logprobs or 0)
    schema = schema_of(body)
    constrain = None if schema is None else await asyncio.to_thread(lambda: served.schemas.constrain(schema))
    jobs = [Job(prompt, sampling, constrain)]
    choices = served.choices(asked, jobs, body.stop, [trace], schemas_of(tools))
    shape = ChatShape(served.tokenizer, record, body)
    return Prepared(record, served.service, jobs, choices, shape, body.tells_usage)


def _message(message: ChatMessage, where: str) -> Message:
    role = "system" if message.role == "developer" else message.role
    content = message.content
    if message.tool_calls:
        said = content if isinstance(content, str) else "".join(part.text for part in content or ())
        return Message("assistant", said + told_calls(message.tool_calls, where))
    return Message(role, content if isinstance(content, str) else [part.model_dump() for part in content or ()])


async def _admit_tools(served: Served, tools: Sequence[ToolSpec], record: Record) -> list[dict[str, Any]]:
    """Tools as templates are told of them. Raises GuardBlocked, and ConfigError where the guards would change one."""
    told = [tool.model_dump(exclude_none=True, exclude={"function": {"strict"}}) for tool in tools]
    for number, tool in enumerate(told):
        text = json.dumps(tool, ensure_ascii=False)
        if await served.admit(text, record) != text:
            raise BAD_FIELD(f"tools.{number}", error="a guard wants a part of it redacted")
    return told


def schema_of(body: ChatBody) -> dict[str, Any] | None:
    """What the answer has to be JSON of; None: nothing."""
    if body.must_call:
        return call_schema(body.tools or (), body.tool_choice)
    if isinstance(body.response_format, SchemaFormat):
        return body.response_format.json_schema.schema_
    return ANY_OBJECT if body.response_format is not None and body.response_format.type == "json_object" else None


class ChatShape:
    """Writes answers as messages of the assistant."""

    def __init__(self, tokenizer: Tokenizer, record: Record, body: ChatBody) -> None:
        self._tokenizer, self._logprobs = tokenizer, bool(body.logprobs)
        self._calls: dict[ServedChoice, int] = {}  # told so far
        self._id = record.id
        self._head = {"id": f"chatcmpl-{record.id}", "created": record.created, "model": body.model}

    def begin(self, choice: ServedChoice) -> Json:
        """The role."""
        return self._event(choice, {"role": "assistant", "content": ""})

    def piece(self, choice: ServedChoice, delta: Delta) -> Json:
        """The text, or calls."""
        content: Json = {"content": delta.text} if delta.text or not delta.calls else {}
        if delta.calls:
            first = self._calls.get(choice, 0)
            self._calls[choice] = first + len(delta.calls)
            content["tool_calls"] = [
                {"index": n, **self._call(choice, n, call)} for n, call in enumerate(delta.calls, first)
            ]
        return self._event(choice, content, self._told(delta.tokens))

    def end(self, choice: ServedChoice) -> Json:
        """Why it is over."""
        return self._event(choice, {}, None, choice.finish_reason)

    def usage(self, usage: Json) -> Json:
        """No choices."""
        return {**self._head, "object": "chat.completion.chunk", "choices": [], "usage": usage}

    def whole(self, answers: Sequence[tuple[ServedChoice, list[Delta]]], usage: Json) -> Json:
        """All choices."""
        choices = []
        for choice, deltas in answers:
            told = self._told([token for delta in deltas for token in delta.tokens])
            text, calls = "".join(delta.text for delta in deltas), [call for delta in deltas for call in delta.calls]
            message: Json = {"role": "assistant", "content": text or None if calls else text, "refusal": None}
            if calls:
                message["tool_calls"] = [self._call(choice, n, call) for n, call in enumerate(calls)]
            choices.append(
                {"index": choice.number, "message": message, "logprobs": told, "finish_reason": choice.finish_reason}
            )
        return {**self._head, "object": "chat.completion", "choices": choices, "usage": usage}

    def _event(
        self, choice: ServedChoice, delta: Json, logprobs: Json | None = None, finish: str | None = None
    ) -> Json:
        one = {"index": choice.number, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        return {**self._head, "object": "chat.completion.chunk", "choices": [one]}

    def _told(self, tokens: Sequence[ToldToken]) -> Json | None:
        if not self._logprobs:
            return None
        entries = [
            {**self._entry(told.id, told.logp), "top_logprobs": [self._entry(*other) for other in told.top]}
            for told in tokens
        ]
        return {"content": entries, "refusal": None}

    def _entry(self, id: int, logp: float) -> dict[str, Any]:
        data = list(self._tokenizer.decode_bytes([id])) if id < self._tokenizer.vocab_size else None
        return {"token": spelling(self._tokenizer, id), "bytes": data, "logprob": logp}

    def _call(self, choice: ServedChoice, number: int, call: FunctionCall) -> Json:
        function = {"name": call.name, "arguments": call.arguments}
        return {"id": f"call_{self._id}_{choice.number}_{number}", "type": "function", "function": function}
