"""What a server survives: clients that go away, full queues, deadlines, a failing model, a stop in the middle.

The oracle: one last event per request, the answers of others unchanged, everything given back.
"""

from __future__ import annotations

import json
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import openai
import pytest
from web import NAME, idle, running

from llama3.serving.constraints import GrammarConstraint
from llama3.testing.toys import toy_llama

LONG = {"model": NAME, "prompt": "the river", "max_tokens": 400, "temperature": 0, "stream": True}
SHORT = {"model": NAME, "prompt": "Is 7 even?", "max_tokens": 10, "temperature": 0}


class Held:
    """A model whose steps wait for permission."""

    def __init__(self, llama):
        self.open, self.began, self.error, self._step = (
            threading.Event(),
            threading.Event(),
            None,
            llama.transformer.step,
        )
        self.open.set()
        llama.transformer.step = self

    def __call__(self, *args):
        self.began.set()
        assert self.open.wait(60)
        if self.error is not None:
            error, self.error = self.error, None
            raise error
        return self._step(*args)

    def close(self):
        self.began.clear()
        self.open.clear()
        return self


@pytest.fixture(scope="module")
def busy():
    """Two rows, and a queue of three."""
    llama = toy_llama()
    held = Held(llama)
    with running(llama, max_batch=2, max_queue=3) as site:
        site.held, site.expected = held, toy_llama().generate(SHORT["prompt"], max_tokens=10, temperature=0)
        yield site


@pytest.fixture(autouse=True)
def calm(request):
    yield
    if "busy" in request.fixturenames:
        site = request.getfixturevalue("busy")
        site.held.open.set()
        assert idle(site.service), "something is not given back"
        assert site.client.completions.create(**SHORT).choices[0].text == site.expected


def events_of(reply):
    return [line.removeprefix("data: ") for line in reply.iter_lines() if line]


@pytest.mark.parametrize("after", [0, 1, 5])
@pytest.mark.parametrize("n", [1, 3])
def test_a_client_that_goes_away_gives_everything_back(busy, after, n):
    with busy.http.stream("POST", "/v1/completions", json={**LONG, "n": n}) as reply:
        lines = reply.iter_lines()
        for _ in range(after):
            next(lines)
    assert idle(busy.service)


def test_a_client_that_waits_for_the_whole_and_goes_away(busy):
    busy.held.close()
    body = json.dumps({**LONG, "stream": False}).encode()
    with socket.create_connection(("127.0.0.1", int(busy.url.rpartition(":")[2]))) as sock:
        head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        sock.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        assert busy.held.began.wait(30)
    busy.held.open.set()
    assert idle(busy.service)


def test_a_full_queue_says_when_to_come_back(busy):
    busy.held.close()
    with ThreadPoolExecutor(8) as threads:
        running = threads.submit(lambda: [busy.client.completions.create(**{**SHORT, "n": 2})])
        assert busy.held.began.wait(30)
        waiting = [threads.submit(lambda: busy.client.completions.create(**SHORT)) for _ in range(3)]
        while busy.service.counts()["waiting"] < 3:
            time.sleep(0.01)
        reply = busy.http.post("/v1/completions", json=SHORT)
        assert (reply.status_code, reply.json()["error"]["code"]) == (429, "L3-SRV-011")
        assert int(reply.headers["Retry-After"]) >= 1
        with pytest.raises(openai.RateLimitError):
            busy.client.chat.completions.create(model=NAME, messages=[{"role": "user", "content": "a"}])
        assert busy.http.get("/health/ready").status_code == 200
        busy.held.open.set()
        assert [found.result().choices[0].text for found in waiting] == [busy.expected] * 3
        assert [choice.text for choice in running.result()[0].choices] == [busy.expected] * 2


def test_a_waiting_request_that_is_left_is_never_begun(busy):
    busy.held.close()
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(lambda: busy.client.completions.create(**{**SHORT, "n": 2}))
        assert busy.held.began.wait(30)
        with pytest.raises(httpx.ReadTimeout):
            busy.http.post("/v1/completions", json=SHORT, timeout=0.3)
        while busy.service.counts()["waiting"]:
            time.sleep(0.01)
        busy.held.open.set()
        assert len(first.result().choices) == 2


