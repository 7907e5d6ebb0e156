"""lm-eval, unmodified and as its own process, against a running server: its scores are those computed in process.

Nothing else than the server is reached: lm-eval is told to stay off the network, and a proxy that is not there catches
what would not.
"""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from web import NAME, idle, running

from llama3.inference import Sampling
from llama3.model.batch import Batch
from llama3.model.score import score, top
from llama3.testing.toys import toy_llama
from llama3.tokenizer import stop_ids

ORACLE = Path(sys.prefix) / "oracles" / "lm-eval-0.4.13"
PAGE = (Path(__file__).parents[2] / "docs" / "serving.md").read_text("utf-8")
pytestmark = pytest.mark.skipif(not (ORACLE / "lm_eval").is_dir(), reason="`make test` installs lm-eval")

CHOICES = [
    {"ask": "Is 7 even?", "choices": ["yes", "no", "perhaps \u00e9"], "gold": 1},
    {"ask": "the river", "choices": ["runs", "reads", "\U0001f999"], "gold": 0},
    {"ask": "once upon a time there was a" * 24, "choices": ["a", "b", "c"], "gold": 2},
]
TEXTS = [{"text": "the river runs to the sea"}, {"text": "Is 7 even? No." * 60}, {"text": "\u00e9\U0001f999"}]
"""Of the second, and the third question, there is more than the context holds."""
ASKED = [{"ask": "the river", "gold": "x"}, {"ask": "Is 7 even?", "gold": "y"}]
UNTIL, DRAWN = "e", 24


def task(name, rows, folder, **fields):
    """A task of lm-eval over rows on disk."""
    data = folder / f"{name}.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    stated = {"task": name, "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(data)}},
              "test_split": "test", **fields}  # fmt: skip
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(stated))


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tasks")
    metrics = [{"metric": "acc"}, {"metric": "acc_norm"}]
    task("choices", CHOICES, folder, output_type="multiple_choice", doc_to_text="{{ask}}", doc_to_choice="choices",
         doc_to_target="gold", metric_list=metrics)  # fmt: skip
    metrics = [{"metric": "byte_perplexity"}, {"metric": "bits_per_byte"}]
    task("rolling", TEXTS, folder, output_type="loglikelihood_rolling", doc_to_text="", doc_to_target="{{text}}",
         metric_list=metrics)  # fmt: skip
    task("answers", ASKED, folder, output_type="generate_until", doc_to_text="{{ask}}", doc_to_target="{{gold}}",
         generation_kwargs={"until": [UNTIL], "max_gen_toks": DRAWN, "temperature": 0},
         metric_list=[{"metric": "exact_match"}])  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def llama():
    return toy_llama()


@pytest.fixture(scope="module")
def site():
    with running(toy_llama()) as found:
        yield found
        assert idle(found.service)


