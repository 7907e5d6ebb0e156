"""`llama3 export` as a user calls it, with the exporter that needs no further package."""

from __future__ import annotations

import json

import pytest
import torch
from exporting import write_checkpoint
from model_files import write_gguf, write_meta

from llama3.checkpoints.load import load_model
from llama3.cli import app as cli
from llama3.release.exporter import VerifyReport
from llama3.tokenizer import Tokenizer
from llama3_plugins.exporters.hf import HfExporter


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A checkpoint in Hugging Face's layout."""
    folder = tmp_path_factory.mktemp("model")
    write_checkpoint(folder)
    (folder / "LICENSE").write_text("Apache License\n")
    return folder


@pytest.fixture
def llama3(capsys):
    def call(*args):
        with pytest.raises(SystemExit) as caught:
            cli.main(list(map(str, args)))
        captured = capsys.readouterr()
        return caught.value.code, captured.out, captured.err

    return call


def assert_same_weights(one, other):
    theirs = load_model(other).state_dict()
    for name, value in load_model(one).state_dict().items():
        assert torch.equal(value, theirs[name]), name


def test_it_writes_verifies_and_says_so(llama3, model, tmp_path):
    code, out, err = llama3("export", model, tmp_path / "out", "--to", "hf")
    assert code == 0, err
    assert "in float32, layout hf" in out
    assert "verified by llama3: 1,024 log-probabilities within" in out
    assert "32 of 32 greedy tokens as the engine's" in out
    assert_same_weights(model, tmp_path / "out")
    assert (tmp_path / "out" / "LICENSE").read_text() == "Apache License\n"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("layout", ["meta", "gguf"])
def test_a_model_of_any_layout_is_exported(llama3, model, tmp_path, layout):
    if layout == "meta":
        source = write_meta(tmp_path / "meta", load_model(model))
        Tokenizer.load(model).save(source)
    else:
        source = tmp_path / "model.gguf"
        write_gguf(source, load_model(model), change=lambda writer: add_vocabulary(writer, model))
    code, _, err = llama3("export", source, tmp_path / "out", "--to", "hf")
    assert code == 0, err
    assert_same_weights(model, tmp_path / "out")
    assert Tokenizer.load(tmp_path / "out") == Tokenizer.load(model)


def add_vocabulary(writer, folder):
    tokenizer = Tokenizer.load(folder)
    content = json.loads(tokenizer.to_json())
    vocab = {**content["model"]["vocab"], **{token["content"]: token["id"] for token in content["added_tokens"]}}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("llama-bpe")
    writer.add_token_list(sorted(vocab, key=vocab.__getitem__))
    writer.add_token_merges([" ".join(pair) for pair in content["model"]["merges"]])
    special = set(tokenizer.special_tokens.values())
    writer.add_token_types([3 if id in special else 1 for id in range(len(vocab))])
    writer.add_bos_token_id(tokenizer.bos_id)
    writer.add_eos_token_id(tokenizer.eos_id)


@pytest.mark.parametrize("to", ["compressed-tensors", "compressed_tensors"])
def test_a_dash_is_an_underscore(llama3, model, tmp_path, to):
    code, out, err = llama3("export", model, tmp_path / "out", "--to", to, "--set", "scheme=int8-dynamic", "--json")
    assert code == 0, err
    assert json.loads(out)["manifest"]["dtype"] == "int8_dynamic"


def test_json_tells_the_same(llama3, model, tmp_path):
    code, out, _ = llama3("export", model, tmp_path / "out", "--to", "hf", "--set", "max_shard_bytes=100000", "--json")
    told = json.loads(out)
    assert code == 0
    assert told["manifest"]["layout"] == "hf"
    assert "model.safetensors.index.json" in told["manifest"]["files"], "the option did not reach the exporter"
    assert told["verified"]["tokens"] == told["verified"]["same_tokens"] == 32
    assert told["verified"]["not_verified"] == []


def test_what_is_there_is_never_overwritten(llama3, model, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("x")
    code, _, err = llama3("export", model, tmp_path / "out", "--to", "hf")
    assert code == 2
    assert "is not empty" in err
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "mine"]


@pytest.mark.parametrize(
    ("arguments", "expected", "told"),
    [
        (("--to", "hg"), 4, "did you mean 'hf'"),
        (("--to", "hf", "--set", "max_shard=1"), 2, "max_shard"),
        (("--to", "hf", "--set", "max_shard_bytes"), 2, "write option=value"),
    ],
)
def test_mistakes_are_refused_before_any_work(llama3, model, tmp_path, arguments, expected, told):
    code, _, err = llama3("export", model, tmp_path / "out", *arguments)
    assert code == expected
    assert told in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("report", "told"),
    [
        (VerifyReport(0.5, 1e-3, 10), "L3-REL-004"),
        (VerifyReport(float("nan"), 1e-3, 10), "L3-REL-004"),
        (VerifyReport(0.0, 1e-3, 10, tokens=32, same_tokens=31), "31 of 32 greedy tokens"),
    ],
)
def test_an_export_that_computes_something_else_leaves_nothing(llama3, model, tmp_path, monkeypatch, report, told):
    monkeypatch.setattr(HfExporter, "verify", lambda self, folder: report)
    code, _, err = llama3("export", model, tmp_path / "out", "--to", "hf")
    assert code == 5
    assert told in err
    assert list(tmp_path.iterdir()) == []