def test_a_failing_model_ends_its_requests_with_an_error_and_the_next_are_answered(busy):
    busy.held.error = RuntimeError("a secret path")
    reply = busy.http.post("/v1/completions", json=SHORT)
    assert (reply.status_code, reply.json()["error"]["code"]) == (500, "L3-SRV-014")
    assert "secret" not in reply.text
    with busy.http.stream("POST", "/v1/completions", json=LONG) as stream:
        lines = stream.iter_lines()
        next(lines)
        busy.held.error = RuntimeError("out of memory")
        rest = [line.removeprefix("data: ") for line in lines if line]
    assert [json.loads(event)["error"]["code"] for event in rest if "error" in event] == ["L3-SRV-014"]
    assert "error" in rest[-1], "an error is the last event"


def test_a_grammar_that_fails_ends_its_request_alone(busy, monkeypatch, caplog):
    """Two rows: the other answer runs beside the one that fails."""
    pushed, push = [], GrammarConstraint.push

    def failing(constraint, token):
        pushed.append(token)
        if len(pushed) == 3:
            raise RuntimeError("a secret path")
        push(constraint, token)

    monkeypatch.setattr(GrammarConstraint, "push", failing)
    expected = toy_llama().generate(LONG["prompt"], max_tokens=400, temperature=0)
    with busy.http.stream("POST", "/v1/completions", json=LONG) as stream:
        lines = filter(None, stream.iter_lines())
        events = [next(lines)]
        format = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "string"}}}
        messages = [{"role": "user", "content": "a"}]
        body = {"model": NAME, "messages": messages, "response_format": format}
        reply = busy.http.post("/v1/chat/completions", json=body)
        assert (reply.status_code, reply.json()["error"]["code"]) == (500, "L3-SRV-014")
        assert "secret" not in reply.text
        events = [line.removeprefix("data: ") for line in [*events, *lines]]
    assert events[-1] == "[DONE]"
    assert "".join(json.loads(event)["choices"][0]["text"] for event in events[:-1]) == expected
    assert [str(record.exc_info[1]) for record in caplog.records if record.exc_info] == ["a secret path"]


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_has_a_deadline(stream):
    llama = toy_llama()
    held = Held(llama)
    with running(llama, seconds=0.5) as site:
        held.close()
        reply = site.http.post("/v1/completions", json={**SHORT, "stream": stream})
        error = json.loads(events_of(reply)[-1] if stream else reply.text)["error"]
        assert (reply.status_code, error["code"]) == (200 if stream else 504, "L3-SRV-013")
        held.open.set()
        assert idle(site.service)


def test_a_stop_lets_what_is_under_way_end_and_takes_no_more():
    llama = toy_llama()
    held = Held(llama)
    with running(llama) as site:
        with site.http.stream("POST", "/v1/completions", json=LONG) as stream:
            lines = filter(None, stream.iter_lines())
            next(lines)
            held.close()
            site.server.handle_exit(signal.SIGTERM, None)
            assert not site.service.is_ready
            held.open.set()
            events = [line.removeprefix("data: ") for line in lines]
        assert events[-1] == "[DONE]"
        text = "".join(json.loads(event)["choices"][0]["text"] for event in events[:-1])
        assert toy_llama().generate("the river", max_tokens=400, temperature=0).endswith(text)
        site.thread.join(30)
        assert not site.thread.is_alive()
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{site.url}/health/live")


