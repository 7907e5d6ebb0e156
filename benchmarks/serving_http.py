"""The server beside its own engine: 16 answers streamed over HTTP against the engine called in process, and the time to
the first token of a long prompt against its bare computation.

The server, with its event loop and its engine, runs on one core and the clients on another, so that what HTTP costs is
taken from what is computed. The engine in process runs on one core too. Both texts must be equal first. Times are CPU
seconds of the server and of the engine's process, which other programs disturb less than wall time: on one core that is
never idle they are what the answers take.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.client import HTTPConnection
from pathlib import Path

import common
import numpy as np
import torch
from generation import Ids

from llama3 import _core
from llama3.checkpoints.formats import load_tokenizer
from llama3.checkpoints.load import load_model
from llama3.inference import Engine, FinishReason, Sampling
from llama3.serving.service import MAX_BATCH, PREFILL_TOKENS
from llama3.tokenizer.chat import stop_ids

NAME = "model"
PINNED = "import os; os.sched_setaffinity(0, {{{core}}}); from llama3.cli.app import main; main()"


@contextmanager
def served(model: str, core: int) -> Iterator[tuple[int, int]]:
    """The port and the process id of a server that runs on one core."""
    program = [sys.executable, "-c", PINNED.format(core=core), "serve", model, "--port", "0", "--name", NAME]
    with subprocess.Popen(
        program, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    ) as server:
        assert server.stderr is not None
        try:
            for line in server.stderr:
                if found := re.search(r"http://[^:]+:(\d+)/v1", line):
                    # What it tells of each request is read, or it would wait at a full pipe.
                    threading.Thread(target=server.stderr.read, daemon=True).start()
                    yield int(found[1]), server.pid
                    return
            sys.exit("the server did not start")
        finally:
            server.send_signal(signal.SIGTERM)


def streamed(port: int, prompt: list[int], tokens: int) -> str:
    """The text of an answer."""
    body = {"model": NAME, "prompt": prompt, "max_tokens": tokens, "temperature": 0, "stream": True}
    connection = HTTPConnection("127.0.0.1", port, timeout=600)
    text = ""
    connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
    for line in connection.getresponse():
        if line.startswith(b"data: {"):
            text += json.loads(line[6:])["choices"][0]["text"]
    connection.close()
    return text


def together(port: int, prompts: Ids, tokens: int) -> list[str]:
    texts = [""] * len(prompts)

    def ask(index: int) -> None:
        texts[index] = streamed(port, prompts[index], tokens)

    threads = [threading.Thread(target=ask, args=(index,)) for index in range(len(prompts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return texts


def cpu_seconds(pid: int) -> float:
    """That a process has used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def on_core(core: int, run: Callable[[], object]) -> Callable[[], object]:
    def pinned() -> object:
        before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {core})
        try:
            return run()
        finally:
            os.sched_setaffinity(0, before)

    return pinned


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model", help="a model's directory or GGUF file")
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--prompt", type=int, default=16, help="tokens of a prompt")
    parser.add_argument("--tokens", type=int, default=64, help="tokens of an answer")
    parser.add_argument("--long", type=int, default=2000, help="tokens of the long prompt")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    if len(cores := sorted(os.sched_getaffinity(0))) < 2:
        sys.exit("two cores are needed: one for the server, one for its clients")
    torch.set_num_threads(1)
    _core.set_num_threads(1)
    model = load_model(arguments.model)
    engine, bare = Engine(model, max_batch=MAX_BATCH, prefill_tokens=PREFILL_TOKENS), Engine(model)
    tokenizer = load_tokenizer(arguments.model)
    sampling = Sampling(arguments.tokens, temperature=0, stop_ids=stop_ids(tokenizer))
    vocab_size = model.config.vocab_size

    def prompts(seed: int) -> Ids:
        """Of a round: others than in the rounds before, so that none is in a cache."""
        return np.random.default_rng(seed).integers(100, vocab_size, (arguments.streams, arguments.prompt)).tolist()

    def long_prompt(seed: int) -> list[int]:
        return np.random.default_rng(seed).integers(100, vocab_size, arguments.long).tolist()

    with served(arguments.model, cores[0]) as (port, pid):
        os.sched_setaffinity(0, {cores[1]})
        seeds = {name: itertools.count() for name in ("in process", "server", "prefill", "first token")}
        counts: list[int] = []

        def in_process() -> list[str]:
            answers = engine.generate(prompts(next(seeds["in process"])), sampling)
            counts.append(sum(len(answer.ids) for (answer,) in answers))
            ended = FinishReason.STOP
            return [tokenizer.decode(a.ids[:-1] if a.finish_reason is ended else a.ids) for (a,) in answers]

        def server() -> list[str]:
            return together(port, prompts(next(seeds["server"])), arguments.tokens)

        def prefill() -> object:
            return bare.generate([long_prompt(next(seeds["prefill"]))], Sampling(1, temperature=0))

        def first_token() -> None:
            streamed(port, long_prompt(next(seeds["first token"])), 1)

        if server() != in_process():
            sys.exit("not timed: the server's answers are not the engine's")
        candidates = {
            "engine in process": (on_core(cores[0], in_process), time.process_time),
            "server": (server, partial(cpu_seconds, pid)),
            "bare prefill": (on_core(cores[0], prefill), time.process_time),
            "first token": (first_token, partial(cpu_seconds, pid)),
        }
        seconds: dict[str, list[float]] = {name: [] for name in candidates}
        for _ in range(arguments.rounds):
            for name, (run, clock) in candidates.items():
                start = clock()
                run()
                seconds[name].append(clock() - start)
    timings = {name: common.Timing(values) for name, values in seconds.items()}
    count = statistics.mean(counts[1:])
    speed = {name: count / timings[name].median for name in ("engine in process", "server")}
    overhead = 1 - speed["server"] / speed["engine in process"]
    late = timings["first token"].median / timings["bare prefill"].median
    rows = [
        {"candidate": name, **timing.summary(), "tokens/s": speed.get(name, "")} for name, timing in timings.items()
    ]
    print(common.table(rows))
    print(f"the server costs {overhead:.1%} of the throughput; its first token takes {late:.2f} times the bare prefill")
    path = common.write_results(
        "serving_http",
        {
            "command": "make bench-serving",
            "versions": common.versions("torch", "uvicorn", "starlette"),
            "workload": {key: value for key, value in vars(arguments).items() if key != "model"},
            "clock": "CPU seconds of the server and of the engine's process, one core each",
            "overhead": overhead,
            "first token by bare prefill": late,
            "timings": rows,
        },
    )
    print(f"written to {path}")


if __name__ == "__main__":
    main()
