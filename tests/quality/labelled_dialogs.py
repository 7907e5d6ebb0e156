"""Dialogs, a labeller behind real sockets, and data quality control on both without the training around it."""

from __future__ import annotations

import json
import random
import re
from contextlib import redirect_stderr
from http.server import BaseHTTPRequestHandler
from io import StringIO
from pathlib import Path
from typing import Any

import yaml

from llama3.artifacts import Artifact
from llama3.checkpoints.adopt import AdoptOptions, adopt
from llama3.execution import Executor
from llama3.preflight import load_config
from llama3.quality_rounds import with_quality
from llama3.tasks.user_data import UserDataOptions, own_data


class Answers(BaseHTTPRequestHandler):
    """A labeller that reads what the dialog says: `code` is coding, `hard` is hard, every `wish` an intention, `bad` is
    no good answer, and of `mumble` it says nothing that can be read; of what is
    `torn` half a character."""

    def do_GET(self) -> None:
        self._say({"data": [{"id": "labeller-1"}]})

    def do_POST(self) -> None:
        server: Any = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        prompt = body["messages"][0]["content"]
        dialog = prompt.split("<conversation>")[1].split("</conversation>")[0]
        server.seen.append(prompt)
        if len(server.seen) > server.most:
            self.send_error(503)
            return
        mumbles = "mumble" in dialog
        if body.get("logprobs"):
            word = "maybe" if mumbles else "no" if "bad" in dialog else "yes"
            self._say({"choices": [{"logprobs": {"content": [{"top_logprobs": [{"token": word, "logprob": 0.0}]}]}}]})
            return
        if "number of one topic" in prompt:
            said = "6" if "code" in dialog else "11. knowledge"
        elif "intentions" in prompt:
            said = "\n".join(f"- tag {n}" for n in range(1 + dialog.count("wish"))) + "\ud83e" * ("torn" in dialog)
        else:
            said = "3" if "hard" in dialog else "It is easy."
        self._say(
            {
                "choices": [
                    {"message": {"content": "Hm, that depends on 1 or 2 things, I should say." if mumbles else said}}
                ]
            }
        )

    def _say(self, what: Any) -> None:
        data = json.dumps(what).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None: ...


WORDS = "ship sea wind harbour captain letter morning island rope lantern storm anchor".split()  # noqa: SIM905


def dialog(question: str, answer: str, name: str = "") -> dict[str, Any]:
    row = {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}
    return {**row, "split": "train", "id": name or re.sub(r"\W+", "-", question)}


def dialogs(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Dialogs that are not alike."""
    draw = random.Random(seed)
    return [dialog(f"Question {n}?", " ".join(draw.choices(WORDS, k=10)) + ".", f"d{n}") for n in range(count)]


def config_of(home: Path, folder: Path, rows: list[dict[str, Any]], section: dict[str, Any] | None, name: str) -> Path:
    """A config that finetunes a tiny model on these rows."""
    data = folder / f"{name}.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = {
        "run": {"name": "q", "dir": str(folder / name), "device": "cpu", "threads": 1},
        "model": {"path": str(home / "my-model")},
        "data": {"sources": [{"name": "files", "path": str(home / "notes")}], "filters": [], "held_out": 0.3},
        "post_training": {
            "rewards": [],
            "data": str(data),
            "sft": {"epochs": 1, "batch": 32, "lr": 1e-3, "precision": "fp32"},
            "quality": section,
        },
        "quantization": [],
        "evaluation": {"limit": 10, "max_tokens": 8, "tasks": ["bits_per_byte"]},
        "audit": {"margin": 0.9, "relative_margin": 0.99},
        "logging": ["jsonl"],
    }
    place = folder / f"{name}.yaml"
    place.write_text(yaml.safe_dump(config))
    return place


class Chosen:
    """What a run chooses of its dialogs, up to where it would train."""

    def __init__(self, config: Path) -> None:
        told = StringIO()
        with redirect_stderr(told), Executor(load_config(config)) as make:
            base = make(adopt, "adopt", AdoptOptions.of(make.config))
            options = UserDataOptions.of(make.config)
            given = make(own_data(options), "own_data", options)
            self.artifact = with_quality(make, make.config, "", given, base)
            self.scores: Artifact = make.made["scores"]
        self.told = told.getvalue()
        self.metrics = self.artifact.metrics

    @property
    def decisions(self) -> dict[str, dict[str, Any]]:
        lines = self.artifact.file("quality/decisions.jsonl").read_text().splitlines()
        return {row["id"]: row for row in map(json.loads, lines)}

    @property
    def learnt(self) -> list[str]:
        return [json.loads(line)["id"] for line in self.artifact.file("dialogs.jsonl").read_text().splitlines()]
