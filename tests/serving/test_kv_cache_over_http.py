"""A server and a batch whose cache holds codes: the answers of an engine with such a cache; other names refused."""

from __future__ import annotations

import json
import sys

import pytest
import started
from web import NAME, idle, running

from llama3.checkpoints.weights import save_model
from llama3.cli import app as cli
from llama3.inference import Engine
from llama3.testing.toys import toy_llama

PROMPTS = ["the river and the sea", "the river and the", "Is 7 even?"]
ASKED = {"prompt": PROMPTS, "max_tokens": 30, "temperature": 0}


def expected(kind):
    llama = toy_llama()
    llama.engine = Engine(llama.transformer, kv_dtype=kind)
    return llama.generate(PROMPTS, max_tokens=30, temperature=0)


@pytest.mark.parametrize("kind", ["int8", "fp8"])
def test_a_server_and_a_batch_answer_from_codes(kind, tmp_path):
    with running(toy_llama(), kv_dtype=kind) as site:
        blocks = site.service.counts()["blocks"]
        found = site.client.completions.create(model=NAME, **ASKED)
        assert [choice.text for choice in found.choices] == expected(kind)
        assert idle(site.service)
    with running(toy_llama()) as site:
        assert site.service.counts()["blocks"] <= blocks
    llama = toy_llama()
    save_model(llama.transformer, tmp_path / NAME)
    llama.tokenizer.save(tmp_path / NAME)
    line = {"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": {"model": NAME, **ASKED}}
    (tmp_path / "asked.jsonl").write_text(json.dumps(line) + "\n")
    paths = [tmp_path / name for name in (NAME, "asked.jsonl", "answers.jsonl")]
    with pytest.raises(SystemExit) as ended:
        cli.main(["batch", *map(str, paths), "--kv-cache-dtype", kind])
    assert ended.value.code == 0
    (answer,) = map(json.loads, (tmp_path / "answers.jsonl").read_text().splitlines())
    assert [choice["text"] for choice in answer["response"]["body"]["choices"]] == expected(kind)


def test_another_type_is_refused_before_anything_is_loaded(tmp_path):
    command = [sys.executable, "-m", "llama3", "serve", str(tmp_path), "--kv-cache-dtype", "int4"]
    done = started.run(command)
    assert done.returncode == 2
    assert "int4" in done.stderr
    assert "int8" in done.stderr
