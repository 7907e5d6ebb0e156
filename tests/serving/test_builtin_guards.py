"""The built-in guards that need no model, before and behind a served one."""

from __future__ import annotations

import openai
import pytest
from web import NAME, running

from llama3.inference import Llama
from llama3.plugins.registry import discover
from llama3.safety.engine import PolicyEngine
from llama3.testing.toys import toy_llama

ANY_LETTER = {"name": "regex", "patterns": [{"category": "letter", "pattern": "[a-zA-Z]"}]}
POLICY = {
    "input": {"any": [{"guard": {"name": "pii", "card": "block"}}, "prompt_injection"]},
    "output": {"any": [{"guard": ANY_LETTER}, "code_shield", "pii"]},
}
DRAWN = {"model": NAME, "max_tokens": 40, "temperature": 1.0, "seed": 3}


@pytest.fixture(scope="module")
def guarded():
    plain = toy_llama()
    policy = PolicyEngine(POLICY, lambda name, options: discover().build("guards", name, options))
    with policy, running(Llama(plain.transformer, plain.tokenizer, guard=policy)) as site:
        yield site


def test_what_is_asked_is_refused_with_its_reason(guarded):
    with pytest.raises(openai.BadRequestError, match=r"L3-SAF-020|found card"):
        guarded.client.completions.create(prompt="my card is 4111 1111 1111 1111", **DRAWN)


def test_what_is_redacted_is_admitted(guarded):
    found = guarded.client.completions.create(prompt="write to bob@example.com", **DRAWN)
    assert found.choices[0].finish_reason


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_is_refused_streamed_or_not(guarded, stream):
    given = guarded.client.completions.create(prompt="hello", stream=stream, **DRAWN)
    choices = [piece.choices[0] for piece in given] if stream else given.choices
    assert [choice.finish_reason for choice in choices if choice.finish_reason] == ["content_filter"]
    assert not any(letter.isalpha() for choice in choices for letter in choice.text)
