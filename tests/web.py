"""A server of a model in a thread of the test, asked over real sockets."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from types import SimpleNamespace

import httpx
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
