"""Guards that are slow, hang, raise or answer nonsense, installed as plugins: what they judge stays refused, and
whoever did not ask for it is served.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import pytest
from web import NAME, idle, running

from llama3.inference import Llama
from llama3.safety.engine import PolicyEngine
from llama3.safety.worker import MOST_ABANDONED
from llama3.serving.forms import MOST_JUDGED
from llama3.serving.keys import ApiKeys, _hash_of
from llama3.testing.toys import toy_llama

PLUGIN = """
import asyncio
import math
import threading
import time

from llama3.guards import Verdict
from llama3.plugins import GuardSpec, hookimpl

gate, began, seen = threading.Event(), threading.Event(), []


@hookimpl
def llama3_guards():
    stages = frozenset({"input", "output", "tool_result"})
    return [
        GuardSpec(name="blocking", factory="acme_guards:Blocking", summary="", stages=stages),
        GuardSpec(name="awaiting", factory="acme_guards:Awaiting", summary="", stages=stages),
    ]


def verdict_of(text):
    seen.append(text)
    if "RAISE" in text:
        raise RuntimeError("a fault of the guard")
    if "GARBAGE" in text:
        return "fine"
    return Verdict(action="allow", p=math.nan if "NAN" in text else 0.0)


class Blocking:
    def open(self): ...

    def close(self): ...

    def check(self, x):
        if "HANG" in x.text:
            began.set()
            gate.wait(60)
        if "SLOW" in x.text:
            time.sleep(0.2)
        return verdict_of(x.text)


class Awaiting(Blocking):
    async def check(self, x):
        while "HANG" in x.text and not gate.is_set():
            began.set()
            try:
                await asyncio.sleep(0.01)
            except asyncio.CancelledError:
                continue
        if "SLOW" in x.text:
            await asyncio.sleep(0.2)
        return verdict_of(x.text)
