"""The `openai` client against a server: the answers of `llama3.load(...)` in process, whole and streamed."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import openai
import pytest
from web import NAME, idle, running

from llama3.testing.toys import toy_llama

PROMPTS = ["the river", "Is 7 even?", "", "a b c", "\u00e9t\u00e9 \U0001f999", "line\nline"]
ASKED = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Is 7 even?"}]


@pytest.fixture(scope="module")
def site():
    with running(toy_llama(), prefill_tokens=16) as found:
        yield found
        assert idle(found.service), "blocks are lost"


@pytest.fixture(scope="module")
def llama():
    return toy_llama()


def test_completions_are_those_in_process(site, llama):
    expected = llama.generate(PROMPTS, max_tokens=12, temperature=0)
    found = site.client.completions.create(model=NAME, prompt=PROMPTS, max_tokens=12, temperature=0)
    assert [choice.text for choice in found.choices] == expected
    assert [choice.index for choice in found.choices] == list(range(len(PROMPTS)))
    ids = [llama.tokenizer.encode(prompt, bos=True).tolist() for prompt in PROMPTS]
    again = site.client.completions.create(model=NAME, prompt=ids, max_tokens=12, temperature=0)
    assert [choice.text for choice in again.choices] == expected
    one = site.client.completions.create(model=NAME, prompt=ids[0], max_tokens=12, temperature=0)
    assert one.choices[0].text == expected[0]
    assert one.usage.prompt_tokens == len(ids[0])
    assert one.usage.total_tokens == one.usage.prompt_tokens + one.usage.completion_tokens


def test_chat_is_that_in_process_whole_and_streamed(site, llama):
    expected = llama.chat(ASKED, max_tokens=20, temperature=0).content
    asked = {"model": NAME, "messages": ASKED, "max_completion_tokens": 20, "temperature": 0}
    whole = site.client.chat.completions.create(**asked)
    assert (whole.choices[0].message.role, whole.choices[0].message.content) == ("assistant", expected)
    chunks = list(site.client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == expected
    assert [c.choices[0].finish_reason for c in chunks if c.choices if c.choices[0].finish_reason] == ["length"]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert (chunks[-1].choices, chunks[-1].usage) == ([], whole.usage)
    assert len({chunk.id for chunk in chunks}) == 1


def test_requests_together_get_what_they_would_alone(site, llama):
    prompts = [f"{prompt} {number}" for number in range(6) for prompt in PROMPTS]
    expected = llama.generate(prompts, max_tokens=10, temperature=0)

    def ask(prompt):
        chunks = site.client.completions.create(model=NAME, prompt=prompt, max_tokens=10, temperature=0, stream=True)
        return "".join(chunk.choices[0].text for chunk in chunks)

    with ThreadPoolExecutor(12) as threads:
        assert list(threads.map(ask, prompts)) == expected


def test_an_answer_has_a_seed(site, llama):
    drawn = {"max_tokens": 16, "temperature": 1.0, "top_p": 0.9, "seed": 5}
    expected = llama.generate("the river", n=3, **drawn)
    found = site.client.completions.create(model=NAME, prompt="the river", n=3, **drawn)
    assert [choice.text for choice in found.choices] == expected
    chunks = site.client.completions.create(model=NAME, prompt="the river", n=3, stream=True, **drawn)
    texts = ["", "", ""]
    for chunk in chunks:
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts == expected
    del drawn["seed"]
    free = [site.client.completions.create(model=NAME, prompt="the river", **drawn).choices[0].text for _ in range(3)]
    assert len(set(free)) > 1, "answers without a seed are all the same"


@pytest.mark.parametrize("length", [1, 3])
def test_an_answer_ends_before_its_stop(site, llama, length):
    drawn = {"max_tokens": 40, "temperature": 1.0, "top_p": 1.0, "seed": 3}
    whole = llama.generate("Is 7 even?", **drawn)
    stop = whole[7 : 7 + length]
    expected = whole[: whole.find(stop)]
    asked = {"model": NAME, "prompt": "Is 7 even?", "stop": [stop, "never said"], **drawn}
    found = site.client.completions.create(**asked, logprobs=0)
    assert (found.choices[0].text, found.choices[0].finish_reason) == (expected, "stop")
    assert all(offset < len(expected) for offset in found.choices[0].logprobs.text_offset)
    pieces = [chunk.choices[0].text for chunk in site.client.completions.create(**asked, stream=True)]
    assert "".join(pieces) == expected


def test_a_bias_forbids_and_demands(site, llama):
    (token,) = llama.tokenizer.encode("q").tolist()
    asked = {"model": NAME, "prompt": "the river", "temperature": 0, "max_tokens": 6}
    demanded = site.client.completions.create(**asked, logit_bias={str(token): 100})
    assert demanded.choices[0].text == "qqqqqq"
    first = site.client.completions.create(**asked, logprobs=1)
    likeliest = int(llama.engine.generate([llama.tokenizer.encode("the river", bos=True)], _greedy(1))[0][0].ids[0])
    other = site.client.completions.create(**asked, logprobs=1, logit_bias={str(likeliest): -100})
    assert other.choices[0].logprobs.tokens[0] != first.choices[0].logprobs.tokens[0]
    top = next(iter(first.choices[0].logprobs.top_logprobs[0].items()))
    assert next(iter(other.choices[0].logprobs.top_logprobs[0].items())) == top, "log-probs are the model's own"


def _greedy(tokens):
    from llama3.inference import Sampling

    return Sampling(tokens, temperature=0)


def test_models_are_listed(site):
    assert [model.id for model in site.client.models.list()] == [NAME]
    assert site.client.models.retrieve(NAME).owned_by == "llama3"
    with pytest.raises(openai.NotFoundError) as error:
        site.client.completions.create(model="gpt-4", prompt="a")
    assert error.value.code == "L3-SRV-005"
