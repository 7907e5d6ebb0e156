"""A server of a model, in a thread of the test or as a process, asked over real sockets."""

from __future__ import annotations

import socket
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from types import SimpleNamespace

import httpx
import started
from openai import OpenAI

from llama3.plugins.registry import discover
from llama3.serving.served import Served
from llama3.serving.server import HttpServer
from llama3.serving.service import Service

NAME = "toy"


@contextmanager
def running(
    llama, *, keys=None, grace=30.0, seconds=60.0, host="127.0.0.1", metrics_port=None, observers=None, **options
):
    """The server with its address, an `openai` client and an `httpx` one."""
    listening, found = threading.Event(), []
    service = Service(llama.transformer, **options)
    server = HttpServer(
        Served(llama, NAME, service, seconds=seconds),
        host=host,
        port=0,
        keys=keys,
        observers=observers or discover().observers,
        grace=grace,
        metrics_port=metrics_port,
        told=lambda address: (found.append(address), listening.set()),
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    assert listening.wait(60), "the server does not start"
    url = found[0]
    with httpx.Client(base_url=url, timeout=60) as http:
        client = OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=60)
        yield SimpleNamespace(
            url=url, http=http, client=client, server=server, service=service, llama=llama, thread=thread
        )
    server.should_exit = True
    thread.join(60)
    assert not thread.is_alive(), "the server does not stop"


def idle(service, timeout=20.0):
    """Whether all is given back before long: no job, no row, no promised block."""
    done = threading.Event()
    for _ in range(int(timeout / 0.02)):
        now = service.counts()
        if now["waiting"] == now["running"] == now["rows"] == now["promised"] == 0 and now["free"] == now["blocks"]:
            return True
        done.wait(0.02)
    return False


@contextmanager
def serving(model, *options, stderr=None, **popen):
    """`llama3 serve` as a process: its address, its process, what it has told so far."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    given = [] if "--port" in options else ["--port", port]
    command = [sys.executable, "-m", "llama3", "serve", str(model), *map(str, [*given, *options])]
    with tempfile.TemporaryFile("w+b") as file:
        process = started.Popen(command, stderr=stderr or file, **popen)

        def told():
            file.seek(0)
            return file.read().decode()

        at = f"http://127.0.0.1:{options[options.index('--port') + 1] if '--port' in options else port}"
        try:
            while not _answers(at):
                assert process.poll() is None, told()
                time.sleep(0.05)
            yield SimpleNamespace(url=at, process=process, told=told)
        finally:
            process.kill()
            process.wait()


def _answers(url):
    try:
        return httpx.get(f"{url}/health/live").status_code == 200
    except httpx.TransportError:
        return False
