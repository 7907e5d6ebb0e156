"""Token ids in, token ids and log-probabilities out: what trainers ask, and what the guards keep back."""

from __future__ import annotations

import json

import numpy as np
import pytest
import requests
import torch
from trl.generation.vllm_client import VLLMClient
from web import NAME, idle, running

from llama3.inference import Llama, Sampling
from llama3.model.batch import Batch
from llama3.model.score import score
from llama3.safety.engine import PolicyEngine
from llama3.safety.guard import Span, Verdict
from llama3.testing.toys import toy_llama
from llama3.tokenizer import stop_ids

PATH = "/inference/v1/generate"
DRAWN = {"n": 3, "max_tokens": 40, "temperature": 1.0, "seed": 5, "logprobs": 0}
MORE = 70


@pytest.fixture(scope="module")
def site():
    with running(toy_llama()) as found:
        yield found
        assert idle(found.service)


@pytest.fixture(scope="module")
def llama():
    return toy_llama()


@pytest.fixture(scope="module")
def prompts(llama):
    return [llama.tokenizer.encode(text, bos=True).tolist() for text in ("the river", "Is 7 even?")]


def ask(site, token_ids, **drawn):
    reply = site.http.post(PATH, json={"model": NAME, "token_ids": token_ids, "sampling_params": {**DRAWN, **drawn}})
    assert reply.status_code == 200, reply.text
    return reply.json()["choices"]


def logps_of(choice):
    entries = choice["logprobs"]["content"]
    assert [entry["token"] for entry in entries] == [f"token_id:{id}" for id in choice["token_ids"]]
    return [entry["logprob"] for entry in entries]


def test_answers_are_the_engines_and_their_log_probs_those_of_score(site, llama, prompts):
    choices = ask(site, prompts, n=4, top_k=-1, max_tokens=MORE)
    expected = llama.engine.generate(prompts, Sampling(MORE, n=4, seed=5, stop_ids=stop_ids(llama.tokenizer)))
    answers = [answer for group in expected for answer in group]
    assert [choice["index"] for choice in choices] == list(range(8))
    assert [choice["token_ids"] for choice in choices] == [answer.ids for answer in answers]
    reasons = [choice["finish_reason"] for choice in choices]
    assert reasons == [answer.finish_reason.label for answer in answers]
    assert set(reasons) == {"stop", "length"}
    for choice, prompt in zip(choices, np.repeat(np.array(prompts, object), 4), strict=True):
        with torch.no_grad():
            batch = Batch.of_documents([*prompt, *choice["token_ids"]])
            logps = score(llama.transformer, batch).logps_M.numpy()
        np.testing.assert_allclose(logps_of(choice), logps[len(prompt) - 1 :], atol=1e-5)


def test_one_prompt_is_that_of_several_and_control_tokens_are_told(site, llama, prompts):
    several = ask(site, prompts, n=1, max_tokens=MORE)
    (alone,) = ask(site, prompts[0], n=1, max_tokens=MORE)
    assert alone["token_ids"] == several[0]["token_ids"]
    control = set(llama.tokenizer.special_tokens.values()) - stop_ids(llama.tokenizer)
    assert control & {id for choice in ask(site, prompts, n=8, max_tokens=MORE) for id in choice["token_ids"]}
    plain = site.http.post(PATH, json={"token_ids": prompts[:1] * 8}).json()["choices"]
    assert all(choice["logprobs"] is None for choice in plain)
    assert max(len(choice["token_ids"]) for choice in plain) == 16  # one drawn by chance may stop before


def test_a_trainer_says_what_ends_an_answer(site, prompts):
    ids = ask(site, prompts[0], n=1)[0]["token_ids"]
    ended = ask(site, prompts[0], n=1, stop_token_ids=[ids[7]])[0]
    assert ended["token_ids"] == ids[: ids.index(ids[7]) + 1]
    assert ended["finish_reason"] == "stop"


def test_a_stream_is_the_whole(site, prompts):
    body = {"token_ids": prompts, "sampling_params": {**DRAWN, "logprobs": 2}, "stream": True}
    with site.http.stream("POST", PATH, json=body) as reply:
        events = [line.removeprefix("data: ") for line in reply.iter_lines() if line]
    assert events[-1] == "[DONE]"
    found = {}
    for event in map(json.loads, events[:-1]):
        for choice in event["choices"]:
            ids, logps, _ = found.get(choice["index"], ([], [], None))
            found[choice["index"]] = (ids + choice["token_ids"], logps + logps_of(choice), choice["finish_reason"])
    whole = ask(site, prompts, logprobs=2)
    assert found == {one["index"]: (one["token_ids"], logps_of(one), one["finish_reason"]) for one in whole}
    assert all(len(entry["top_logprobs"]) == 2 for one in whole for entry in one["logprobs"]["content"])


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"token_ids": []}, "token_ids"), ({"token_ids": "the river"}, "token_ids"), ({}, "token_ids"),
        ({"token_ids": [[1], ["a"]]}, "token_ids.1.0"), ({"token_ids": [99999]}, "99999"),
        ({"token_ids": [1], "sampling_params": {"n": 65}}, "sampling_params.n"),
        ({"token_ids": [1], "sampling_params": {"stop": ["a"]}}, "sampling_params.stop"),
        ({"token_ids": [1], "sampling_params": {"min_p": 0.1}}, "min_p"),
        ({"token_ids": [1], "sampling_params": {"prompt_logprobs": 1}}, "sampling_params.prompt_logprobs"),
        ({"token_ids": [1] * 600}, "600"), ({"token_ids": [1], "model": "other"}, "other"),
    ],
)  # fmt: skip
def test_what_is_not_supported_is_refused_by_name(site, body, field):
    reply = site.http.post(PATH, json=body)
    assert reply.status_code in (400, 404), reply.text
    assert field in reply.json()["error"]["message"]


