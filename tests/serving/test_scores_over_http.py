"""Log-probabilities, embeddings, tokens and verdicts over HTTP are those in process."""

from __future__ import annotations

import json

import numpy as np
import openai
import pytest
import torch
from web import NAME, idle, running

from llama3.inference import Llama, Sampling
from llama3.model.batch import Batch
from llama3.model.score import score, top
from llama3.safety.engine import PolicyEngine
from llama3.safety.guard import Verdict
from llama3.testing.toys import toy_llama
from llama3.tokenizer import render, stop_ids

TEXT = "Is 7 even? \u00e9\U0001f999 the river"
ASKED = [{"role": "user", "content": "Is 7 even?"}]


@pytest.fixture(scope="module")
def site():
    with running(toy_llama(), prefill_tokens=8) as found:
        yield found
        assert idle(found.service)


@pytest.fixture(scope="module")
def llama():
    return toy_llama()


def scored(llama, ids, k):
    """Log-probs of all tokens but the first, and the k likeliest there."""
    with torch.no_grad():
        batch = Batch.of_documents(ids)
        tops, logps = top(llama.transformer, batch, k)
        return score(llama.transformer, batch).logps_M.numpy(), tops.numpy(), logps.numpy()


def test_the_log_probs_of_an_answer_are_those_of_score(site, llama):
    found = site.client.completions.create(
        model=NAME, prompt=TEXT, max_tokens=12, temperature=1.0, seed=4, logprobs=3
    ).choices[0]
    prompt = llama.tokenizer.encode(TEXT, bos=True)
    (answer,) = llama.engine.generate([prompt], Sampling(12, seed=4, stop_ids=stop_ids(llama.tokenizer)))[0]
    logps, _, tops = scored(llama, [*prompt, *answer.ids], 3)
    first = len(prompt) - 1
    np.testing.assert_allclose(found.logprobs.token_logprobs, logps[first:], atol=1e-4)
    np.testing.assert_allclose([list(one.values()) for one in found.logprobs.top_logprobs], tops[first:], atol=1e-4)
    assert all(len(one) == 3 for one in found.logprobs.top_logprobs)
    assert len(found.logprobs.text_offset) == 12


@pytest.mark.parametrize("stream", [False, True])
def test_an_echo_has_the_log_probs_of_the_prompt(site, llama, stream):
    ids = llama.tokenizer.encode(TEXT, bos=True)
    expected, _, _ = scored(llama, ids, 1)
    asked = {"model": NAME, "prompt": TEXT, "echo": True, "logprobs": 1, "temperature": 0, "max_tokens": 2}
    if stream:
        choices = [chunk.choices[0] for chunk in site.client.completions.create(**asked, stream=True)]
    else:
        choices = site.client.completions.create(**asked).choices
    text = "".join(choice.text for choice in choices)
    told = [logp for choice in choices if choice.logprobs for logp in choice.logprobs.token_logprobs]
    offsets = [at for choice in choices if choice.logprobs for at in choice.logprobs.text_offset]
    assert text == TEXT + llama.generate(TEXT, max_tokens=2, temperature=0)
    assert told[0] is None
    np.testing.assert_allclose(told[1 : len(ids)], expected, atol=1e-4)
    assert len(told) == len(offsets) == len(ids) + 2
    assert offsets == sorted(offsets)
    assert offsets[len(ids)] == len(TEXT)
    nothing = site.client.completions.create(**{**asked, "max_tokens": 0}).choices[0]
    assert (nothing.text, len(nothing.logprobs.tokens)) == (TEXT, len(ids))


def test_lm_eval_scores_what_it_would_in_process(site, llama):
    """The calls of `lm-eval --model local-completions`: its remote tokenizer, then prompts as ids, scored by an echo
    that draws one token more."""
    info = site.http.get("/tokenizer_info").json()
    assert info["bos_token"] == "<|begin_of_text|>"
    assert "add_generation_prompt" in info["chat_template"]
    rows = [("Is 7 even?", " No, it is odd."), ("the river", " runs"), ("a", "\u00e9")]
    contexts, whole = [], []
    for context, continuation in rows:
        parts = [site.http.post("/tokenize", json={"prompt": text, "add_special_tokens": False}).json()["tokens"]
                 for text in (context, context + continuation)]  # fmt: skip
        contexts.append(len(parts[0]))
        whole.append(parts[1])
        assert site.http.post("/detokenize", json={"tokens": parts[1]}).json()["prompt"] == context + continuation
    body = {
        "model": NAME,
        "prompt": whole,
        "temperature": 0,
        "max_tokens": 1,
        "logprobs": 1,
        "seed": 1234,
        "echo": True,
    }
    choices = site.http.post("/v1/completions", json=body).json()["choices"]
    assert len(choices) == len(rows)
    for choice, context, ids in zip(choices, contexts, whole, strict=True):
        told = choice["logprobs"]["token_logprobs"][context:-1]
        tops = choice["logprobs"]["top_logprobs"][context:-1]
        logps, likeliest, _ = scored(llama, ids, 1)
        assert len(told) == len(ids) - context
        assert sum(told) == pytest.approx(float(logps[context - 1 :].sum()), abs=1e-3)
        is_greedy = all(logp == max(one.values()) for logp, one in zip(told, tops, strict=True))
        assert is_greedy == (likeliest[context - 1 :, 0].tolist() == ids[context:])


