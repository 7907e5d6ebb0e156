"""`llama3 serve`, `batch`, `generate` and `chat` with a model that several processes share: answers are those of one
process, and the processes end together."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
import started
from openai import OpenAI
from web import serving

from llama3.checkpoints.load import load_model
from llama3.checkpoints.quantized import quantize_model, save_quantized
from llama3.checkpoints.weights import save_model
from llama3.cli import app as cli
from llama3.errors import printable
from llama3.inference import Llama
from llama3.model.build import init_weights
from llama3.model.config import ModelConfig
from llama3.model.transformer import Transformer
from llama3.plugins.registry import discover
from llama3.testing.toys import toy_tokenizer

ASK = {"model": "tiny", "prompt": "the river", "max_tokens": 10, "temperature": 0}
LONG = {**ASK, "max_tokens": 900, "n": 8, "stream": True}
pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="finds processes in /proc")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    tokenizer = toy_tokenizer()
    config = ModelConfig(32, 4, 4, 2, 64, tokenizer.vocab_size, max_seq_len=1024)
    folder = tmp_path_factory.mktemp("models") / "tiny"
    save_model(init_weights(Transformer(config), 0), folder)
    tokenizer.save(folder)
    return folder


@pytest.fixture(scope="module")
def alone(model):
    return Llama.load(model)


def children(pid):
    """Processes whose parent this is, the guards' workers among them."""
    found = []
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            lines = dict(line.split(":\t", 1) for line in status.read_text().splitlines() if ":\t" in line)
        except OSError:
            continue
        if lines["PPid"] == str(pid):
            found.append(int(status.parent.name))
    return found


def ranks(pid):
    """Those that compute a part of its model."""
    return [child for child in children(pid) if b"llama3.serving.worker" in Path(f"/proc/{child}/cmdline").read_bytes()]


def is_there(pid):
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def until(true, seconds=60.0):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def errors_of(lines):
    return [json.loads(line.removeprefix("data: ")) for line in lines if '"error"' in line]


def test_matrices_are_shared_and_a_lost_process_ends_every_answer_with_its_error(model, alone):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with serving(model, "--tensor-parallel-size", 2, env=environment) as site:
        client = OpenAI(base_url=f"{site.url}/v1", api_key="none", max_retries=0, timeout=60)
        expected = alone.generate(ASK["prompt"], max_tokens=10, temperature=0)
        assert client.completions.create(**ASK).choices[0].text == expected
        pieces = client.completions.create(**ASK, stream=True)
        assert "".join(piece.choices[0].text for piece in pieces) == expected
        drawn = client.completions.create(**{**ASK, "temperature": 1.0, "n": 3, "seed": 5})
        (texts,) = alone.generate([ASK["prompt"]], max_tokens=10, temperature=1, top_p=1, seed=5, n=3)
        assert [choice.text for choice in drawn.choices] == texts
        scored = client.completions.create(**{**ASK, "echo": True, "logprobs": 1, "max_tokens": 1}).choices[0]
        logps = alone.logprobs(ASK["prompt"])
        assert scored.logprobs.token_logprobs[1 : 1 + len(logps)] == pytest.approx(logps.tolist(), abs=1e-4)

        (other,) = ranks(site.process.pid)
        with httpx.stream("POST", f"{site.url}/v1/completions", json=LONG, timeout=60) as reply:
            lines = filter(None, reply.iter_lines())
            next(lines)
            os.kill(other, signal.SIGKILL)
            (error,) = errors_of(lines)
        assert error["error"]["code"] == "L3-SRV-060"
        assert site.process.wait(60) == 1
        assert "L3-SRV-060" in site.told().splitlines()[-1]


def test_layers_are_shared_and_a_stop_lets_answers_end(model, alone):
    with serving(model, "--pp", 2, env=os.environ | {"OMP_NUM_THREADS": "1"}) as site:
        body = httpx.post(f"{site.url}/v1/completions", json={**ASK, "echo": True, "logprobs": 0}, timeout=60).json()
        logps = alone.logprobs(ASK["prompt"])
        told = body["choices"][0]["logprobs"]["token_logprobs"]
        assert told[1 : 1 + len(logps)] == pytest.approx(logps.tolist(), abs=1e-4)
        assert body["choices"][0]["text"].endswith(alone.generate(ASK["prompt"], max_tokens=10, temperature=0))
        (other,) = ranks(site.process.pid)
        with httpx.stream("POST", f"{site.url}/v1/completions", json={**LONG, "max_tokens": 60}, timeout=60) as reply:
            lines = filter(None, reply.iter_lines())
            next(lines)
            for pid in (other, site.process.pid):  # as a terminal does, whose Ctrl-C reaches all
                os.kill(pid, signal.SIGINT)
            assert list(lines)[-1] == "data: [DONE]"
        assert site.process.wait(60) == 0, site.told()
        assert site.told().splitlines()[-1] == "stopped"
        assert not is_there(other)


