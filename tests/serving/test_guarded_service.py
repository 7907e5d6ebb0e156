"""The guard policy stands in every path: prompts, conversations, token ids, whole answers and streams."""

from __future__ import annotations

import json

import openai
import pytest
from web import NAME, idle, running

from llama3.inference import Llama
from llama3.safety.engine import PolicyEngine
from llama3.safety.guard import Span, Verdict
from llama3.testing.toys import toy_llama

ADMITTED = "please [redacted] it"
DRAWN = {"model": NAME, "max_tokens": 60, "temperature": 1.0, "seed": 3}


class Watch:
    """Blocks the texts in `blocked`, redacts those in `redacted`, fails at `FAIL`."""

    def __init__(self):
        self.blocked, self.redacted, self.seen = ["secret"], ["hide"], []

    async def open(self): ...

    async def close(self): ...

    async def check(self, x):
        self.seen.append((x.stage, x.text, [turn.content for turn in x.trace]))
        if "FAIL" in x.text:
            raise RuntimeError("injected")
        if any(word in x.text for word in self.blocked):
            return Verdict(action="block", reason="a secret")
        spans = [Span(start=at, end=at + len(w)) for w in self.redacted if (at := x.text.find(w)) >= 0]
        return Verdict(action="redact" if spans else "allow", spans=tuple(spans))


@pytest.fixture(scope="module")
def guarded():
    watch, plain = Watch(), toy_llama()
    policy = PolicyEngine({"input": "watch", "output": "watch"}, lambda name, options: watch)
    policy.open()
    with running(Llama(plain.transformer, plain.tokenizer, guard=policy)) as site:
        site.watch, site.plain = watch, plain
        yield site
        assert idle(site.service)


@pytest.fixture(autouse=True)
def calm(guarded):
    yield
    guarded.watch.blocked, guarded.watch.redacted = ["secret"], ["hide"]
    guarded.watch.seen.clear()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("text", ["a secret", "FAIL"])
def test_what_is_asked_is_judged(guarded, stream, text):
    ids = guarded.plain.tokenizer.encode(text).tolist()
    for prompt in (text, ids, [text, "a"], [ids]):
        with pytest.raises(openai.BadRequestError) as error:
            guarded.client.completions.create(**DRAWN, prompt=prompt, stream=stream)
        assert error.value.code == "L3-SAF-020"
    dialog = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "tool", "content": text},
    ]
    with pytest.raises(openai.BadRequestError):
        guarded.client.chat.completions.create(**DRAWN, messages=dialog, stream=stream)


def test_what_is_redacted_does_not_reach_the_model(guarded):
    tokenizer = guarded.plain.tokenizer
    shown = guarded.client.completions.create(**DRAWN, prompt="please hide it", echo=True).choices[0].text
    assert shown == ADMITTED + guarded.plain.generate(ADMITTED, **_drawn())
    ids = tokenizer.encode("please hide it").tolist()
    assert guarded.client.completions.create(**DRAWN, prompt=ids, echo=True).choices[0].text == shown
    assert all("hide" not in text for stage, text, _ in guarded.watch.seen if stage == "output")
    trace = next(trace for stage, _, trace in guarded.watch.seen if stage == "output")
    assert trace == [ADMITTED]


def _drawn():
    return {"max_tokens": 60, "temperature": 1.0, "top_p": 1.0, "seed": 3}


@pytest.mark.parametrize("logprobs", [None, 2])
def test_a_blocked_answer_ends_with_content_filter(guarded, logprobs):
    whole = guarded.plain.generate("the river", **_drawn())
    guarded.watch.blocked = [whole[30:33]]
    asked = {**DRAWN, "prompt": "the river", "logprobs": logprobs}
    found = guarded.client.completions.create(**asked).choices[0]
    assert (found.text, found.finish_reason) == ("", "content_filter")
    assert found.logprobs is None or found.logprobs.tokens == []
    chunks = list(guarded.client.completions.create(**asked, stream=True))
    told = "".join(chunk.choices[0].text for chunk in chunks)
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices[0].finish_reason] == ["content_filter"]
    assert whole.startswith(told)
    assert guarded.watch.blocked[0] not in told
    tokens = [token for chunk in chunks if chunk.choices[0].logprobs for token in chunk.choices[0].logprobs.tokens]
    assert "".join(tokens) == (told if logprobs else "")


def test_what_is_redacted_of_an_answer_is_not_told_by_its_tokens(guarded):
    whole = guarded.plain.generate("the river", **_drawn())
    guarded.watch.redacted = [whole[30:33]]
    asked = {**DRAWN, "prompt": "the river", "logprobs": 2}
    found = guarded.client.completions.create(**asked).choices[0]
    assert found.text == whole.replace(whole[30:33], "[redacted]", 1)
    assert found.logprobs.tokens == []
    chunks = list(guarded.client.completions.create(**asked, stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == found.text
    tokens = [token for chunk in chunks if chunk.choices[0].logprobs for token in chunk.choices[0].logprobs.tokens]
    assert whole[:30].startswith("".join(tokens))


def test_a_failing_guard_lets_nothing_out(guarded):
    whole = guarded.plain.generate("the river", **_drawn())
    check, guarded.watch.check = guarded.watch.check, None
    try:
        with pytest.raises(openai.BadRequestError):
            guarded.client.completions.create(**DRAWN, prompt="the river")
    finally:
        guarded.watch.check = check
    assert guarded.client.completions.create(**DRAWN, prompt="the river").choices[0].text == whole


def test_a_blocked_stream_has_one_end(guarded):
    guarded.watch.blocked = [guarded.plain.generate("the river", **_drawn())[5:7]]
    body = {**DRAWN, "prompt": "the river", "stream": True}
    with guarded.http.stream("POST", "/v1/completions", json=body) as reply:
        events = [line.removeprefix("data: ") for line in reply.iter_lines() if line]
    assert events[-1] == "[DONE]"
    finishes = [json.loads(event)["choices"][0]["finish_reason"] for event in events[:-1]]
    assert [reason for reason in finishes if reason] == ["content_filter"]
