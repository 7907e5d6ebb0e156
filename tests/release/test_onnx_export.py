"""The exporter `onnx`, run by onnxruntime token for token beside our engine."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from model_files import logits_of, random_model

from llama3.checkpoints.weights import save_model
from llama3.cli import app as cli
from llama3.inference.engine import Engine
from llama3.inference.sampling import Sampling
from llama3.model.config import ModelConfig
from llama3.plugins import registry
from llama3.plugins.registry import discover
from llama3.release.decoder_step import empty_cache, input_names, step_inputs
from llama3.tokenizer import Tokenizer

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")
TEXTS = [f"line {n}: the quick brown fox jumps over the lazy dog; 'tis {n * n} times" for n in range(100)]
CONFIG = ModelConfig(64, 2, 4, 2, 96, 320, max_seq_len=128)


@pytest.fixture(scope="module")
def model():
    return random_model(CONFIG).requires_grad_(False)


@pytest.fixture(scope="module")
def checkpoint(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    save_model(model, folder)
    Tokenizer.train(TEXTS, 320, 16).save(folder)
    return folder


@pytest.fixture(scope="module")
def exported(checkpoint, tmp_path_factory):
    """An export through the command line: its folder and what was told."""
    out = tmp_path_factory.mktemp("exported") / "onnx"
    told = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("llama3.cli.export.print_json", told.append)
        with pytest.raises(SystemExit) as caught:
            cli.main(["export", str(checkpoint), str(out), "--to", "onnx", "--json"])
    assert caught.value.code == 0
    return out, told[0]


def session_of(folder):
    return ort.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])


def run(session, tokens, cache):
    given = dict(zip(input_names(CONFIG), step_inputs(tokens, cache), strict=True))
    return [torch.from_numpy(x) for x in session.run(None, {name: x.numpy() for name, x in given.items()})]


def test_it_is_verified_by_onnxruntime(exported):
    told = exported[1]
    assert told["verified"]["runtime"].startswith("onnxruntime")
    assert told["verified"]["tokens"] == told["verified"]["same_tokens"] == 32
    assert set(told["manifest"]["files"]) >= {"model.onnx", "config.json", "tokenizer.json", "probe.safetensors"}


def test_onnxruntime_draws_the_engine_s_tokens(exported, model):
    """Freely: each token after its own one before."""
    session, prompt = session_of(exported[0]), np.arange(3, 60, 5)
    ((answer,),) = Engine(model).generate([prompt], Sampling(max_tokens=40, temperature=0))
    cache, new, drawn = empty_cache(CONFIG, torch.float32), torch.from_numpy(prompt)[None], []
    while len(drawn) < 40:
        logits, *cache = run(session, new, cache)
        new = logits[:, -1].argmax(-1, keepdim=True)
        drawn.append(int(new))
    assert drawn == answer.ids


def test_many_sequences_at_once(exported, model):
    session, rows = session_of(exported[0]), torch.arange(45).view(3, 15) * 11 % 320
    first, *cache = run(session, rows[:, :8], empty_cache(CONFIG, torch.float32, batch=3))
    rest, *_ = run(session, rows[:, 8:], cache)
    for row, got in zip(rows, torch.cat([first, rest], 1), strict=True):
        torch.testing.assert_close(got, logits_of(model, row), atol=1e-4, rtol=1e-4)


def test_the_graph_is_small_and_says_nothing_of_this_machine(exported):
    loaded = onnx.load(exported[0] / "model.onnx")
    onnx.checker.check_model(loaded)
    assert [(one.domain, one.version) for one in loaded.opset_import] == [("", 23)]
    kinds = [node.op_type for node in loaded.graph.node]
    assert kinds.count("Attention") == CONFIG.n_layers
    assert kinds.count("RMSNormalization") == 2 * CONFIG.n_layers + 1
    loaded.graph.ClearField("initializer")
    assert b".py" not in loaded.SerializeToString()


def test_float16_is_verified_too(checkpoint, tmp_path):
    exporter = discover().build("exporters", "onnx", {"precision": "fp16"})
    exporter.export(checkpoint, tmp_path)
    report = exporter.verify(tmp_path)
    assert report.passed
    assert 1e-5 < report.difference < 0.05
    assert json.loads((tmp_path / "config.json").read_text())["vocab_size"] == 320


def test_a_missing_package_is_named_with_the_extra(checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(registry, "_importable", lambda module: module != "onnxscript")
    with pytest.raises(SystemExit) as caught:
        cli.main(["export", str(checkpoint), str(tmp_path / "out"), "--to", "onnx"])
    assert caught.value.code == 4
    assert "needs onnxscript. Fix: pip install 'llama3[onnx]'" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