class Watch:
    def __init__(self):
        self.blocked, self.redacted = "secret", "hide"

    async def open(self): ...

    async def close(self): ...

    async def check(self, x):
        if self.blocked in x.text:
            return Verdict(action="block", reason="a secret")
        at = x.text.find(self.redacted)
        spans = (Span(start=at, end=at + len(self.redacted)),) if at >= 0 else ()
        return Verdict(action="redact" if spans else "allow", spans=spans)


@pytest.fixture(scope="module")
def guarded():
    watch, plain = Watch(), toy_llama()
    policy = PolicyEngine({"input": "watch", "output": "watch"}, lambda name, options: watch)
    policy.open()
    with running(Llama(plain.transformer, plain.tokenizer, guard=policy)) as site:
        site.watch = watch
        yield site
        assert idle(site.service)


@pytest.mark.parametrize(("text", "code"), [("a secret", "L3-SAF-020"), ("please hide it", "L3-SRV-040")])
def test_the_policy_judges_what_ids_say(guarded, llama, text, code):
    ids = llama.tokenizer.encode(text).tolist()
    reply = guarded.http.post(PATH, json={"token_ids": [ids, ids[:1]]})
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, code)


@pytest.mark.parametrize("kept_back", ["blocked", "redacted"])
@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_is_kept_back_has_no_tokens(guarded, llama, prompts, kept_back, stream):
    plain = ask(guarded, prompts[0])
    texts = [llama.tokenizer.decode(one["token_ids"], skip_special=True) for one in plain]
    pieces = (texts[1][at : at + 3] for at in range(9, len(texts[1]) - 3))
    said = next(piece for piece in pieces if piece not in texts[0] + texts[2])
    before = getattr(guarded.watch, kept_back)
    setattr(guarded.watch, kept_back, said)
    try:
        if stream:
            body = {"token_ids": prompts[0], "sampling_params": DRAWN, "stream": True}
            lines = guarded.http.post(PATH, json=body).text.split("\n\n")
            events = [json.loads(line.removeprefix("data: ")) for line in lines if line and "[DONE]" not in line]
            ends = [one for event in events for one in event["choices"] if one["finish_reason"]]
            assert {one["index"]: one["finish_reason"] for one in ends} == {
                one["index"]: "content_filter" if one["index"] == 1 else one["finish_reason"] for one in plain
            }
            return
        found = ask(guarded, prompts[0])
    finally:
        setattr(guarded.watch, kept_back, before)
    assert (found[1]["token_ids"], found[1]["logprobs"]["content"]) == ([], [])
    assert found[1]["finish_reason"] == "content_filter"
    assert [found[0], found[2]] == [plain[0], plain[2]]


def test_trl_reads_rollouts_of_several_prompts(site, llama, prompts):
    """The client of TRL's trainers, without the vLLM that its constructor looks for."""
    client = VLLMClient.__new__(VLLMClient)
    client.session, client.base_url, client.model, client.communicator = requests.Session(), site.url, NAME, None
    found = client.generate(prompts, n=2, max_tokens=20, generation_kwargs={"seed": 9})
    expected = llama.engine.generate(prompts, Sampling(20, n=2, seed=9, stop_ids=stop_ids(llama.tokenizer)))
    answers = [answer for group in expected for answer in group]
    assert found["prompt_ids"] == prompts
    assert found["completion_ids"] == [answer.ids for answer in answers]
    logps = [[one for (one,) in sequence] for sequence in found["logprobs"]]
    for told, answer in zip(logps, answers, strict=True):
        np.testing.assert_allclose(told, answer.logps, atol=1e-5)
    one_by_one = client.generate(prompts, features=[None, None], n=2, max_tokens=20, generation_kwargs={"seed": 9})
    assert one_by_one.keys() == found.keys()
    for key in found:
        if key == "logprobs":  # prompts that come together are summed in another order
            for told, again in zip(found[key], one_by_one[key], strict=True):
                np.testing.assert_allclose(told, again, atol=1e-5)
        else:
            assert one_by_one[key] == found[key]