def test_while_it_drains_a_server_says_that_it_is_not_ready():
    llama = toy_llama()
    held = Held(llama)
    with running(llama) as site:
        site.http.get("/health/ready")  # a connection from before
        with site.http.stream("POST", "/v1/completions", json=LONG) as stream:
            lines = filter(None, stream.iter_lines())
            next(lines)
            held.close()
            site.server.handle_exit(signal.SIGTERM, None)
            for client in (site.http, httpx.Client(base_url=site.url)):
                ready = client.get("/health/ready")
                assert (ready.status_code, ready.json()["status"]) == (503, "stopping")
                assert client.get("/health/live").status_code == 200
                for method, path in (("POST", "/v1/completions"), ("GET", "/v1/models"), ("GET", "/nothing")):
                    reply = client.request(method, path, json=SHORT)
                    assert (reply.status_code, reply.json()["error"]["code"]) == (503, "L3-SRV-012")
                    assert reply.headers["Connection"] == "close"
                    assert int(reply.headers["Retry-After"]) >= 1
            held.open.set()
            assert list(lines)[-1] == "data: [DONE]"
        site.thread.join(30)
        assert not site.thread.is_alive()


def test_an_answer_that_a_stop_ended_is_not_computed_any_more():
    """Its siblings are, and stay the same; what it held is free for others."""
    asked = {"max_tokens": 300, "temperature": 0.6, "seed": 3}
    texts = toy_llama().generate("the river", n=2, **asked, top_p=1.0)
    stop, gone = next(
        (letter, index) for index in (0, 1) for letter in texts[index][5:20] if letter not in texts[1 - index]
    )
    llama = toy_llama()
    step = llama.transformer.step
    llama.transformer.step = lambda *args: (time.sleep(0.005), step(*args))[1]
    with running(llama) as site:
        body = {"model": NAME, "prompt": "the river", "n": 2, **asked, "stop": stop, "stream": True}
        with site.http.stream("POST", "/v1/completions", json=body) as stream:
            lines = (line.removeprefix("data: ") for line in stream.iter_lines() if line)
            events = []
            while not events or events[-1]["choices"][0]["finish_reason"] is None:
                events.append(json.loads(next(lines)))
            assert events[-1]["choices"][0]["index"] == gone
            while site.service.counts()["rows"] != 1:
                assert site.service.counts()["rows"] == 2, "its sibling ended before it was dropped"
                time.sleep(0.001)
            assert site.service.counts()["running"] == 1
            events += [json.loads(line) for line in lines if line != "[DONE]"]
        told = ["".join(e["choices"][0]["text"] for e in events if e["choices"][0]["index"] == i) for i in (0, 1)]
        assert told[gone] == texts[gone][: texts[gone].index(stop)]
        assert told[1 - gone] == texts[1 - gone]
        assert idle(site.service)


@pytest.mark.parametrize("again", [False, True])
def test_what_outlasts_the_grace_ends_with_an_error(again):
    llama = toy_llama()
    held = Held(llama)
    with running(llama, grace=30.0 if again else 0.2) as site:
        with site.http.stream("POST", "/v1/completions", json=LONG) as stream:
            lines = filter(None, stream.iter_lines())
            next(lines)
            held.close()
            site.server.handle_exit(signal.SIGTERM, None)
            if again:
                site.server.handle_exit(signal.SIGTERM, None)
            events = [line.removeprefix("data: ") for line in lines]
        assert json.loads(events[-1])["error"]["code"] == "L3-SRV-012"
        held.open.set()


def test_keys_share_what_there_is():
    """A tenant that floods the queue does not keep another waiting behind all of it."""
    from llama3.serving.keys import ApiKeys, _hash_of

    llama = toy_llama()
    held = Held(llama).close()
    names = ["greedy-tenant-key", "modest-tenant-key"]
    with running(llama, keys=ApiKeys([_hash_of(name) for name in names]), max_batch=1) as site:
        order, threads = [], ThreadPoolExecutor(10)

        def ask(name):
            reply = site.http.post("/v1/completions", json=SHORT, headers={"Authorization": f"Bearer {name}"})
            order.append(name)
            return reply.status_code

        asked = []
        for name in [names[0]] * 6 + [names[1]] * 2:
            asked.append(threads.submit(ask, name))
            while sum(site.service.counts()[key] for key in ("waiting", "running")) < len(asked):
                time.sleep(0.01)
        held.open.set()
        assert [found.result() for found in asked] == [200] * 8
        assert max(index for index, name in enumerate(order) if name == names[1]) < 6