@pytest.mark.parametrize("stream", [False, True])
def test_the_log_probs_of_a_chat(site, llama, stream):
    asked = {"model": NAME, "messages": ASKED, "max_tokens": 300, "temperature": 1.0, "seed": 2}
    found = site.client.chat.completions.create(**asked, logprobs=True, top_logprobs=2, stream=stream)
    choices = [chunk.choices[0] for chunk in found] if stream else found.choices
    entries = [entry for choice in choices if choice.logprobs for entry in choice.logprobs.content]
    text = "".join(choice.delta.content or "" for choice in choices) if stream else choices[0].message.content
    assert choices[-1].finish_reason == "stop"
    assert entries[-1].token == "<|eot_id|>"
    said = [entry for entry in entries if entry.token not in llama.tokenizer.special_tokens]
    assert len(said) < len(entries) - 1, "no control token was drawn in the middle of the answer"
    assert bytes(byte for entry in said for byte in entry.bytes).decode("utf-8", "replace") == text
    assert not any(name in text for name in llama.tokenizer.special_tokens)
    prompt = render(llama.tokenizer, ASKED, generation_prompt=True).ids
    (answer,) = llama.engine.generate([prompt], Sampling(300, seed=2, stop_ids=stop_ids(llama.tokenizer)))[0]
    np.testing.assert_allclose([entry.logprob for entry in entries], answer.logps, atol=1e-4)
    assert all(len(entry.top_logprobs) == 2 for entry in entries)


def test_no_part_of_a_character_is_sent(site, llama):
    """Bytes of a character that takes several tokens come out together or as U+FFFD at the end."""
    ids = llama.tokenizer.encode("\U0001f999").tolist()
    assert len(ids) == 4
    for end in range(1, 4):
        bias = {str(ids[end - 1]): 100}
        asked = {"model": NAME, "prompt": llama.tokenizer.encode("a").tolist() + ids[: end - 1], "logit_bias": bias}
        chunks = list(site.client.completions.create(**asked, max_tokens=3, temperature=0, stream=True))
        told = [chunk.choices[0].text for chunk in chunks if chunk.choices[0].text]
        assert "".join(told) == llama.tokenizer.decode([ids[end - 1]] * 3)


def test_embeddings_are_mean_states_of_length_one(site, llama):
    texts = ["the river", TEXT, "a"]
    found = site.client.embeddings.create(model=NAME, input=texts)
    plain = site.client.embeddings.create(model=NAME, input=texts, encoding_format="float")
    for text, one, other in zip(texts, found.data, plain.data, strict=True):
        ids = llama.tokenizer.encode(text, bos=True)
        with torch.no_grad():
            mean = llama.transformer.hidden(Batch.of_documents(ids)).mean(0)
        np.testing.assert_allclose(one.embedding, mean / mean.norm(), atol=1e-5)
        np.testing.assert_allclose(other.embedding, one.embedding, atol=1e-7)
    assert found.usage.prompt_tokens == sum(len(llama.tokenizer.encode(text, bos=True)) for text in texts)
    ids = llama.tokenizer.encode("a", bos=True).tolist()
    np.testing.assert_allclose(
        site.client.embeddings.create(model=NAME, input=ids).data[0].embedding, one.embedding, atol=1e-5
    )
    with pytest.raises(openai.BadRequestError):
        site.client.embeddings.create(model=NAME, input="a" * 2000)


def test_verdicts_are_those_of_the_policy():
    class Scores:
        async def open(self): ...

        async def close(self): ...

        async def check(self, x):
            p = 0.9 if "secret" in x.text else 0.1
            return Verdict(action="block" if p > 0.5 else "allow", p=p, categories={"leak": p})

    plain = toy_llama()
    policy = PolicyEngine({"input": "scores"}, lambda name, options: Scores())
    with running(Llama(plain.transformer, plain.tokenizer, guard=policy)) as guarded:
        found = guarded.client.moderations.create(input=["a secret", "a river"]).results
        assert [one.flagged for one in found] == [True, False]
        assert [one.categories.model_dump()["leak"] for one in found] == [True, False]
        assert [one.category_scores.model_dump()["leak"] for one in found] == [0.9, 0.1]
        for path, body in (("/v1/embeddings", {"model": NAME, "input": "a secret"}),):
            assert guarded.http.post(path, json=body).json()["error"]["code"] == "L3-SAF-020"


def test_metrics_count_requests_and_tokens(site):
    body = {"model": NAME, "prompt": "the river", "max_tokens": 5, "temperature": 0}
    before = figures(site)
    usage = site.http.post("/v1/completions", json=body).json()["usage"]
    site.http.get("/nothing/of/the/kind")
    after = figures(site)
    grown = {name: after[name] - before.get(name, 0) for name in after}
    assert grown['llama3_requests_total{route="/v1/completions",status="200"}'] == 1
    assert grown['llama3_requests_total{route="other",status="404"}'] == 1
    assert grown["llama3_generated_tokens_total"] == usage["completion_tokens"] == 5
    assert grown["llama3_prompt_tokens_total"] == usage["prompt_tokens"]
    assert after["llama3_answers_running"] == after["llama3_requests_waiting"] == 0
    assert after['llama3_cache_blocks{state="free"}'] > 0
    assert "kind" not in json.dumps(after)


def figures(site):
    lines = site.http.get("/metrics").text.splitlines()
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if not line.startswith("#")}


def test_health(site):
    assert site.http.get("/health/live").json() == {"status": "live"}
    assert site.http.get("/health/ready").json() == {"status": "ready"}
