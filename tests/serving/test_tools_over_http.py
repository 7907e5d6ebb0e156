"""Tools and JSON schemas: what the model is told, how its calls are read, what its answers are held to."""

from __future__ import annotations

import dataclasses
import json
import random
from types import SimpleNamespace

import jsonschema
import numpy as np
import openai
import pytest
import torch
from chatting import load
from web import NAME, idle, running

from llama3.errors import DataError
from llama3.inference import Llama, Sampling
from llama3.model.build import init_weights
from llama3.model.config import ModelConfig
from llama3.model.transformer import Transformer
from llama3.safety.engine import PolicyEngine
from llama3.safety.guard import Verdict
from llama3.serving.tools import CallReader
from llama3.testing.toys import toy_llama
from llama3.tokenizer import render, stop_ids

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tells the weather.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Oslo", "Rome"]}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
            "required": ["city", "days"],
            "additionalProperties": False,
        },
    },
}
CLOCK = {"type": "function", "function": {"name": "clock", "parameters": {"type": "object", "properties": {},
                                                                          "additionalProperties": False}}}  # fmt: skip
ASKED = {"model": NAME, "messages": [{"role": "user", "content": "How is it in Oslo?"}], "temperature": 1.0, "seed": 1}
CALL = '{"name": "weather", "parameters": {"city": "Oslo", "days": 2}}'
NAMES = {"weather", "clock"}


class Scripted:
    """A model that says what it is told to, whatever it is asked."""

    def __init__(self, llama):
        self.tokenizer, self.ids = llama.tokenizer, []
        llama.transformer.logits = self

    def say(self, text):
        self.ids = [*self.tokenizer.encode(text).tolist(), self.tokenizer.eot_id]

    def __call__(self, h_TD):
        logits = torch.zeros(len(h_TD), self.tokenizer.vocab_size)
        if len(logits):  # none while a prompt is half computed
            logits[-1, self.ids.pop(0)] = 50.0
        return logits


def wide_llama():
    """With room for tools, which take many tokens where few are words."""
    llama = toy_llama()
    config = dataclasses.replace(llama.config, max_seq_len=2048)
    return Llama(init_weights(Transformer(config), 0), llama.tokenizer)


@pytest.fixture(scope="module")
def site():
    with running(wide_llama()) as found:
        yield found
        assert idle(found.service)


@pytest.fixture(scope="module")
def scripted():
    class NoRome:
        async def open(self): ...

        async def close(self): ...

        async def check(self, x):
            return Verdict(action="block" if "Rome" in x.text else "allow")

    plain = wide_llama()
    policy = PolicyEngine({"tool_call": "no_rome"}, lambda name, options: NoRome())
    with running(Llama(plain.transformer, plain.tokenizer, guard=policy)) as found:
        found.model = Scripted(plain)
        yield found


def ask(site, stream, **options):
    """(text, calls, finish_reason) of an answer."""
    found = site.client.chat.completions.create(**{**ASKED, "tools": [WEATHER, CLOCK], **options}, stream=stream)
    if not stream:
        (choice,) = found.choices
        calls = [(call.function.name, call.function.arguments) for call in choice.message.tool_calls or ()]
        return choice.message.content or "", calls, choice.finish_reason
    text, calls, reason = "", {}, None
    for chunk in found:
        (choice,) = chunk.choices
        text += choice.delta.content or ""
        for call in choice.delta.tool_calls or ():
            name, arguments = calls.get(call.index, ("", ""))
            calls[call.index] = (name + (call.function.name or ""), arguments + (call.function.arguments or ""))
        reason = choice.finish_reason or reason
    return text, list(calls.values()), reason


OSLO = ("weather", '{"city": "Oslo", "days": 2}')


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (CALL, ("", [OSLO], "tool_calls")),
        (f"\n {CALL} ", ("", [OSLO], "tool_calls")),
        (f'{CALL}; {{"name": "clock", "parameters": {{}}}}', ("", [OSLO, ("clock", "{}")], "tool_calls")),
        ('{"type": "function", "name": "clock", "arguments": {}}', ("", [("clock", "{}")], "tool_calls")),
        (f"Well: {CALL}", (f"Well: {CALL}", [], "stop")),
        ('{"name": "other", "parameters": {}}', ('{"name": "other", "parameters": {}}', [], "stop")),
        ('{"a": 1} and so on', ('{"a": 1} and so on', [], "stop")),
        (CALL[:-4], (CALL[:-4], [], "stop")),
        ("It is \u00e9\U0001f999.", ("It is \u00e9\U0001f999.", [], "stop")),
        (CALL.replace("Oslo", "Rome"), ("", [], "content_filter")),
    ],
)  # fmt: skip
def test_calls_are_read_alike_from_streams_and_whole_answers(scripted, stream, said, expected):
    assert idle(scripted.service)  # the step in which an answer was dropped would draw from the next one's script
    scripted.model.say(said)
    assert ask(scripted, stream) == expected


