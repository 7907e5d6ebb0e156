"""Connections that are held for nothing keep nobody out, and one too many is told so as everything is."""

from __future__ import annotations

import json
import socket
import threading
import time
from contextlib import ExitStack, contextmanager, suppress

import pytest
from web import NAME, idle, running

from llama3.serving import connections
from llama3.testing.toys import toy_llama

ASK = {"model": NAME, "prompt": "the river", "max_tokens": 400, "temperature": 0, "stream": True}


@contextmanager
def site(**options):
    """A server and whatever connects to it."""
    with running(toy_llama(), **options) as found, ExitStack() as sockets:

        def connect(data=b"", source="127.0.0.1"):
            address = ("127.0.0.1", int(found.url.rpartition(":")[2]))
            peer = sockets.enter_context(socket.create_connection(address, 30, source_address=(source, 0)))
            peer.sendall(data)
            return peer

        found.http.close()
        found.connect = connect
        found.held = lambda: len(found.server.server_state.connections)
        yield found
        sockets.close()
        assert idle(found.service)


def get(path, more=""):
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\n{more}\r\n".encode()


def post(path, body, sent=None):
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(data)}"
    return head.encode() + b"\r\n\r\n" + data[:sent]


def all_of(peer):
    """What comes until it is closed."""
    data = b""
    with suppress(ConnectionResetError):
        while piece := peer.recv(65_536):
            data += piece
    return data


def until(true):
    while not true():
        time.sleep(0.01)


def is_closed(peer):
    peer.setblocking(False)
    try:
        return peer.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True
    finally:
        peer.settimeout(30)


def test_a_thousand_idle_connections_keep_nobody_out(monkeypatch):
    monkeypatch.setattr(connections, "MOST_CONNECTIONS", 20)
    with site() as found:
        peers = []
        for number in range(60):
            peers.append(found.connect(b"GET / HTTP/1.1\r\nHo" if number % 2 else b""))
            until(lambda: found.held() == min(len(peers), 20))
        assert all_of(found.connect(get("/health/ready", "Connection: close\r\n"))).startswith(b"HTTP/1.1 200")
        until(lambda: sum(map(is_closed, peers)) == 41)
        assert all(map(is_closed, peers[:41])), "those that were idle longest went first"


def test_an_answer_makes_a_connection_young_again(monkeypatch):
    monkeypatch.setattr(connections, "MOST_CONNECTIONS", 2)
    with site() as found:
        first = found.connect()
        until(lambda: found.held() == 1)
        second = found.connect()
        until(lambda: found.held() == 2)
        first.sendall(get("/health/live"))
        assert first.recv(4096).startswith(b"HTTP/1.1 200")
        found.connect()
        until(lambda: is_closed(second))
        assert not is_closed(first)


@contextmanager
def streams(found, count):
    """As many answers that have begun and wait for the model."""
    step, gate = found.llama.transformer.step, threading.Event()

    def waiting(*args):
        assert gate.wait(30)
        return step(*args)

    found.llama.transformer.step = waiting
    peers = [found.connect(post("/v1/completions", ASK)) for _ in range(count)]
    assert all(peer.recv(30).startswith(b"HTTP/1.1 200") for peer in peers)
    yield peers
    gate.set()
    assert all(b"data: [DONE]" in read_events(peer) for peer in peers)


def read_events(peer):
    data = b""
    while b"[DONE]" not in data:
        data += peer.recv(65_536)
    return data


def test_where_none_is_idle_one_too_many_is_told(monkeypatch):
    monkeypatch.setattr(connections, "MOST_CONNECTIONS", 3)
    with site() as found, streams(found, 3):
        data = all_of(found.connect(get("/health/ready")))
        head, _, body = data.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 503")
        assert b"retry-after: 5" in head.lower()
        assert json.loads(body)["error"]["code"] == "L3-SRV-050"


def test_a_client_fills_its_own_share_only(monkeypatch):
    monkeypatch.setattr(connections, "MOST_OF_A_CLIENT", 3)
    with site() as found:
        other = found.connect(source="127.0.0.2")
        until(lambda: found.held() == 1)
        peers = []
        for _ in range(9):
            peers.append(found.connect())
            until(lambda: found.held() == 1 + min(len(peers), 3))
        until(lambda: sum(map(is_closed, peers)) == 6)
        assert not is_closed(other)


def test_a_body_that_is_still_sent_does_not_hold_a_connection(monkeypatch):
    monkeypatch.setattr(connections, "MOST_CONNECTIONS", 4)
    with site() as found:
        slow = [found.connect(post("/v1/completions", ASK, sent=5)) for _ in range(4)]
        until(lambda: found.server.served.under_way == 4)
        assert all_of(found.connect(get("/health/ready", "Connection: close\r\n"))).startswith(b"HTTP/1.1 200")
        until(lambda: sum(map(is_closed, slow)) == 1)


@pytest.mark.parametrize("data", [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc",
                                  b"GET\r\n\r\n",
                                  get("/", "a: bcdefghij\r\n" * 1700 + "Connection: close\r\n"),
                                  b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 90_000,
                                  get("/", "Content-Length: 1\r\nContent-Length: 2\r\n")])  # fmt: skip
def test_what_is_no_request_is_told_so(data):
    with site() as found:
        head, _, body = all_of(found.connect(data)).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 400")
        assert json.loads(body)["error"]["code"] == "L3-SRV-051"


@pytest.mark.parametrize("data", [b"", b"GET / HT", get("/"), post("/v1/completions", ASK, sent=9),
                                  post("/v1/completions", ASK)])  # fmt: skip
def test_a_socket_that_is_half_closed_is_given_back(data):
    with site() as found:
        peer = found.connect(data)
        peer.shutdown(socket.SHUT_WR)
        all_of(peer)
        until(lambda: found.held() == found.server.served.under_way == 0)


def test_a_client_that_does_not_read_loses_its_connection(monkeypatch):
    monkeypatch.setattr(connections, "READING_SECONDS", 0.2)
    with site() as found:
        peer = found.connect(get("/") * 3000)
        until(lambda: found.held() == 1)
        until(lambda: found.held() == 0)
        assert 0 < all_of(peer).count(b"HTTP/1.1 200") < 3000


def test_files_left_for_connections_are_fewer_than_the_process_may_open(monkeypatch):
    monkeypatch.setattr(connections.resource, "getrlimit", lambda what: (64, 64))
    assert 1 <= connections.most_connections() < 64
    monkeypatch.setattr(connections.resource, "getrlimit", lambda what: (connections.resource.RLIM_INFINITY,) * 2)
    assert connections.most_connections() == connections.MOST_CONNECTIONS
