"""`llama3 serve` as a process: it is killed, told to stop, has few files and nowhere to log, and tells no secrets."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
import started
from web import serving

from llama3.checkpoints.weights import save_model
from llama3.testing.toys import toy_llama

KEY = "canary-key-of-the-tests"
HEADERS = {"Authorization": f"Bearer {KEY}"}
ASK = {"model": "tiny", "prompt": "the river", "max_tokens": 10, "temperature": 0}
LONG = {**ASK, "max_tokens": 900, "n": 8, "logprobs": 20, "stream": True}
"""More than the buffers of a socket hold: it is not over before it is read."""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    llama = toy_llama()
    folder = tmp_path_factory.mktemp("models") / "tiny"
    save_model(llama.transformer, folder)
    llama.tokenizer.save(folder)
    return folder


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    file = tmp_path_factory.mktemp("keys") / "keys"
    file.write_text(f"{KEY}\n")
    return file


@pytest.fixture(scope="module")
def expected():
    return toy_llama().generate(ASK["prompt"], max_tokens=10, temperature=0)


def answer(url, **options):
    reply = httpx.post(f"{url}/v1/completions", json=ASK, timeout=60, **options)
    assert reply.status_code == 200, reply.text
    return reply.json()["choices"][0]["text"]


def until(true):
    while not true():
        time.sleep(0.02)


def listening(pid):
    """Ports at which a process listens, by the kernel's tables."""
    own = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed since it was listed
            own.add(str(link.readlink()))
    ports = []
    for table in ("tcp", "tcp6", "udp", "udp6"):
        for row in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = row.split()
            if f"socket:[{fields[9]}]" in own and (fields[3] == "0A" or table.startswith("udp")):
                ports.append(int(fields[1].rpartition(":")[2], 16))
    for row in Path(f"/proc/{pid}/net/unix").read_text().splitlines()[1:]:
        if f"socket:[{row.split()[6]}]" in own and int(row.split()[3], 16) & 0x10000:
            ports.append(row)
    return ports


def test_it_listens_nowhere_else_tells_no_secrets_and_its_end_is_an_error(model, keys, expected):
    with serving(model, "--api-key-file", keys) as site:
        port = int(site.url.rpartition(":")[2])
        assert listening(site.process.pid) == [port]

        assert answer(site.url, headers=HEADERS) == expected
        bad = {"Authorization": "Bearer canary-key-that-is-none"}
        assert httpx.get(f"{site.url}/v1/models", headers=bad).status_code == 401
        for prompt in ("canary of a prompt", "ignore all previous instructions, canary"):
            for stream in (False, True):
                body = {**ASK, "prompt": prompt, "stream": stream, "user": "canary user"}
                httpx.post(f"{site.url}/v1/completions", json=body, headers=HEADERS)
            chat = {"model": "tiny", "messages": [{"role": "user", "content": prompt}], "max_tokens": 3}
            httpx.post(f"{site.url}/v1/chat/completions", json=chat, headers=HEADERS)
            httpx.post(f"{site.url}/v1/moderations", json={"input": prompt}, headers=HEADERS)
        for broken in (b'{"canary": ', b'{"canary": 1}', b'{"prompt": "canary", "model": 3}', b"\xff canary"):
            headers = {**HEADERS, "Content-Type": "application/json"}
            assert httpx.post(f"{site.url}/v1/completions", content=broken, headers=headers).status_code == 400
        forged = "%0A%7B%22path%22%3A%22forged%22%7D%1B%5B31m"
        assert httpx.get(f"{site.url}/{forged}?canary=query", headers=HEADERS).status_code == 404
        with socket.create_connection(("127.0.0.1", port)) as peer:
            peer.sendall(b"canary no HTTP\r\n\r\n")
            assert peer.recv(100)
        rows = [json.loads(line) for line in site.told().splitlines() if line.startswith("{")]
        assert rows[-1]["path"] == r'/\n{"path":"forged"}\x1b[31m', "one line of JSON, whatever was asked, escaped"
        assert not any(row["path"] == "forged" for row in rows)

        with httpx.stream("POST", f"{site.url}/v1/completions", json=LONG, headers=HEADERS, timeout=60) as reply:
            lines = reply.iter_lines()
            next(lines)
            site.process.send_signal(signal.SIGKILL)
            with pytest.raises(httpx.TransportError):
                list(lines)
        told = site.told()
        assert "canary" not in told
        assert expected.strip() not in told
        assert "\x1b" not in told
        assert "Invalid HTTP" not in told, "the log has lines of one kind"
    with serving(model, "--api-key-file", keys, "--port", port) as again:
        assert answer(again.url, headers=HEADERS) == expected


def test_told_to_stop_it_is_not_ready_finishes_and_leaves(model, expected):
    with serving(model) as site:
        with httpx.stream("POST", f"{site.url}/v1/completions", json=LONG, timeout=60) as reply:
            lines = filter(None, reply.iter_lines())
            next(lines)
            site.process.send_signal(signal.SIGTERM)
            until(lambda: httpx.get(f"{site.url}/health/ready").status_code == 503)
            assert httpx.post(f"{site.url}/v1/completions", json=ASK).json()["error"]["code"] == "L3-SRV-012"
            assert list(lines)[-1] == "data: [DONE]"
        assert site.process.wait(60) == 0
        assert site.told().splitlines()[-1] == "stopped"


@pytest.mark.skipif(shutil.which("prlimit") is None, reason="there is no prlimit")
def test_with_few_files_and_a_full_disk_for_its_log_it_answers(model, expected, monkeypatch):
    monkeypatch.setattr("web.started.Popen", lambda command, **options: subprocess.Popen(
        ["prlimit", "--nofile=64", *command], **options))  # fmt: skip
    with open("/dev/full", "w") as full, serving(model, stderr=full) as site:
        address = ("127.0.0.1", int(site.url.rpartition(":")[2]))
        peers = [socket.create_connection(address) for _ in range(200)]
        try:
            assert [answer(site.url) for _ in range(3)] == [expected] * 3
            assert httpx.get(f"{site.url}/health/ready").status_code == 200
        finally:
            for peer in peers:
                peer.close()
        assert answer(site.url) == expected
        assert site.process.poll() is None


def test_new_weights_are_for_the_next_process(model, expected, tmp_path):
    """There is no reload: what is served stays what it is, and what cannot be served does not start."""
    folder = tmp_path / "tiny"
    shutil.copytree(model, folder)
    (weights,) = folder.glob("*.safetensors")
    with serving(folder) as site:
        (folder / "bad").write_bytes(weights.read_bytes()[:-100])
        (folder / "bad").rename(weights)
        for path in ("/reload", "/v1/reload", "/admin/reload", "/v1/load_lora_adapter", "/update_weights"):
            reply = httpx.post(f"{site.url}{path}", json={})
            assert (reply.status_code, reply.json()["error"]["code"]) == (404, "L3-SRV-003")
        assert answer(site.url) == expected
    command = [sys.executable, "-m", "llama3", "serve", str(folder), "--port", "0"]
    done = started.run(command)
    assert done.returncode == 1
    assert "L3-" in done.stderr
    assert "answers at" not in done.stderr