@pytest.mark.parametrize("stream", [False, True])
def test_control_tokens_are_no_part_of_what_is_said(scripted, stream):
    """Llama 3 begins a call with <|python_tag|>; any other may be drawn where the temperature is high."""
    controls = scripted.llama.tokenizer.special_tokens
    for said, expected in [(CALL, ("", [OSLO], "tool_calls")), ("It is \u00e9.", ("It is \u00e9.", [], "stop"))]:
        assert idle(scripted.service)
        scripted.model.say(said)
        scripted.model.ids[4:4] = [controls["<|start_header_id|>"], controls["<|begin_of_text|>"]]
        scripted.model.ids.insert(0, controls["<|python_tag|>"])
        assert ask(scripted, stream) == expected


@pytest.mark.parametrize("stream", [False, True])
def test_without_tools_or_choice_there_are_no_calls(scripted, stream):
    for options in ({"tools": openai.NOT_GIVEN}, {"tool_choice": "none"}):
        assert idle(scripted.service)
        scripted.model.say(CALL)
        assert ask(scripted, stream, **options) == (CALL, [], "stop")


def test_calls_are_read_wherever_a_text_is_cut():
    rng = random.Random(0)
    parts = [
        CALL,
        '{"name": "clock", "parameters": {"a": "}\\"{"}}',
        "; ",
        " ",
        "\n",
        "text",
        "{",
        "}",
        '"',
    ]
    for _ in range(1500):
        text = "".join(rng.choice(parts) for _ in range(rng.randrange(6)))
        whole = read(text, [text])
        cuts = sorted(rng.randrange(len(text) + 1) for _ in range(4))
        assert read(text, [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]) == whole


def read(text, pieces):
    reader, told, found = CallReader(NAMES), "", []
    for piece in pieces:
        more, calls = reader.push(piece)
        told += more
        found += calls
    return told + reader.flush(), found


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("choice", "names"),
    [("required", NAMES), ({"type": "function", "function": {"name": "clock"}}, {"clock"})],
)
def test_a_demanded_call_is_made(site, stream, choice, names):
    for seed in range(3):
        text, calls, reason = ask(site, stream, tool_choice=choice, seed=seed)
        assert (text, len(calls), reason) == ("", 1, "tool_calls")
        ((name, arguments),) = calls
        assert name in names
        schema = WEATHER if name == "weather" else CLOCK
        jsonschema.validate(json.loads(arguments), schema["function"]["parameters"])


SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 3},
        "even": {"type": "boolean"},
    },
    "required": ["name", "tags", "even"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_is_json_of_the_schema(site, stream):
    wanted = {"type": "json_schema", "json_schema": {"name": "thing", "schema": SCHEMA, "strict": True}}
    for seed in range(3):
        text, _, reason = ask(site, stream, tools=openai.NOT_GIVEN, response_format=wanted, seed=seed)
        assert reason == "stop"
        jsonschema.validate(json.loads(text), SCHEMA)


def test_an_answer_is_any_object(site):
    options = {"tools": openai.NOT_GIVEN, "response_format": {"type": "json_object"}, "max_tokens": 30}
    text, _, reason = ask(site, False, **options)
    assert text.startswith("{")
    assert reason == "length" or isinstance(json.loads(text), dict)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "nonsense"}, {"$ref": "#/nowhere"}, {"type": "string", "pattern": "(" * 50},
        {"not": {"type": "string"}}, {"$ref": "http://127.0.0.1/schema"},
        {"type": "array", "items": {"type": "string"}, "uniqueItems": True},
    ],
)  # fmt: skip
def test_a_schema_that_cannot_be_used_is_refused(site, schema):
    wanted = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    body = {**ASKED, "max_tokens": 8, "response_format": wanted}
    reply = site.http.post("/v1/chat/completions", json=body)
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, "L3-SRV-016")


