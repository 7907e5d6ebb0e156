"""Which stages of a policy are asked where: every way to an answer is gone with a policy for all stages, the audit log
tells which were asked, and the table of docs/safety.md says the same."""

from __future__ import annotations

import dataclasses
import io
import json
import re
from pathlib import Path

import pytest
import torch
from web import NAME, idle, running

from llama3.checkpoints.weights import save_model
from llama3.cli import app as cli
from llama3.cli.guarding import open_policy
from llama3.inference import Llama
from llama3.model.build import init_weights
from llama3.model.transformer import Transformer
from llama3.plugins.registry import discover
from llama3.posttraining import guarded_answers
from llama3.safety.engine import PolicyEngine
from llama3.safety.policy import STAGES
from llama3.serving.app import make_app
from llama3.serving.served import Served
from llama3.serving.service import Service
from llama3.testing.toys import toy_llama

PAGE = Path(__file__).parents[2] / "docs" / "safety.md"
SAID = "So:\n```python\nx = 1\n```\nDone."
CALL = '{"name": "run_python", "parameters": {"code": "x = 1"}}'
PYTHON = {"type": "function", "function": {"name": "run_python", "parameters": {"type": "object"}}}
DIALOG = [
    {"role": "user", "content": "Hello"},
    {"role": "assistant", "content": "", "tool_calls": [{"id": "a", "type": "function", "function": {
        "name": "run_python", "arguments": "{}"}}]},
    {"role": "tool", "content": "x is 1", "tool_call_id": "a"},
]  # fmt: skip
POSTS = {
    "/v1/completions": {"prompt": "Hello"},
    "/v1/chat/completions": {"messages": DIALOG, "tools": [PYTHON]},
    "/inference/v1/generate": {"token_ids": [[260, 261]], "sampling_params": {"max_tokens": 99}},
    "/v1/embeddings": {"input": "Hello"},
    "/v1/moderations": {"input": "Hello"},
    "/tokenize": {"prompt": "Hello"},
    "/detokenize": {"tokens": [260]},
}


class Script:
    """What a model draws, whatever it is asked; every answer begins anew."""

    def __init__(self, tokenizer):
        self.tokenizer, self.ids = tokenizer, []

    def say(self, text):
        self.ids = [*self.tokenizer.encode(text).tolist(), self.tokenizer.eot_id]

    def logits(self, model, h_TD):
        logits = torch.zeros(len(h_TD), self.tokenizer.vocab_size)
        if len(logits) and self.ids:
            logits[-1, self.ids.pop(0)] = 50.0
        return logits


@pytest.fixture
def script(monkeypatch):
    found = Script(toy_llama().tokenizer)
    monkeypatch.setattr(Transformer, "logits", lambda model, h_TD: found.logits(model, h_TD))
    return found


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("guarded") / "model"
    folder.mkdir()
    llama = toy_llama()
    save_model(init_weights(Transformer(dataclasses.replace(llama.config, max_seq_len=2048)), 0), folder)
    llama.tokenizer.save(folder)
    # The guard is any that stands everywhere: what counts is that it is asked.
    (folder / "policy.json").write_text(json.dumps(dict.fromkeys(STAGES, "pii")))
    return folder


@pytest.fixture
def asked(tmp_path):
    """The stages that the log tells, in the order of the policy."""

    def read(path):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        stages = {row["stage"] for row in rows if row["event"] == "decision"}
        return [stage for stage in STAGES if stage in stages]

    return read


def documented():
    """The table of the page: stages by way."""
    section = PAGE.read_text("utf-8").partition("<!-- stages asked -->")[2].partition("<!-- end of stages -->")[0]
    rows = re.findall(r"^\| `(.+?)`.*?\| (.*) \|$", section, re.MULTILINE)
    return {way: [stage for stage, cell in zip(STAGES, cells.split(" | "), strict=True) if cell == "yes"]
            for way, cells in rows}  # fmt: skip


def command(monkeypatch, *args, stdin=""):
    monkeypatch.setattr("sys.stdin", io.StringIO(stdin))
    with pytest.raises(SystemExit) as caught:
        cli.main(list(map(str, args)))
    return caught.value.code