def measured(model, arguments, tasks, names, out, *options):
    """What lm-eval makes of these tasks: its figures, and its samples by task."""
    dead = "http://127.0.0.1:9"
    environ = {
        **{key: value for key, value in os.environ.items() if not key.upper().endswith("_PROXY")},
        **{"HTTP_PROXY": dead, "HTTPS_PROXY": dead, "NO_PROXY": "127.0.0.1", "PYTHONPATH": str(ORACLE)},
        **{"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(out / "home"), "OMP_NUM_THREADS": "1"},
    }
    command = [sys.executable, "-m", "lm_eval", "run", "--model", model, "--model_args", arguments]
    command += ["--tasks", *names, "--include_path", tasks, "--output_path", out, "--log_samples", *options]
    done = subprocess.run(list(map(str, command)), env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (figures,) = out.glob("*/results_*.json")
    files = {name: next(out.glob(f"*/samples_{name}_*.jsonl")) for name in names}
    samples = {name: [json.loads(line) for line in file.read_text().splitlines()] for name, file in files.items()}
    return json.loads(figures.read_text())["results"], samples


@pytest.fixture(scope="module")
def found(site, tasks, tmp_path_factory):
    """As docs/serving.md says, but with one token more: lm-eval takes one off, and prompts as long as the context are
    wanted here."""
    (arguments,) = re.findall(r"--model local-completions [^`]*--model_args (\S+)", PAGE)
    arguments = arguments.replace("model=mine", f"model={NAME}").replace("http://127.0.0.1:8000", site.url)
    arguments = re.sub("max_length=.*", f"max_length={site.service.max_tokens + 1}", arguments)
    names = ["choices", "rolling", "answers"]
    out = tmp_path_factory.mktemp("out")
    return measured("local-completions", arguments, tasks, names, out, "--batch_size", 2)


def scored(llama, ids, first):
    """The log-probabilities of the tokens from `first` on summed, and whether each is the likeliest in its place."""
    with torch.no_grad():
        batch = Batch.of_documents(ids)
        likeliest, _ = top(llama.transformer, batch, 1)
        total = float(score(llama.transformer, batch).logps_M[first - 1 :].sum())
    return total, likeliest[first - 1 :, 0].tolist() == list(ids[first:])


def test_choices_have_the_log_probs_of_the_model(found, llama):
    figures, samples = found
    limit, right = llama.engine.pool.max_tokens, 0
    longest = 0
    for row, sample in zip(CHOICES, sorted(samples["choices"], key=lambda sample: sample["doc_id"]), strict=True):
        expected = []
        for choice in row["choices"]:
            whole = llama.tokenizer.encode(f"{row['ask']} {choice}").tolist()
            begun = len(llama.tokenizer.encode(row["ask"]))
            cut = max(0, len(whole) - limit)
            longest = max(longest, len(whole) - cut)
            expected.append(scored(llama, whole[cut:], begun - cut))
        told = [(float(logp), greedy == "True") for ((logp, greedy),) in sample["resps"]]
        assert [logp for logp, _ in told] == pytest.approx([logp for logp, _ in expected], abs=1e-4)
        assert [greedy for _, greedy in told] == [greedy for _, greedy in expected]
        right += max(range(3), key=lambda number: expected[number][0]) == row["gold"]
    assert longest == limit, "no prompt was as long as the context"
    assert figures["choices"]["acc,none"] == pytest.approx(right / len(CHOICES))


def test_texts_have_the_perplexity_of_the_model(found, llama):
    figures, _ = found
    limit, total = llama.engine.pool.max_tokens, 0.0
    for row in TEXTS:
        ids = llama.tokenizer.encode(row["text"]).tolist()
        before, at = [llama.tokenizer.bos_id], 0
        while at < len(ids):  # lm-eval's windows: each but the first is as long as can be, and predicts what is new
            end = min(at + limit - 1, len(ids))
            start = 0 if at == 0 else end - limit
            window = (before if at == 0 else []) + ids[start:end]
            total += scored(llama, window, len(window) - (end - at))[0]
            at = end
    size = sum(len(row["text"].encode()) for row in TEXTS)
    assert figures["rolling"]["bits_per_byte,none"] == pytest.approx(-total / size / math.log(2))


def test_answers_are_those_in_process(found, llama):
    _, samples = found
    for row, sample in zip(ASKED, sorted(samples["answers"], key=lambda sample: sample["doc_id"]), strict=True):
        ids = llama.tokenizer.encode(row["ask"])
        (answer,) = llama.engine.generate([ids], greedy(llama))[0]
        text = llama.tokenizer.decode([id for id in answer.ids if id not in greedy(llama).stop_ids])
        assert sample["resps"] == [[text.partition(UNTIL)[0]]]


def greedy(llama):
    return Sampling(DRAWN, 0.0, stop_ids=stop_ids(llama.tokenizer))


def test_chats_are_those_in_process(site, tasks, llama, tmp_path):
    arguments = f"model={NAME},base_url={site.url}/v1/chat/completions"
    options = ["--apply_chat_template"]
    _, samples = measured("local-chat-completions", arguments, tasks, ["answers"], tmp_path, *options)
    for row, sample in zip(ASKED, sorted(samples["answers"], key=lambda sample: sample["doc_id"]), strict=True):
        expected = llama.chat(row["ask"], max_tokens=DRAWN, temperature=0, stop=[UNTIL]).content
        assert sample["resps"] == [[expected]]


@pytest.mark.parametrize("tokens", [0, 1])
def test_a_prompt_that_fills_the_context_is_scored(site, llama, tokens):
    """What lm-eval asks for a log-likelihood, at its longest; one token more is refused."""
    limit = site.service.max_tokens
    ids = llama.tokenizer.encode("the river runs to the sea " * limit).tolist()[:limit]
    body = {"model": NAME, "prompt": ids, "echo": True, "logprobs": 1, "max_tokens": tokens, "temperature": 0}
    reply = site.http.post("/v1/completions", json=body)
    assert reply.status_code == 200, reply.text
    told = reply.json()["choices"][0]["logprobs"]["token_logprobs"]
    assert len(told) == limit + tokens
    assert sum(told[1:limit]) == pytest.approx(scored(llama, ids, 1)[0], abs=1e-2)
    longer = site.http.post("/v1/completions", json={**body, "prompt": [*ids, ids[0]]})
    assert (longer.status_code, longer.json()["error"]["code"]) == (400, "L3-SRV-015")
    assert site.http.post("/v1/embeddings", json={"model": NAME, "input": ids}).status_code == 200