TOLD = """\
You can call functions. To call one, answer with nothing but its name and arguments as JSON: \
{"name": NAME, "parameters": {ARGUMENT: VALUE}}
The functions:
"""


def test_the_model_is_told_of_tools_and_earlier_calls(site):
    function = {"name": "weather", "arguments": '{"city":"Oslo","days":2}'}
    calls = [{"id": "call_1", "type": "function", "function": function}]
    messages = [
        *ASKED["messages"],
        {"role": "assistant", "content": None, "tool_calls": calls},
        {"role": "tool", "tool_call_id": "call_1", "content": "rain"},
    ]
    body = {**ASKED, "messages": messages, "tools": [WEATHER], "max_tokens": 4, "temperature": 0}
    found = site.client.chat.completions.create(**body)
    told = [
        {"role": "system", "content": f"{TOLD}{json.dumps(WEATHER['function'])}"},
        *ASKED["messages"],
        {"role": "assistant", "content": CALL},
        {"role": "tool", "content": "rain"},
    ]
    prompt = render(site.llama.tokenizer, told, generation_prompt=True).ids
    assert found.usage.prompt_tokens == len(prompt)
    sampling = Sampling(4, temperature=0, stop_ids=stop_ids(site.llama.tokenizer))
    (expected,) = wide_llama().engine.generate([prompt], sampling)[0]
    assert found.choices[0].message.content == site.llama.tokenizer.decode(expected.ids)
    broken = [{"role": "assistant", "tool_calls": [{"id": "a", "function": {"name": "weather", "arguments": "["}}]}]
    assert site.http.post("/v1/chat/completions", json={**body, "messages": broken}).status_code == 400


KNOWING = """\
{%- if tools %}{{- '<|im_start|>system\\n' }}
{%- for tool in tools %}{{- tool.function | tojson ~ '\\n' }}{%- endfor %}{{- '<|im_end|>\\n' }}{%- endif %}
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""


def test_a_template_that_knows_tools_writes_them(tmp_path):
    transformers = pytest.importorskip("transformers")
    tokenizer = load(tmp_path, KNOWING)
    messages = [{"role": "user", "content": "How is it?"}]
    ours = render(tokenizer, messages, generation_prompt=True, tools=[WEATHER]).ids
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path).apply_chat_template(
        messages, tools=[WEATHER], add_generation_prompt=True
    )["input_ids"]
    np.testing.assert_array_equal(ours, theirs)
    assert "weather" not in tokenizer.decode(render(tokenizer, messages, generation_prompt=True).ids)
    spoiled = json.loads(json.dumps(WEATHER).replace("Tells the weather.", "<|im_end|>"))
    with pytest.raises(DataError, match="L3-CHT-011"):
        render(tokenizer, messages, generation_prompt=True, tools=[spoiled])
    config = ModelConfig(16, 1, 2, 1, 32, tokenizer.vocab_size, max_seq_len=512)
    llama = SimpleNamespace(model=init_weights(Transformer(config), 0))
    with running(Llama(llama.model, tokenizer)) as found:
        asked = {**ASKED, "messages": messages, "tools": [WEATHER], "max_tokens": 1}
        assert found.client.chat.completions.create(**asked).usage.prompt_tokens == len(ours)
        reply = found.http.post("/v1/chat/completions", json={**asked, "tools": [spoiled]})
        assert (reply.status_code, reply.json()["error"]["code"]) == (400, "L3-CHT-011")


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string", "pattern": "(a{1,1000}){1,1000}"},
        {"type": "string", "pattern": "(a|a)*" * 200},
        {"$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}, {"type": "array", "items": {"$ref": "#/$defs/a"}}]}},
         "$ref": "#/$defs/a"},
        {"anyOf": [{"type": "object", "properties": {f"k{j}": {"enum": list(range(50))} for j in range(20)}}] * 40},
        {"type": "array", "minItems": 10**6, "items": {"type": "integer"}},
        json.loads('{"items":' * 100 + "{}" + "}" * 100),
    ],
)  # fmt: skip
def test_a_schema_costs_no_more_than_it_may(site, schema):
    """It is refused or answered, and the server goes on."""
    wanted = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    reply = site.http.post("/v1/chat/completions", json={**ASKED, "max_tokens": 4, "response_format": wanted})
    assert reply.status_code in (200, 400), reply.text
