"""However a request ends, it ends once and gives back what it had: left at any token, more than there is room for, with
the engine itself.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from web import NAME, idle, running

from llama3.serving.keys import ApiKeys, _hash_of
from llama3.testing.toys import toy_llama

SHORT = {"model": NAME, "prompt": "Is 7 even?", "max_tokens": 10, "temperature": 0}


def expected(prompt=SHORT["prompt"], tokens=10):
    return toy_llama().generate(prompt, max_tokens=tokens, temperature=0)


def until(true):
    while not true():
        time.sleep(0.01)


@pytest.mark.parametrize("n", [1, 2])
def test_a_client_may_leave_at_any_token(n):
    body = {**SHORT, "prompt": "the river", "max_tokens": 24, "stream": True, "n": n}
    with running(toy_llama()) as site:
        whole = sum(1 for _ in lines_of(site, body))
        files = None
        for after in range(whole):
            lines = lines_of(site, body)
            for _ in range(after):
                next(lines)
            lines.close()
            if after == 2:
                files = open_files(site)
        assert idle(site.service)
        assert site.service.engine.pool.check() == []
        until(lambda: open_files(site) <= files)
        until(lambda: site.server.served.under_way == 0 == len(site.server.server_state.tasks))
        assert site.client.completions.create(**SHORT).choices[0].text == expected()


def lines_of(site, body):
    with site.http.stream("POST", "/v1/completions", json=body) as reply:
        assert reply.status_code == 200
        yield from filter(None, reply.iter_lines())


def open_files(site):
    """Once the connections of clients that left are closed."""
    until(lambda: len(site.server.server_state.connections) <= 1)
    return len(os.listdir("/proc/self/fd"))


class Panic(BaseException):
    """As a panic of the Rust core comes to Python: no Exception."""


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("error", [Panic("in the core"), SystemExit(1), MemoryError()])
def test_the_end_of_the_engine_is_the_end_of_every_request(error):
    llama = toy_llama()
    step, gate = llama.transformer.step, threading.Event()

    def dying(*args):
        if gate.is_set():
            raise error
        return step(*args)

    llama.transformer.step = dying
    body = {**SHORT, "max_tokens": 400, "stream": True}
    with running(llama, max_batch=2, max_queue=64) as site, ThreadPoolExecutor(8) as threads:
        begun = [lines_of(site, body) for _ in range(2)]
        first = [next(lines) for lines in begun]
        assert all("error" not in line for line in first)
        waiting = [threads.submit(lambda: site.http.post("/v1/completions", json=SHORT)) for _ in range(4)]
        gate.set()
        codes = {"L3-SRV-014"} if isinstance(error, Exception) else {"L3-SRV-012", "L3-SRV-014"}
        for lines in begun:
            events = [line for line in lines if "[DONE]" in line or '"error"' in line]
            assert len(events) == 1, "one last event"
            assert "[DONE]" in events[0] or json.loads(events[0].removeprefix("data: "))["error"]["code"] in codes
        assert {reply.result().status_code for reply in waiting} <= {500, 503}
        if isinstance(error, Exception):  # the engine goes on without those
            gate.clear()
            assert site.http.post("/v1/completions", json=SHORT).status_code == 200
            return
        until(lambda: site.http.get("/health/ready").status_code == 503)
        assert site.http.get("/health/live").status_code == 503, "only another process helps"
        for path, asked in (("/v1/completions", SHORT), ("/v1/embeddings", {"model": NAME, "input": "a"})):
            reply = site.http.post(path, json=asked)
            assert (reply.status_code, reply.json()["error"]["code"]) == (503, "L3-SRV-012")


def test_a_cache_that_is_full_is_waited_for(monkeypatch):
    """Room for one long answer at a time: each comes, as it would alone."""
    monkeypatch.setattr("llama3.inference.engine.CACHE_BYTES", 1)
    prompts = [f"the river {number}" for number in range(6)]
    llama = toy_llama()
    room = llama.config.max_seq_len
    body = {"model": NAME, "max_tokens": room - 100, "temperature": 0}
    alone = [expected(prompt, room - 100) for prompt in prompts]
    with running(llama) as site, ThreadPoolExecutor(6) as threads:
        blocks = site.service.counts()["blocks"]
        assert blocks * site.service.engine.pool.block_size < 2 * room
        found = list(threads.map(lambda prompt: site.client.completions.create(prompt=prompt, **body), prompts))
        assert [one.choices[0].text for one in found] == alone
        assert idle(site.service)


def test_ten_times_too_much_is_answered_or_told_to_come_back():
    keys = {"greedy": "the-key-of-the-greedy", "modest": "the-key-of-the-modest"}
    text = expected()
    with running(toy_llama(), max_batch=2, max_queue=6, keys=ApiKeys([_hash_of(key) for key in keys.values()])) as site:
        limits = httpx.Limits(max_connections=100)
        with httpx.Client(base_url=site.url, timeout=60, limits=limits) as http, ThreadPoolExecutor(84) as threads:

            def ask(who):
                reply = http.post("/v1/completions", json=SHORT, headers={"Authorization": f"Bearer {keys[who]}"})
                if reply.status_code == 200:
                    assert reply.json()["choices"][0]["text"] == text
                else:
                    assert (reply.status_code, reply.json()["error"]["code"]) == (429, "L3-SRV-011")
                    assert int(reply.headers["Retry-After"]) >= 1
                return reply.status_code

            greedy = [threads.submit(ask, "greedy") for _ in range(80)]
            modest = [threads.submit(ask, "modest") for _ in range(4)]
            told = Counter(one.result() for one in greedy)
        assert told.total() == 80
        assert told[200] >= 6
        assert [one.result() for one in modest] == [200] * 4, "a queue is full for the key that filled it"
        assert idle(site.service)


def test_a_clock_that_jumps_ends_nothing(monkeypatch):
    llama = toy_llama()
    step, now = llama.transformer.step, time.time

    def jumping(*args):
        monkeypatch.setattr(time, "time", lambda: now() + 1e7)
        return step(*args)

    llama.transformer.step = jumping
    with running(llama, seconds=30.0) as site:
        assert site.client.completions.create(**SHORT).choices[0].text == expected()
        monkeypatch.setattr(time, "time", lambda: now() - 1e7)
        assert site.client.completions.create(**SHORT).choices[0].text == expected()
        assert site.http.get("/health/ready").status_code == 200
