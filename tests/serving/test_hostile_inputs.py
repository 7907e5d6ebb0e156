"""Inputs that are made to hurt: slow texts, schemas, addresses, media, paths, and what another tenant said."""

from __future__ import annotations

import json
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from web import NAME, idle, running

from llama3.serving.keys import ApiKeys, _hash_of
from llama3.testing.toys import toy_llama

CHAT = {"model": NAME, "messages": [{"role": "user", "content": "a"}], "max_tokens": 3, "temperature": 0}
TENANTS = {"one": "the-key-of-tenant-one", "two": "the-key-of-tenant-two"}


@pytest.fixture(scope="module")
def site():
    with running(toy_llama()) as found:
        yield found
        assert idle(found.service)


@contextmanager
def stub():
    """A server that notes who connects."""
    met = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def take():
            while True:
                try:
                    peer, address = listener.accept()
                except OSError:
                    return
                met.append(address)
                peer.close()

        thread = threading.Thread(target=take, daemon=True)
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}", met
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(10)


# -- S5: texts -------------------------------------------------------------------------------------


@pytest.mark.parametrize("piece", ["^", " ", "a", "\n", "0", "'", "é", "한", "🙂", " a", "\u200d", "<|", "\t \n"])
def test_no_text_keeps_the_tokenizer_busy(site, piece):
    """Four million characters take a second or two; work that is quadratic in the length does not end within the wait.
    A ratio of two times depends on the machine's caches, so none is measured."""
    tokenizer, text = site.llama.tokenizer, piece * (4_000_000 // len(piece))
    ids = []
    worker = threading.Thread(target=lambda: ids.extend(tokenizer.encode(text)), daemon=True)
    worker.start()
    worker.join(120)
    assert not worker.is_alive()
    assert tokenizer.decode(ids) == text
    reply = site.http.post("/tokenize", json={"prompt": piece * (150_000 // len(piece.encode())), "model": NAME})
    assert reply.status_code == 200


@pytest.mark.parametrize("content", [b'"\\ud800"', b'"\xed\xa0\x80"'])
def test_half_a_character_is_refused(site, content):
    body = b'{"model": "toy", "prompt": ' + content + b"}"
    for path in ("/v1/completions", "/tokenize"):
        reply = site.http.post(path, content=body, headers={"Content-Type": "application/json"})
        assert (reply.status_code, reply.json()["error"]["code"]) == (400, "L3-SRV-009")


# -- S3: schemas -----------------------------------------------------------------------------------


def test_a_flood_of_schemas_leaves_nothing_behind(site):
    def ask(number):
        schema = {"type": "object", "properties": {f"key{number}": {"enum": list(range(number, number + 30))}}}
        wanted = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
        return site.http.post("/v1/chat/completions", json={**CHAT, "response_format": wanted}).status_code

    assert {ask(number) for number in range(20)} == {200}
    before = resident()
    assert {ask(number) for number in range(20, 100)} == {200}
    assert resident() - before < 32 << 20, "schemas are not kept"


def resident():
    """Bytes of memory of this process."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096


# -- S13, S15: addresses and media -----------------------------------------------------------------


@pytest.mark.parametrize("kind", ["image_url", "input_audio", "file", "video_url", "input_image"])
@pytest.mark.parametrize(
    "where",
    ["http://{}/x.png", "https://{}/x", "file:///etc/passwd", "http://169.254.169.254/latest",
     "http://[::ffff:127.0.0.1]/", "data:image/png;base64,iVBORw0KGgo=", "data:audio/wav;base64,UklGRg=="],
)  # fmt: skip
def test_media_are_refused_by_name_and_nothing_is_fetched_or_decoded(site, kind, where):
    with stub() as (address, met):
        told = where.format(address)
        part = {"type": kind, kind: {"url": told, "data": told, "file_data": told, "detail": "high"}}
        messages = [{"role": "user", "content": [{"type": "text", "text": "what is this?"}, part]}]
        reply = site.http.post("/v1/chat/completions", json={**CHAT, "messages": messages})
        assert (reply.status_code, reply.json()["error"]["code"]) == (400, "L3-SRV-009")
        assert "messages.0.content" in reply.json()["error"]["message"]
        assert told not in reply.text
        assert met == []


def test_nothing_else_that_names_an_address_is_fetched(site):
    with stub() as (address, met):
        url = f"http://{address}/x"
        schema = {"$ref": url, "$schema": url, "$id": url}
        wanted = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
        tool = {"type": "function", "function": {"name": "a", "parameters": {"$ref": url}}}
        said = [{"role": "user", "content": url}]
        for change in ({"response_format": wanted}, {"tools": [tool], "tool_choice": "required"}, {"messages": said},
                       {"model": url}, {"metadata": {"webhook": url}}, {"audio": {"url": url}}):  # fmt: skip
            assert site.http.post("/v1/chat/completions", json={**CHAT, **change}).status_code < 500
        for path in (f"/v1/models/{url}", f"//{address}/x", f"/?url={url}"):
            assert site.http.get(f"{site.url}{path}").status_code in (200, 404)
        assert met == []


# -- S16: paths ------------------------------------------------------------------------------------

PIECES = st.sampled_from(["..", ".", "", "etc", "passwd", "%2e%2e", "%2f", "~", "C:", "\\", "\x00", "config.json"])


@settings(max_examples=60, suppress_health_check=list(HealthCheck), deadline=None)
@given(pieces=st.lists(PIECES | st.text(max_size=4), min_size=1, max_size=6))
def test_a_name_is_never_a_path(site, pieces):
    name = "/".join(pieces)
    if name == NAME:
        return
    reply = site.http.post("/v1/completions", content=json.dumps({"model": name, "prompt": "a"}).encode(),
                           headers={"Content-Type": "application/json"})  # fmt: skip
    assert reply.json()["error"]["code"] in ("L3-SRV-005", "L3-SRV-009")
    path = "/".join(pieces).encode("utf-8", "replace").replace(b"\x00", b"%00").replace(b" ", b"%20")
    path = bytes(byte for byte in path if 0x20 < byte < 0x7F and byte not in b"#?")
    with socket.create_connection(("127.0.0.1", int(site.url.rpartition(":")[2]))) as peer:
        peer.sendall(b"GET /v1/models/" + path + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        data = b""
        while piece := peer.recv(65_536):
            data += piece
    status, _, body = data.partition(b"\r\n\r\n")
    if status.split()[1] == b"200":
        assert json.loads(body)["id"] == NAME
    else:
        assert status.split()[1] == b"404"
        assert json.loads(body)["error"]["code"] in ("L3-SRV-003", "L3-SRV-005")
    assert b"root:" not in data


# -- S12: tenants ----------------------------------------------------------------------------------


def test_what_one_tenant_says_is_in_no_answer_to_another():
    """Side by side in one batch, over prompts that begin alike, each gets what it gets alone."""
    prompts = [f"once upon a time there was a river that nobody saw {who} {n}" for n in range(6) for who in TENANTS]
    alone = toy_llama().generate(prompts, max_tokens=24, temperature=0)
    keys = ApiKeys([_hash_of(key) for key in TENANTS.values()])
    with running(toy_llama(), keys=keys, max_batch=4) as found, ThreadPoolExecutor(12) as threads:

        def ask(number):
            body = {"model": NAME, "prompt": prompts[number], "max_tokens": 24, "temperature": 0}
            key = list(TENANTS.values())[number % 2]
            reply = found.http.post("/v1/completions", json=body, headers={"Authorization": f"Bearer {key}"})
            return reply.json()["choices"][0]["text"]

        for _ in range(3):
            assert list(threads.map(ask, range(len(prompts)))) == alone
        assert idle(found.service)