def test_no_process_outlives_the_first_and_one_that_is_idle_sees_that_another_has_gone(model):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with serving(model, "--tp", 2, env=environment) as site, serving(model, "--pp", 2, env=environment) as idle:
        (other,) = ranks(site.process.pid)
        site.process.kill()
        until(lambda: not is_there(other))
        os.kill(ranks(idle.process.pid)[0], signal.SIGKILL)
        assert idle.process.wait(60) == 1
        assert "L3-SRV-060" in idle.told()


def test_torchrun_starts_the_processes_of_a_batch(model, alone, tmp_path):
    requests = tmp_path / "prompts.jsonl"
    prompts = ["the river", "a stone", "some words and some more of them"]
    lines = [
        {"custom_id": p, "method": "POST", "url": "/v1/completions", "body": {**ASK, "prompt": p}} for p in prompts
    ]
    requests.write_text("".join(json.dumps(line) + "\n" for line in lines))
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "llama3"]
    path = os.pathsep.join(place for place in sys.path if place)
    done = started.run(
        [*launch, "batch", model, requests, tmp_path / "answers.jsonl", "--tp", "2", "--json"],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout)["lines"] == 3
    answers = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    texts = {answer["custom_id"]: answer["response"]["body"]["choices"][0]["text"] for answer in answers}
    assert texts == {p: alone.generate(p, max_tokens=10, temperature=0) for p in prompts}


@pytest.mark.slow
def test_generate_shares_too(model, alone):
    arguments = ["generate", str(model), "the river", "--temperature", "0", "--max-tokens", "10", "--pp", "2"]
    done = started.run([sys.executable, "-m", "llama3", *arguments])
    assert done.stdout == alone.generate("the river", max_tokens=10, temperature=0) + "\n", done.stderr


def test_ranks_of_a_chat_answer_on_after_ctrl_c(model, alone):
    """Ctrl-C reaches all processes of the terminal, wherever they stand: the answer ends, the chat does not."""
    arguments = ["chat", str(model), "--temperature", "0", "--max-tokens", "900", "--tp", "2"]
    program = [sys.executable, "-u", "-m", "llama3", *arguments]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with started.Popen(program, text=True, start_new_session=True, **pipes) as process:
        process.stdin.write("the river\n")
        process.stdin.flush()
        begun = os.read(process.stdout.fileno(), 1).decode()
        os.killpg(process.pid, signal.SIGINT)
        rest, told = process.communicate("/reset\nthe river\n", timeout=60)
    assert process.returncode == 0, told
    assert told.count("(stopped)") == 1, told
    expected = "".join(map(printable, alone.stream("the river", max_tokens=40, temperature=0)))
    first, _, second = (begun + rest).partition(f"\n{expected}")
    assert second, rest
    assert expected.startswith(first[: len(expected)])
    assert len(first) < len(second)


def test_a_process_that_does_not_start_is_not_waited_for(model, capsys, monkeypatch):
    monkeypatch.setattr("llama3.serving.shared.sys.executable", shutil.which("false"))
    with pytest.raises(SystemExit) as caught:
        cli.main(["generate", str(model), "the river", "--pp", "3"])
    assert (caught.value.code, "L3-SRV-060" in capsys.readouterr().err) == (1, True)


@pytest.mark.parametrize(
    ("options", "world", "code"),
    [(["--tp", "3"], "1", "L3-PAR-010"), (["--pp", "9"], "1", "L3-PAR-013"), (["--tp", "2"], "3", "L3-PAR-002")],
)
def test_what_cannot_be_shared_is_refused_before_anything_is_loaded(model, capsys, monkeypatch, options, world, code):
    monkeypatch.setenv("WORLD_SIZE", world)
    with pytest.raises(SystemExit) as caught:
        cli.main(["generate", str(model), "the river", *options])
    assert caught.value.code == (2 if world == "1" else 3)
    assert code in capsys.readouterr().err


@pytest.mark.slow
def test_a_quantized_model_shares_its_layers_and_not_its_matrices(model, alone, tmp_path, capfd):
    folder, scheme = tmp_path / "int8", discover().build("quantization", "int8", {})
    quantized = load_model(model)
    quantize_model(quantized, scheme)
    save_quantized(quantized, folder, "int8", scheme)
    alone.tokenizer.save(folder)
    with pytest.raises(SystemExit) as caught:
        cli.main(["chat", str(folder), "--tp", "2"])
    assert (caught.value.code, "L3-SRV-061" in capfd.readouterr().err) == (2, True)
    arguments = ["generate", str(folder), "the river", "--temperature", "0", "--max-tokens", "6"]
    expected = Llama.load(folder).generate("the river", max_tokens=6, temperature=0)
    program = [sys.executable, "-m", "llama3", *arguments, "--pp", "2"]
    done = started.run(program)
    assert done.stdout == expected + "\n", done.stderr
