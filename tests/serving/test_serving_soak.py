"""Ten thousand requests, twice what the server can take, a third of them left: nothing is lost, nothing leaks."""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from collections import Counter

import httpx
import pytest
from web import NAME, idle, running

from llama3.testing.toys import toy_llama

REQUESTS = 10_000
PROMPTS = ["the river", "Is 7 even?", "a b c", "once upon a time"]


def body(rng):
    return {
        "model": NAME,
        "prompt": rng.choice(PROMPTS) * rng.randrange(1, 8),
        "max_tokens": rng.randrange(1, 12),
        "temperature": 0,
        "stream": rng.random() < 0.7,
        "n": rng.choice([1, 1, 1, 2, 3]),
    }


def ends(text, stream):
    """How many last events an answer has."""
    if not stream:
        return len(json.loads(text)["choices"]) > 0
    events = [line for line in text.splitlines() if line]
    last = [event for event in events if event == "data: [DONE]" or '"error"' in event]
    return last == events[-1:] and len(last)


async def ask(client, asked, leaves_after):
    """What became of a request: "whole", "left", "busy"."""
    async with client.stream("POST", "/v1/completions", json=asked) as reply:
        if reply.status_code == 429:
            assert reply.headers["Retry-After"]
            return "busy"
        assert reply.status_code == 200, await reply.aread()
        text = ""
        async for piece in reply.aiter_text():
            text += piece
            if leaves_after is not None and len(text) > leaves_after:
                return "left"
    assert ends(text, asked["stream"]) == 1, text
    return "whole"


async def soak(url, count):
    rng, found = random.Random(0), Counter()
    queue = asyncio.Queue()
    for _ in range(count):
        queue.put_nowait((body(rng), rng.choice([None, None, rng.randrange(1500)])))

    async def worker(client):
        while not queue.empty():
            found[await ask(client, *queue.get_nowait())] += 1

    limits = httpx.Limits(max_connections=64)
    async with httpx.AsyncClient(base_url=url, timeout=120, limits=limits) as client:
        await asyncio.gather(*(worker(client) for _ in range(64)))
    return found


def open_files(site):
    """File descriptors when all connections are closed."""
    for _ in range(2000):
        if not site.server.server_state.connections:
            break
        time.sleep(0.01)
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_nothing_is_lost_and_nothing_leaks():
    expected = toy_llama().generate(PROMPTS, max_tokens=8, temperature=0)
    with running(toy_llama(), max_batch=8, max_queue=24) as site:
        asyncio.run(soak(site.url, 200))  # whatever is opened once
        assert idle(site.service)
        before = open_files(site)
        found = asyncio.run(soak(site.url, REQUESTS))
        assert idle(site.service)
        assert found.total() == REQUESTS
        assert min(found["whole"], found["left"], found["busy"]) > 0
        assert site.service.engine.pool.check() == []
        assert open_files(site) <= before
        assert site.server.served.under_way == len(site.server.server_state.tasks) == 0
        print(f"{sum(found.values()):,} requests: {dict(found)}")
        again = site.client.completions.create(model=NAME, prompt=PROMPTS, max_tokens=8, temperature=0)
        assert [choice.text for choice in again.choices] == expected