def test_in_the_terminal(model, script, asked, monkeypatch, tmp_path, capsys):
    table = documented()
    for number, (name, args, stdin) in enumerate([("chat", (), "Hello\n"), ("generate", ("Hello",), "")]):
        log = tmp_path / f"{number}.jsonl"
        script.say(SAID)
        assert command(monkeypatch, name, model, *args, "--max-tokens", 99, "--audit", log, stdin=stdin) == 0
        assert "x = 1" in capsys.readouterr().out
        assert asked(log) == table[f"llama3 {name}"]


def test_in_a_batch(model, script, asked, monkeypatch, tmp_path):
    file, log = tmp_path / "asked.jsonl", tmp_path / "log.jsonl"
    found = set()
    for said in (CALL, SAID):
        body = {**POSTS["/v1/chat/completions"], "model": "model", "max_tokens": 200}
        line = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": body}
        file.write_text(json.dumps(line) + "\n")
        script.say(said)
        answers = tmp_path / f"{len(said)}.jsonl"
        assert command(monkeypatch, "batch", model, file, answers, "--audit", log, "--max-batch", 1) == 0
        found |= set(asked(log))
    assert [stage for stage in STAGES if stage in found] == documented()["llama3 batch"]


@pytest.mark.parametrize("way", ["Llama.chat", "Llama.generate"])
def test_in_python(model, script, asked, tmp_path, way):
    log = tmp_path / "log.jsonl"
    dialog = [{"role": "user", "content": "Hello"}, {"role": "tool", "content": "x is 1"}]
    with open_policy(model, log) as guard:
        llama = Llama.load(model, device="cpu", guard=guard)
        for stream in (False, True):
            script.say(SAID)
            if way == "Llama.chat":
                answer = llama.chat(dialog, stream=stream)
            else:
                answer = llama.generate("Hello", max_tokens=99, stream=stream)
            assert "x = 1" in ("".join(answer) if stream else getattr(answer, "text", answer))
    assert asked(log) == documented()[way]


def test_in_rollouts_of_a_run(model, asked, monkeypatch, tmp_path):
    log = tmp_path / "log.jsonl"
    monkeypatch.setattr(guarded_answers, "opened_policy", lambda policy: open_policy(model, log))
    with guarded_answers.AnswerFilter({"any": "policy"}) as guard:
        assert guard.passes([{"role": "user", "content": "Hello"}], SAID)
    assert asked(log) == documented()["safety.rollouts: true"]


@pytest.mark.parametrize("path", POSTS)
def test_over_http(model, script, asked, tmp_path, path):
    found = set()
    for number, (said, stream) in enumerate([(SAID, False), (SAID, True), (CALL, False), (CALL, True)]):
        log = tmp_path / f"{number}.jsonl"
        with open_policy(model, log) as guard, running(Llama.load(model, device="cpu", guard=guard)) as site:
            script.say(said)
            asks = {"stream": stream} if "completions" in path or "generate" in path else {}
            body = {"model": NAME, **POSTS[path], **asks}
            if "completions" in path:
                body |= {"max_tokens": 200, "temperature": 0}
            reply = site.http.post(path, json=body)
            assert reply.status_code == 200, reply.text
        found |= set(asked(log))
    assert [stage for stage in STAGES if stage in found] == documented()[path]


def test_the_table_has_every_route_and_stage():
    served = Served(toy_llama(), NAME, Service(toy_llama().transformer))
    app = make_app(served, keys=None, observers=discover().observers)
    posts = {route.path for route in app.routes if "POST" in route.methods}
    assert posts == set(POSTS)
    assert posts < set(documented())


def test_insecure_code_is_kept_back_in_answers_and_in_calls(model, script):
    guard = PolicyEngine({"code": "code_shield"}, lambda name, options: discover().build("guards", name, options))
    told = {
        "So:\n```python\nimport os\nos.system(a)\n```\nDone.": ("import os", "content_filter"),
        CALL.replace("x = 1", "import os\\nos.system(a)"): ("import os", "content_filter"),
        SAID: ("", "stop"),
        CALL: ("", "tool_calls"),
    }
    with guard, running(Llama.load(model, device="cpu", guard=guard)) as site:
        for said, (hidden, finish) in told.items():
            for stream in (False, True):
                assert idle(site.service)
                script.say(said)
                body = {"model": NAME, **POSTS["/v1/chat/completions"], "max_tokens": 200, "stream": stream}
                text = site.http.post("/v1/chat/completions", json=body).text
                assert f'"finish_reason":"{finish}"' in text.replace(" ", "")
                assert not hidden or hidden not in text
