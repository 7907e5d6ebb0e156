"""How people ask a model: strings, mappings of role and content, texts that end an answer, streams."""

from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np
import pytest

from llama3.errors import ConfigError, DataError, GuardBlocked
from llama3.inference import Llama
from llama3.inference.stops import Stops
from llama3.safety.engine import PolicyEngine
from llama3.safety.guard import Verdict
from llama3.testing.toys import toy_llama
from llama3.tokenizer import Message, render

ASKED = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Is 7 even?"}]
DRAWN = {"temperature": 1.0, "top_p": 1.0, "seed": 3, "max_tokens": 40}


@pytest.fixture(scope="module")
def llama() -> Llama:
    return toy_llama()


def test_messages_may_be_mappings(llama):
    objects = [Message("system", "Be brief."), Message("user", "Is 7 even?")]
    answer = llama.chat(ASKED, **DRAWN)
    assert answer == llama.chat(objects, **DRAWN)
    assert str(answer) == answer.content
    assert answer.role == "assistant"
    again = llama.chat([*ASKED, answer, {"role": "user", "content": [{"type": "text", "text": "Why?"}]}], max_tokens=3)
    assert isinstance(again, Message)
    np.testing.assert_array_equal(render(llama.tokenizer, ASKED).ids, render(llama.tokenizer, objects).ids)


def test_a_string_is_a_message_of_the_user(llama):
    expected = llama.chat([Message("user", "Is 7 even?")], **DRAWN)
    assert llama.chat("Is 7 even?", **DRAWN) == expected
    assert llama.chat({"role": "user", "content": "Is 7 even?"}, **DRAWN) == expected


@pytest.mark.parametrize(
    ("messages", "match"),
    [
        ([], "no messages"),
        (["Is 7 even?"], "is no message"),
        ([7], "int is no message"),
        ([{"role": "user"}], "'content' is missing"),
        ([{"content": "a"}], "'role' is missing"),
        ([{"role": "usr", "content": "a"}], r"message 1 \(usr\).*'usr' does not exist"),
        ([{"role": "user", "content": None}], "NoneType|empty"),
        ([{"role": "user", "content": "a", "tool_calls": []}], "'tool_calls' mean nothing"),
        ([{"role": "user", "content": "a", "contents": "b"}], "did you mean 'content'"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "image_url"),
    ],
)
def test_what_is_no_dialog_is_refused_with_its_place(llama, messages, match):
    with pytest.raises(DataError, match=match):
        llama.chat(messages)


def test_every_bad_message_is_named(llama):
    with pytest.raises(DataError) as found:
        llama.chat([{"role": "user"}, *ASKED, {"content": "a"}])
    assert [problem.where for problem in found.value.problems] == ["message 1 (user)", "message 4 (no role)"]


def test_stream_gives_the_pieces_of_the_same_answer(llama):
    pieces = llama.chat(ASKED, stream=True, **DRAWN)
    assert isinstance(pieces, Iterator)
    found = list(pieces)
    assert len(found) > 1
    assert "" not in found
    assert "".join(found) == llama.chat(ASKED, **DRAWN).content
    assert "".join(llama.generate("Is", stream=True, **DRAWN)) == llama.generate("Is", **DRAWN)
    for prompts, n in ((["a", "b"], 1), ("a", 2)):
        with pytest.raises(ConfigError, match="stream"):
            llama.generate(prompts, stream=True, n=n)


@pytest.mark.parametrize("length", [1, 2, 5])
def test_an_answer_ends_before_its_stop(llama, length):
    prompts = ["Is 7 even?", "the river", ""]
    whole = llama.generate(prompts, n=2, **DRAWN)
    stops = [whole[0][0][7 : 7 + length], whole[1][1][3 : 3 + length], "never said by anybody"]
    expected = [[cut(text, stops) for text in group] for group in whole]
    assert llama.generate(prompts, n=2, stop=stops, **DRAWN) == expected
    assert llama.generate(prompts[0], stop=stops[0], **DRAWN) == cut(whole[0][0], stops[:1])
    said = llama.chat("hello", **DRAWN).content
    stop = said[9 : 9 + length]
    assert llama.chat("hello", stop=stop, **DRAWN).content == cut(said, [stop])
    assert "".join(llama.chat("hello", stop=[stop], stream=True, **DRAWN)) == cut(said, [stop])
    assert llama.engine.pool.stats()["rows"] == 0, "blocks of an answer that was cut are not given back"


def cut(text: str, stops: list[str]) -> str:
    return text[: min((text.find(stop) for stop in stops if stop in text), default=len(text))]


def test_an_answer_that_is_over_is_not_computed_on(llama, monkeypatch):
    steps, step = [], type(llama.engine)._step
    monkeypatch.setattr(type(llama.engine), "_step", lambda self, *a, **k: steps.append(1) or step(self, *a, **k))
    said = llama.generate("Is", **DRAWN)
    whole, steps[:] = len(steps), []
    llama.generate("Is", stop=said[2:4], **DRAWN)
    assert len(steps) < whole / 2


@pytest.mark.parametrize("stop", ["", [""], ["a", ""], [7]])
def test_what_ends_no_answer_is_refused(llama, stop):
    with pytest.raises(ConfigError, match="ends no answer"):
        llama.generate("Is", stop=stop)


def test_stops_are_found_wherever_a_text_is_cut():
    rng = random.Random(0)
    for _ in range(2000):
        text = "".join(rng.choice("ab\n") for _ in range(rng.randrange(12)))
        stops = ["".join(rng.choice("ab\n") for _ in range(rng.randrange(1, 4))) for _ in range(rng.randrange(3))]
        ending, found, rest = Stops(stops), "", text
        while rest and not ending.is_over:
            size = rng.randrange(1, 4)
            found, rest = found + ending.push(rest[:size]), rest[size:]
            assert cut(text, stops).startswith(found), "passed on what belongs to a stop"
        assert found + ending.flush() == cut(text, stops)


def test_guards_see_what_is_streamed(llama):
    class NoWord:
        async def open(self): ...

        async def close(self): ...

        async def check(self, x):
            return Verdict(action="block" if "secret" in x.text else "allow")

    guard = PolicyEngine({"input": "no_word"}, lambda name, options: NoWord())
    guarded = Llama(llama.transformer, llama.tokenizer, guard=guard)
    with pytest.raises(GuardBlocked):
        guarded.generate("a secret", stream=True)
    with pytest.raises(GuardBlocked):
        guarded.chat([{"role": "user", "content": "a secret"}], stream=True)
