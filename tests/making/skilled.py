"""A model that answers by rule behind real sockets, and recipes that ask it, with and without a run around them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import StringIO
from pathlib import Path
from threading import Thread
from typing import Any

import yaml

from llama3.capability_rounds import practised
from llama3.checkpoints.adopt import AdoptOptions, adopt
from llama3.config.slot_types import CapabilitySlot
from llama3.execution import Executor
from llama3.making.made import Made
from llama3.making.stage import all_made
from llama3.plugins.registry import discover
from llama3.preflight import load_config
from llama3.testing.capabilities import SEED, ToyShop

Rule = Callable[[Sequence[Mapping[str, str]]], str]


class Answering(BaseHTTPRequestHandler):
    """What the server's rule says of a dialog."""

    def do_GET(self) -> None:
        self._say({"data": [{"id": "ruled-1"}]})

    def do_POST(self) -> None:
        server: Any = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server.seen.append(body)
        if len(server.seen) > server.most:
            self.send_error(503)
            return
        greeted = body["messages"][-1]["content"] == "How are you?"
        said = "Well." if greeted else server.rule(body["messages"])
        self._say({"choices": [{"message": {"content": said}, "finish_reason": "stop"}]})

    def _say(self, what: Any) -> None:
        data = json.dumps(what).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None: ...


@contextmanager
def served(rule: Rule) -> Iterator[Any]:
    """A server that answers by a rule; its `url`, what it has `seen`, and the `most` that it answers."""
    made: Any = ThreadingHTTPServer(("127.0.0.1", 0), Answering)
    made.rule, made.seen, made.most = rule, [], 10**9
    made.url = f"http://127.0.0.1:{made.server_address[1]}/v1"
    thread = Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield made
    made.shutdown()
    made.server_close()
    thread.join(10)


def made_by(name: str, rule: Rule, count: int = 6, **options: Any) -> list[Made]:
    """What a recipe makes in a toy workshop whose model answers by a rule."""
    with ToyShop(rule) as shop:
        return made_in(shop, name, count, **options)


def made_in(shop: ToyShop, name: str, count: int = 6, **options: Any) -> list[Made]:
    slot = CapabilitySlot(name=name, prompts=count, **options)
    return list(all_made(discover().build("capabilities", name, options), slot, shop, SEED))


def config_of(home: Path, folder: Path, capabilities: Sequence[Any], **post: Any) -> Path:
    """A config of one round on a tiny model whose tasks are which numbers are even."""
    tasks = folder / "tasks.jsonl"
    rows = [{"prompt": f"Is {n} even?", "answer": "no" if n % 2 else "yes"} for n in range(120)]
    tasks.write_text("".join(json.dumps(row) + "\n" for row in rows))
    fast = {"batch": 16, "lr": 1e-2, "precision": "fp32", "epochs": 1}
    config = {
        "run": {"name": "s", "dir": str(folder), "device": "cpu", "threads": 1},
        "model": {"path": str(home / "my-model")},
        "data": {"sources": [{"name": "files", "path": str(home / "notes")}], "filters": [], "held_out": 0.3},
        "post_training": {
            "rewards": [{"name": "jsonl_tasks", "path": str(tasks)}],
            "reject": {"prompts": 4, "samples": 2, "demonstrations": 16, "max_tokens": 4, "rehearsal": 0},
            "capabilities": list(capabilities),
            "sft": fast,
            "algorithm": "grpo",
            "prefer": {**fast, "prompts": 4, "samples": 2, "max_tokens": 2},
            **post,
        },
        "quantization": [],
        "evaluation": {"limit": 4, "max_tokens": 4, "tasks": ["bits_per_byte"]},
        "audit": {"margin": 0.9, "relative_margin": 0.99},
        "logging": ["jsonl"],
    }
    place = folder / "s.yaml"
    place.write_text(yaml.safe_dump(config))
    return place


def practise(place: Path) -> tuple[dict[str, Any], str]:
    """What the recipes of a config make in the first round, without the training around them, and what was told."""
    told = StringIO()
    with redirect_stderr(told), Executor(load_config(place)) as make:
        base = make(adopt, "adopt", AdoptOptions.of(make.config))
        return dict(practised(make, make.config, 1, base, None)), told.getvalue()
