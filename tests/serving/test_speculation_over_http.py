"""A server that speculates gives the answers of one that does not, and tells how many tokens it guessed."""

from __future__ import annotations

import json
import re

import pytest
import torch
from web import NAME, idle, running

from llama3.checkpoints.weights import save_model
from llama3.cli import app as cli
from llama3.testing.toys import toy_llama

ECHO = "the river and the sea, the river and the sea, the river and"
ASKED = [
    {"prompt": ECHO, "max_tokens": 60, "temperature": 0, "logprobs": 2},
    {"prompt": [ECHO, "the"], "max_tokens": 40, "n": 3, "seed": 4, "temperature": 0.7},
    {"prompt": ECHO, "max_tokens": 60, "temperature": 0, "stop": ["e", "a"]},
    {"prompt": ECHO, "max_tokens": 60, "seed": 7, "top_p": 0.5, "logit_bias": {"270": 3}},
]


def looping_llama():
    """Hardly attends, so its greedy answers soon go round in loops."""
    llama = toy_llama()
    with torch.no_grad():
        for name, weight in llama.transformer.named_parameters():
            if "norm" not in name:
                weight.mul_(0.2 if "attention" in name else 2)
    return llama


@pytest.fixture(scope="module")
def plain():
    with running(looping_llama()) as site:
        yield site


@pytest.fixture(scope="module")
def guessing():
    with running(looping_llama(), speculative="prompt_lookup") as site:
        yield site
        assert idle(site.service), "something is not given back"


@pytest.mark.parametrize("asked", ASKED)
@pytest.mark.parametrize("stream", [False, True])
def test_answers_are_those_of_a_server_that_does_not_guess(plain, guessing, asked, stream):
    def answer(site):
        reply = site.http.post("/v1/completions", json={"model": NAME, **asked, "stream": stream})
        assert reply.status_code == 200
        if not stream:
            body = reply.json()
            return body["choices"], body["usage"]
        events = [line.removeprefix("data: ") for line in reply.text.splitlines() if line]
        assert events.pop() == "[DONE]"
        text = {}
        for choice in (choice for event in events for choice in json.loads(event)["choices"]):
            said, _ = text.get(choice["index"], ("", None))
            text[choice["index"]] = said + choice["text"], choice["finish_reason"]
        return text

    assert answer(guessing) == answer(plain)


def test_metrics_tell_what_was_guessed(plain, guessing):
    def told(site):
        lines = site.http.get("/metrics").text
        return [
            float(re.search(rf"^llama3_draft_tokens_{what}_total (\S+)$", lines, re.MULTILINE)[1])
            for what in ("proposed", "accepted")
        ]

    before = told(guessing)
    guessing.client.completions.create(model=NAME, prompt=ECHO, max_tokens=60, temperature=0)
    proposed, accepted = (now - then for now, then in zip(told(guessing), before, strict=True))
    assert 0 < accepted <= proposed
    assert told(plain) == [0, 0]


def test_a_batch_that_guesses_writes_the_same_answers(tmp_path):
    """Without log-probs: their last bits depend on which lines' prompts are computed together."""
    llama = looping_llama()
    save_model(llama.transformer, tmp_path / NAME)
    llama.tokenizer.save(tmp_path / NAME)
    lines = [
        {
            "custom_id": str(i),
            "method": "POST",
            "url": "/v1/completions",
            "body": {"model": NAME, **asked, "logprobs": None},
        }
        for i, asked in enumerate(ASKED)
    ]
    (tmp_path / "asked.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = []
    for method in ("off", "prompt_lookup"):
        out = tmp_path / f"{method}.jsonl"
        arguments = [tmp_path / NAME, tmp_path / "asked.jsonl", out, "--speculative", method]
        with pytest.raises(SystemExit) as ended:
            cli.main(["batch", *map(str, arguments)])
        assert ended.value.code == 0
        answers = [json.loads(line) for line in out.read_text().splitlines()]
        found.append(
            {a["custom_id"]: (a["response"]["body"]["choices"], a["response"]["body"]["usage"]) for a in answers}
        )
    assert found[0] == found[1]