"""
KEYS = {"greedy": "greedy-tenant-key", "modest": "modest-tenant-key"}


@pytest.fixture
def guarded(site):
    """A server whose input is judged by a guard of the plugin."""
    site.add("acme-guards", PLUGIN)
    registry = site.registry()

    @contextmanager
    def start(guard="blocking", *, timeout_ms=20_000, **options):
        plain = toy_llama()
        tree = {"input": {"guard": guard, "timeout_ms": timeout_ms}}
        with PolicyEngine(tree, lambda name, given: registry.build("guards", name, given)) as policy:
            keys = ApiKeys([_hash_of(key) for key in KEYS.values()])
            with running(Llama(plain.transformer, plain.tokenizer, guard=policy), keys=keys, **options) as found:
                found.plugin, found.plain = sys.modules["acme_guards"], toy_llama()
                found.plugin.gate.clear()
                try:
                    yield found
                    assert idle(found.service)
                finally:
                    found.plugin.gate.set()

    return start


def ask(found, prompt, who="modest", **options):
    body = {"model": NAME, "prompt": prompt, "max_tokens": 4, "temperature": 0}
    return found.http.post("/v1/completions", json=body, headers=key_of(who), **options)


def key_of(who):
    return {"Authorization": f"Bearer {KEYS[who]}"}


def told(reply):
    return reply.status_code, reply.json()["error"]["code"]


def until(true):
    while not true():
        time.sleep(0.01)


@pytest.mark.parametrize("guard", ["blocking", "awaiting"])
@pytest.mark.parametrize("fault", ["RAISE", "GARBAGE", "NAN"])
def test_a_guard_that_fails_refuses_what_it_judges_and_nothing_else(guarded, guard, fault):
    with guarded(guard) as found:
        expected = found.plain.generate("fine", max_tokens=4, temperature=0)
        with ThreadPoolExecutor(4) as threads:
            asked = [threads.submit(ask, found, prompt) for prompt in ("fine", fault, "fine", fault)]
            fine, refused, again, refused_again = [one.result() for one in asked]
        assert told(refused) == told(refused_again) == (400, "L3-SAF-020")
        assert fine.json()["choices"][0]["text"] == again.json()["choices"][0]["text"] == expected


def test_the_time_of_a_check_does_not_count_while_it_waits(guarded):
    """Twenty checks of a fifth of a second are more than the limit of one, and all are answered."""
    with guarded(timeout_ms=2500) as found, ThreadPoolExecutor(24) as threads:
        over = []

        def greedy(number):
            status = ask(found, f"SLOW {number}", "greedy").status_code
            over.append(number)
            return status

        asked = [threads.submit(greedy, number) for number in range(20)]
        until(lambda: over)
        assert ask(found, "fine").status_code == 200
        assert len(over) < 20, "one key waits behind all that another asked"
        assert [one.result() for one in asked] == [200] * 20


def test_what_waits_for_a_guard_is_bounded_for_each_key(guarded):
    with guarded() as found, ThreadPoolExecutor(8) as threads:
        policy = found.server.served.guard
        assert policy.most_waiting == found.service.max_queue
        policy.most_waiting = 2  # and not of the engine's queue, in which those that were judged wait again
        held = threads.submit(ask, found, "HANG", "greedy")
        assert found.plugin.began.wait(30)
        asked = [threads.submit(ask, found, "fine", "greedy") for _ in range(5)]
        until(lambda: sum(one.done() for one in asked) == 3)
        busy = [one.result() for one in asked if one.done()]
        assert {told(reply) for reply in busy} == {(429, "L3-SAF-030")}
        assert all(int(reply.headers["Retry-After"]) >= 1 for reply in busy)
        other = threads.submit(ask, found, "fine")
        found.plugin.gate.set()
        waited = [one.result() for one in asked if one.result() not in busy]
        assert [reply.status_code for reply in (held.result(), other.result(), *waited)] == [200] * 4


def test_a_conversation_that_waits_takes_no_thread_of_others(guarded):
    chat = {"model": NAME, "messages": [{"role": "user", "content": "HANG"}], "max_tokens": 4}
    schema = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "boolean"}}}
    other = {**chat, "messages": [{"role": "user", "content": "fine"}], "response_format": schema}
    with guarded("awaiting") as found, ThreadPoolExecutor(24) as threads:
        path, headers = "/v1/chat/completions", key_of("greedy")
        asked = [threads.submit(found.http.post, path, json=chat, headers=headers) for _ in range(20)]
        assert found.plugin.began.wait(30)
        assert found.http.post(path, json=other, headers=key_of("modest")).status_code == 200
        found.plugin.gate.set()
        assert [one.result().status_code for one in asked] == [200] * 20


def test_a_guard_that_hangs_is_left_and_another_takes_its_place(guarded):
    with guarded(timeout_ms=300) as found:
        assert told(ask(found, "HANG")) == (400, "L3-SAF-020")
        assert ask(found, "fine").status_code == 200
        assert found.http.get("/health/ready").status_code == 200
        assert found.plugin.seen == ["fine"]


def test_a_client_that_leaves_a_guard_hanging_is_found_out(guarded):
    with guarded(timeout_ms=300) as found:
        with pytest.raises(httpx.ReadTimeout):
            ask(found, "HANG", "greedy", timeout=0.1)
        assert ask(found, "fine").status_code == 200


def test_a_guard_that_never_ends_what_it_began_is_asked_on(guarded, monkeypatch):
    monkeypatch.setattr("llama3.safety.worker.AT_ONCE", 2)
    with guarded("awaiting", timeout_ms=100) as found:
        before = threading.active_count()
        for _ in range(5):
            assert told(ask(found, "HANG")) == (400, "L3-SAF-020")
            assert ask(found, "fine").status_code == 200
        until(lambda: threading.active_count() <= before + 2)


def test_a_guard_that_always_hangs_is_told_of_and_comes_back(guarded):
    with guarded(timeout_ms=300) as found:
        before = threading.active_count()
        statuses = set()
        while found.http.get("/health/ready").status_code == 200:
            statuses.add(told(ask(found, "HANG")))
        assert "blocking" in found.http.get("/health/ready").json()["status"]
        assert found.http.get("/health/live").status_code == 200
        assert statuses <= {(400, "L3-SAF-020"), (503, "L3-SRV-067")}, "what is not judged is refused"
        assert {told(ask(found, "fine")) for _ in range(20)} == {(503, "L3-SRV-067")}, "the text is not at fault"
        chat = {"model": NAME, "messages": [{"role": "user", "content": "fine"}], "max_tokens": 4}
        reply = found.http.post("/v1/chat/completions", json=chat, headers=key_of("modest"))
        assert (told(reply), "blocking" in reply.json()["error"]["message"]) == ((503, "L3-SRV-067"), True)
        assert threading.active_count() <= before + 2 * MOST_ABANDONED
        found.plugin.gate.set()
        until(lambda: found.http.get("/health/ready").status_code == 200)
        assert ask(found, "fine").status_code == 200


def test_what_a_guard_failed_at_is_judged_again(guarded):
    dialog = {"model": NAME, "messages": [{"role": "user", "content": "HANG"}], "max_tokens": 4}
    with guarded(timeout_ms=300) as found:
        path = "/v1/chat/completions"
        assert told(found.http.post(path, json=dialog, headers=key_of("modest"))) == (400, "L3-SAF-020")
        found.plugin.gate.set()
        assert found.http.post(path, json=dialog, headers=key_of("modest")).status_code == 200


def test_what_is_too_long_is_refused_before_it_is_judged(guarded):
    chat = [{"role": "user", "content": "a b " * 10_000}]
    with guarded() as found:
        for path, body in [
            ("/v1/moderations", {"input": "a" * (MOST_JUDGED + 1)}),
            ("/v1/moderations", {"input": ["b", "a" * (MOST_JUDGED + 1)]}),
            ("/v1/completions", {"model": NAME, "prompt": "a b " * 10_000}),
            ("/v1/completions", {"model": NAME, "prompt": ["a b " * 10_000]}),
            ("/v1/embeddings", {"model": NAME, "input": "a b " * 10_000}),
            ("/v1/chat/completions", {"model": NAME, "messages": chat}),
        ]:
            reply = found.http.post(path, json=body, headers=key_of("modest"))
            assert (reply.status_code, reply.json()["error"]["code"][:6]) == (400, "L3-SRV"), reply.text
        assert found.plugin.seen == []


@pytest.mark.parametrize("again", [False, True])
def test_a_check_that_waits_ends_with_the_grace_of_the_server(guarded, again):
    with guarded(grace=30.0 if again else 0.2) as found, ThreadPoolExecutor(2) as threads:
        held = [threads.submit(ask, found, "HANG", who) for who in KEYS]
        assert found.plugin.began.wait(30)
        until(lambda: found.server.served.under_way == 2)
        found.server.handle_exit(signal.SIGTERM, None)
        if again:
            found.server.handle_exit(signal.SIGTERM, None)
        assert [told(one.result()) for one in held] == [(503, "L3-SRV-012")] * 2
        found.plugin.gate.set()


def test_a_check_that_waits_ends_with_the_deadline_of_its_request(guarded):
    with guarded(seconds=0.5) as found, ThreadPoolExecutor(1) as threads:
        held = threads.submit(ask, found, "HANG", "greedy")
        assert found.plugin.began.wait(30)
        for path, body in [
            ("/v1/moderations", {"input": "a"}),
            ("/v1/chat/completions", {"model": NAME, "messages": [{"role": "user", "content": "a"}]}),
        ]:
            reply = found.http.post(path, json=body, headers=key_of("modest"))
            assert told(reply) == (504, "L3-SRV-013")
        assert told(held.result()) == (504, "L3-SRV-013")
