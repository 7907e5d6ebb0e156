"""Whatever the body of a completion or a chat says, over the whole of their schemas: refused with a code, or answered
whole and within what was asked for, and nobody else is the worse for it.
"""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from web import NAME, idle, running

from llama3.serving.chat_fields import ChatBody, ChatMessage
from llama3.serving.fields import CompletionBody
from llama3.testing.toys import toy_llama

GREEDY = {"model": NAME, "prompt": "the river", "max_tokens": 12, "temperature": 0}
MOST = 6
"""Tokens of an answer, where the body does not say."""

WORDS = st.text(max_size=20) | st.sampled_from(["a", "the river", "<|eot_id|>", "\ud800", "\x00", "a" * 5000])
NUMBERS = st.integers(-2, 22) | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.just(1e-300)
JUNK = st.recursive(
    st.none() | st.booleans() | NUMBERS | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
IDS = st.lists(st.integers(-1, 70_000), max_size=20)
SCHEMAS = st.sampled_from([
    {"type": "boolean"}, {"type": "string", "pattern": "(a{1,100}){1,100}"}, {"$ref": "#"}, {"enum": []}, {},
    {"$ref": "#/$defs/a", "$defs": {"a": {"items": {"$ref": "#/$defs/a"}}}}, {"type": "nonsense"},
    {"$ref": "http://127.0.0.1:1/x"}, {"anyOf": [{"const": 1}, {"not": {}}]}, {"properties": {"a": {"$ref": "#"}}},
])  # fmt: skip


def fitting(values):
    """Mostly what the field may be, sometimes anything."""
    return st.one_of(values, values, values, JUNK)


def objects(**fields):
    return st.fixed_dictionaries({}, optional={name: fitting(values) for name, values in fields.items()})


CALL = objects(id=st.just("c1"), type=st.just("function"), index=st.integers(0, 2),
               function=objects(name=WORDS, arguments=st.sampled_from(["{}", "{", '{"a": 1}'])))  # fmt: skip
FUNCTION = st.fixed_dictionaries(
    {"name": fitting(st.sampled_from(["clock", "weather", "no name"]))},
    optional={"description": fitting(WORDS), "parameters": fitting(SCHEMAS), "strict": fitting(st.booleans())},
)
TOOL = st.fixed_dictionaries({"type": fitting(st.just("function")), "function": fitting(FUNCTION)})
PART_TYPES = st.sampled_from(["text", "text", "image_url", "input_audio", "file"])
PARTS = st.lists(st.fixed_dictionaries({"type": PART_TYPES}, optional={"text": WORDS, "file": JUNK}), max_size=3)
ROLE = {"role": st.sampled_from(["system", "developer", "user", "assistant", "tool"])}
SAID = {
    "content": WORDS | PARTS, "name": WORDS, "tool_calls": st.lists(CALL, max_size=2), "tool_call_id": WORDS,
    "refusal": st.none(), "audio": st.none(), "function_call": st.none(), "annotations": st.just([]),
}  # fmt: skip
MESSAGE = st.builds(lambda role, said: {**role, **said}, st.fixed_dictionaries(ROLE), objects(**SAID))
DRAWING = {
    "user": WORDS, "metadata": st.dictionaries(WORDS, JUNK, max_size=2), "model": st.just(NAME),
    "temperature": st.floats(0, 2), "top_p": st.floats(0, 1, exclude_min=True), "top_k": st.integers(0, 5),
    "n": st.integers(1, 8), "seed": st.integers(-(2**63), 2**63 - 1), "stop": WORDS | st.lists(WORDS, max_size=4),
    "logit_bias": st.dictionaries(st.integers(-1, 400).map(str), st.floats(-100, 100), max_size=4),
    "stream": st.booleans(), "stream_options": objects(include_usage=st.booleans(), include_obfuscation=st.booleans()),
    "frequency_penalty": st.just(0.0), "presence_penalty": st.just(0.0), "repetition_penalty": st.just(1.0),
    "min_p": st.just(0.0),
}  # fmt: skip
COMPLETION = {
    **DRAWING, "prompt": WORDS | st.lists(WORDS, max_size=3) | IDS | st.lists(IDS, max_size=3),
    "max_tokens": st.integers(0, MOST), "logprobs": st.integers(0, 20), "echo": st.booleans(), "suffix": st.none(),
    "best_of": st.integers(1, 2), "return_token_ids": st.booleans(), "return_tokens_as_token_ids": st.booleans(),
}  # fmt: skip
CHAT = {
    **DRAWING, "messages": st.lists(MESSAGE, max_size=4), "max_tokens": st.integers(1, MOST),
    "max_completion_tokens": st.integers(1, MOST), "logprobs": st.booleans(), "top_logprobs": st.integers(0, 20),
    "tools": st.lists(TOOL, max_size=3), "parallel_tool_calls": st.booleans(), "store": st.just(False),
    "tool_choice": st.sampled_from(["none", "auto", "required"]) | st.fixed_dictionaries(
        {"type": st.just("function"), "function": st.fixed_dictionaries({"name": st.just("clock")})}),
    "response_format": st.sampled_from([{"type": "text"}, {"type": "json_object"}]) | st.fixed_dictionaries(
        {"type": st.just("json_schema"), "json_schema": st.fixed_dictionaries({"name": WORDS, "schema": SCHEMAS})}),
    "modalities": st.just(["text"]),
}  # fmt: skip


def bodies(fields, **always):
    """Two or three fields of the schema, or one of another, beside what there must be."""
    some = st.lists(st.sampled_from(sorted(fields)), max_size=5, unique=True)
    drawn = some.flatmap(lambda names: st.fixed_dictionaries({name: fitting(fields[name]) for name in names}))
    stray = st.dictionaries(st.sampled_from(["chat_template", "guided_regex", "images", "x"]), JUNK, max_size=1)
    more = st.one_of(st.just({}), st.just({}), st.just({}), stray)
    return st.builds(lambda body, other: {"model": NAME, **always, **body, **other}, drawn, more)


@pytest.fixture(scope="module")
def site():
    with running(toy_llama()) as found:
        found.expected = toy_llama().generate("the river", max_tokens=12, temperature=0)
        yield found


def test_the_whole_of_the_schemas_is_drawn():
    assert COMPLETION.keys() == CompletionBody.model_fields.keys()
    assert CHAT.keys() == ChatBody.model_fields.keys()
    assert ROLE.keys() | SAID.keys() == ChatMessage.model_fields.keys()


def events_of(text):
    return [line.removeprefix("data: ") for line in text.splitlines() if line]


def finishes(choices):
    return [(choice["index"], choice["finish_reason"]) for choice in choices if choice["finish_reason"]]


def check(site, path, body):
    """The oracle; the status."""
    data = json.dumps(body).encode()
    reply = site.http.post(path, content=data, headers={"Content-Type": "application/json"})
    if reply.status_code != 200:
        assert 400 <= reply.status_code < 500, (body, reply.text)
        assert reply.json()["error"]["code"].startswith("L3-"), reply.text
    elif body.get("stream") is True:
        *events, last = events_of(reply.text)
        assert last == "[DONE]", (body, last)
        parts = [json.loads(event) for event in events]
        check_whole(body, finishes([choice for part in parts for choice in part["choices"]]))
    else:
        answered = reply.json()
        check_whole(body, finishes(answered["choices"]))
        limits = [body.get(name) for name in ("max_completion_tokens", "max_tokens") if isinstance(body.get(name), int)]
        most = max(1, *limits) if limits else 10**6
        assert answered["usage"]["completion_tokens"] <= most * len(answered["choices"]), body
    assert idle(site.service), body
    assert site.service.engine.pool.check() == []
    assert site.client.completions.create(**GREEDY).choices[0].text == site.expected
    return reply.status_code


def check_whole(body, ends):
    """Every answer that was asked for has one end."""
    prompts = body.get("prompt")
    many = len(prompts) if isinstance(prompts, list) and prompts and not isinstance(prompts[0], int) else 1
    assert sorted(index for index, _ in ends) == list(range((body.get("n") or 1) * many)), body
    assert {reason for _, reason in ends} <= {"stop", "length", "tool_calls", "content_filter"}


ROUTES = {
    "/v1/completions": bodies(COMPLETION, prompt="the river", max_tokens=3),
    "/v1/chat/completions": bodies(CHAT, messages=[{"role": "user", "content": "a"}], max_tokens=3),
}


@pytest.mark.parametrize("path", ROUTES)
def test_any_body(site, path):
    met = set()

    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    @given(body=ROUTES[path])
    def holds(body):
        met.add(check(site, path, body))

    holds()
    assert met >= {200, 400}, "some are answered, some are refused"
