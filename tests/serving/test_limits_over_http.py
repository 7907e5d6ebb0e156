"""Rates of keys. Their clock is the test's."""

from __future__ import annotations

import openai
import pytest
from web import NAME, idle, running

from llama3.serving.keys import ApiKeys
from llama3.serving.limits import RateLimits
from llama3.testing.toys import toy_llama

KEYS = ["a-key-of-the-tests", "another-key-of-the-tests"]
BODY = {"model": NAME, "prompt": [5] * 10, "max_tokens": 20, "temperature": 0, "logit_bias": {"7": 100}}
"""Uses 30 tokens."""


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def site(tmp_path):
    (tmp_path / "keys").write_text("\n".join(KEYS))
    clock = Clock()
    limits = RateLimits(requests_per_minute=4, tokens_per_minute=120, clock=clock)
    with running(toy_llama(), keys=ApiKeys.load(tmp_path / "keys"), limits=limits) as found:
        found.clock = clock
        yield found
        assert idle(found.service)


def ask(site, key=KEYS[0], path="/v1/completions", **change):
    return site.http.post(path, json={**BODY, **change}, headers={"Authorization": f"Bearer {key}"})


def told(reply, unit):
    return {what: reply.headers[f"x-ratelimit-{what}-{unit}"] for what in ("limit", "remaining", "reset")}


def refused(reply, unit, seconds):
    assert (reply.status_code, reply.headers["retry-after"]) == (429, str(seconds)), reply.text
    error = reply.json()["error"]
    assert (error["code"], error["type"]) == ("L3-SRV-041", "rate_limit_error")
    assert unit in error["message"]


def test_a_key_has_so_many_requests_per_minute(site):
    for left in (3, 2, 1, 0):
        reply = ask(site, max_tokens=1)
        assert reply.status_code == 200
        assert told(reply, "requests") == {"limit": "4", "remaining": str(left), "reset": f"{(4 - left) * 15:.3f}s"}
    refused(ask(site, max_tokens=1), "requests", 15)
    assert ask(site, KEYS[1], max_tokens=1).status_code == 200
    site.clock.now += 14
    refused(ask(site, max_tokens=1), "requests", 1)
    site.clock.now += 1
    assert ask(site, max_tokens=1).status_code == 200
    client = openai.OpenAI(base_url=f"{site.url}/v1", api_key=KEYS[0], max_retries=0)
    with pytest.raises(openai.RateLimitError) as error:
        client.completions.create(model=NAME, prompt="a")
    assert error.value.response.headers["retry-after"] == "15"


def test_other_bodies_and_routes_count_too(site):
    for path, status in [("/tokenize", 400), ("/v1/embeddings", 400), ("/inference/v1/generate", 400)]:
        assert ask(site, path=path).status_code == status
    assert ask(site, nonsense=1).status_code == 400
    refused(ask(site, path="/tokenize"), "requests", 15)
    reply = site.http.get("/v1/models", headers={"Authorization": f"Bearer {KEYS[0]}"})
    assert reply.status_code == 200
    assert not any(name.startswith("x-ratelimit") for name in reply.headers)
    assert not any(name.startswith("x-ratelimit") for name in ask(site, "nobody-has-this-key").headers)


def test_tokens_are_counted_before_and_what_was_not_used_is_given_back(site):
    assert told(ask(site), "tokens") == {"limit": "120", "remaining": "90", "reset": "15.000s"}
    refused(ask(site, n=5), "tokens", 10)  # 10 + 5 * 20 of 90
    assert site.service.counts()["admitted"] == 1
    site.clock.now += 60
    ends = {"max_tokens": 90, "logit_bias": {"7": 100}, "stop_token_ids": [7]}
    body = {"token_ids": [5] * 10, "sampling_params": ends}
    reply = site.http.post("/inference/v1/generate", json=body, headers={"Authorization": f"Bearer {KEYS[0]}"})
    assert (reply.status_code, told(reply, "tokens")["remaining"]) == (200, str(120 - 11))
    assert told(ask(site, max_tokens=0), "tokens")["remaining"] == str(120 - 11 - 11)


def test_who_asks_for_more_than_a_minute_holds_waits_for_all_of_it_and_pays_later(site):
    reply = ask(site, max_tokens=300)
    assert (reply.status_code, told(reply, "tokens")["remaining"]) == (200, "0")
    refused(ask(site, max_tokens=1), "tokens", (310 - 120 + 11) // 2 + 1)
    site.clock.now += 110
    assert ask(site, max_tokens=1).status_code == 200
