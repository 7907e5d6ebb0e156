"""`llama3 quantize`: a model becomes a folder that every command loads, with the truth of what that cost."""

from __future__ import annotations

import json
import re

import pytest
import torch
from model_files import random_model
from safetensors.torch import load_file

from llama3.checkpoints.load import load_model
from llama3.checkpoints.quantized import quantize_model
from llama3.checkpoints.weights import save_model
from llama3.model.build import init_weights
from llama3.model.config import ModelConfig
from llama3.model.transformer import Transformer
from llama3.plugins.registry import discover
from llama3.testing.toys import toy_tokenizer

CONFIG = ModelConfig(128, 4, 4, 2, 256, toy_tokenizer().vocab_size, max_seq_len=256)
FEW = ["--prompts", "3", "--max-tokens", "4"]


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "model"
    save_model(random_model(CONFIG), folder, dtype=torch.bfloat16)
    toy_tokenizer().save(folder)
    (folder / "LICENSE").write_text("MIT License\n")
    return folder


def test_a_quantized_copy_is_loaded_by_every_command_and_says_what_it_cost(llama3, model, tmp_path):
    (model / "policy.json").write_text("{}")
    out = tmp_path / "out"
    code, printed, _ = llama3("quantize", model, out, "--scheme", "fp8_rowwise", "--ablate", *FEW, "--json")
    assert code == 0
    report = json.loads(printed)
    assert {name: report[name] for name in report if name not in ("path", "schema_version")} == json.loads(
        (out / "quantization.json").read_text()
    )
    inner = {f"layers.{n}.ffn.{matrix}" for n in (1, 2) for matrix in ("gate_up", "down")}
    assert {row["name"] for row in report["tensors"]} == inner
    assert len(report["skipped"]) == 4 * 4 - 4 + 1
    assert report["options"] == {"cap": 1200.0, "skip_ends": True}
    assert [row["layer"] for row in report["layers"]] == [1, 2]
    assert report["bytes"] < 0.6 * report["bytes_bf16"]
    assert report["model_bytes"] < report["model_bytes_bf16"] + 20_000
    off = [row["options"] for row in report["ablation"]]
    assert off == [{"cap": None, "skip_ends": True}, {"cap": 1200.0, "skip_ends": False},
                   {"cap": None, "skip_ends": False}]  # fmt: skip
    assert 0.5 < report["answers"]["top1_agreement"] <= 1.0
    assert report["ablation"][1]["logp"]["wasserstein"] > report["answers"]["logp"]["wasserstein"]  # twice the matrices

    expected = random_model(CONFIG)
    expected.load_state_dict({name: x.bfloat16().float() for name, x in expected.state_dict().items()})
    quantize_model(expected, discover().build("quantization", "fp8_rowwise"))
    loaded = load_model(out).state_dict()
    assert all(torch.equal(x.float(), loaded[name].float()) for name, x in expected.state_dict().items())
    assert (out / "policy.json").read_text().strip() == "{}"
    assert (out / "LICENSE").read_text() == "MIT License\n"
    facts, bf16 = (json.loads(llama3("show", path, "--json")[1]) for path in (out, model))
    assert bf16["memory"]["serve"] - facts["memory"]["serve"] == 2 * bf16["parameters"] - facts["weights"]["bytes"]
    shown = llama3("show", out)[1]
    assert shown.count("scheme fp8_rowwise") == 1
    assert "as quantized, with the cache" in shown
    assert llama3("generate", out, "one", "--max-tokens", "2")[0] == 0
    assert llama3("convert", out, tmp_path / "hf", "--to", "hf")[0] == 0
    assert llama3("convert", out, tmp_path / "ct", "--to", "compressed-tensors")[2].startswith(
        "note: inputs are scaled"
    )


@pytest.mark.parametrize("layout", ["compressed-tensors", "fbgemm_fp8"])
def test_every_command_that_reads_models_reads_other_programs_layouts(llama3, model, tmp_path, layout):
    assert llama3("quantize", model, tmp_path / "q", "--scheme", "fp8_rowwise", "--prompts", 0)[0] == 0
    theirs = tmp_path / "theirs"
    assert llama3("convert", tmp_path / "q", theirs, "--to", layout)[0] == 0
    for command in (
        ("show", theirs),
        ("generate", theirs, "one", "--max-tokens", 2),
        ("tokens", theirs, "--message", "one"),
        ("convert", theirs, tmp_path / "hf", "--to", "hf"),
        ("convert", theirs, tmp_path / "meta", "--to", "meta"),
        ("export", theirs, tmp_path / "exported", "--to", "hf"),
        ("export", theirs, tmp_path / "again", "--to", "fbgemm_fp8"),
        ("quantize", theirs, tmp_path / "int8", "--scheme", "int8", "--prompts", 0),
        ("config", "validate", "adopt", "--set", f"model.path={theirs}"),
    ):
        code, _, told = llama3(*command)
        assert code == 0, (command, told)
    assert load_file(theirs / "model.safetensors").keys() == load_file(tmp_path / "again/model.safetensors").keys()
    assert json.loads(llama3("show", theirs, "--json")[1])["layout"] == layout
    one, other = load_model(theirs), load_model(tmp_path / "hf")
    assert all(torch.equal(x, other.state_dict()[name]) for name, x in one.state_dict().items())


def test_a_dash_is_an_underscore(llama3, model, tmp_path):
    """In names that are typed; what is written has the scheme's own name."""
    assert llama3("quantize", model, tmp_path / "q", "--scheme", "fp8-rowwise", "--prompts", 0)[0] == 0
    assert json.loads((tmp_path / "q/config.json").read_text())["quantization"]["scheme"] == "fp8_rowwise"
    assert json.loads((tmp_path / "q/quantization.json").read_text())["scheme"] == "fp8_rowwise"
    for to, layout in (("fbgemm-fp8", "fbgemm_fp8"), ("compressed_tensors", "compressed-tensors")):
        code, printed, told = llama3("convert", tmp_path / "q", tmp_path / to, "--to", to, "--json")
        assert (code, json.loads(printed)["layout"]) == (0, layout), told
    assert llama3("plugins", "show", "exporters/compressed-tensors")[0] == 0
    code, _, told = llama3("convert", tmp_path / "q", tmp_path / "no", "--to", "compressed")
    assert code == 2
    assert "did you mean 'compressed-tensors'" in told
    assert "L3-CLI-040" in told


def test_people_read_a_table(llama3, model, tmp_path):
    code, printed, _ = llama3("quantize", model, tmp_path / "out", "--scheme", "int4", "--set", "group=64", *FEW)
    assert code == 0
    assert "quantized     16 matrices: attention.out x 4, attention.qkv x 4, ffn.down x 4, ffn.gate_up x 4" in printed
    assert "as they were  lm_head x 1" in printed
    assert re.search(r"their bytes   \d+\.\d kB, 1\.2 MB in bfloat16", printed), "a small model has no bytes"
    assert "group=64  log-prob of an answer's token" in printed
    assert len([line for line in printed.splitlines() if line[:1].isdigit()]) == 4


def test_metas_layout_and_an_empty_directory_do(llama3, model, tmp_path):
    assert llama3("convert", model, tmp_path / "meta", "--to", "meta")[0] == 0
    (tmp_path / "out").mkdir()
    code, printed, err = llama3("quantize", tmp_path / "meta", tmp_path / "out", "--scheme", "int8", *FEW, "--json")
    assert code == 0, err
    assert json.loads(printed)["matrices"] == 16
    assert llama3("generate", tmp_path / "out", "one", "--max-tokens", "2")[0] == 0


def refused(llama3, out, *arguments):
    code, printed, err = llama3("quantize", *arguments)
    assert not printed
    assert not any(out.parent.glob("out.tmp-*"))
    return code, err


def test_what_cannot_be_done_is_said_before_anything_is_written(llama3, model, tmp_path):
    out = tmp_path / "out"
    given = (model, out, "--scheme")
    for code, said, arguments in (
        (4, "no plugin 'int7'", (*given, "int7")),
        (2, "unknown key", (*given, "fp8_rowwise", "--set", "cab=3")),
        (2, "L3-QNT-007", (*given, "int4", "--set", "group=48")),
        (2, "L3-REL-009", (*given, "int8", "--ablate")),
        (1, "L3-RWD-006", (*given, "int8", "--reward-model", model)),
        (2, "L3-CLI-012", (*given, "int8", "--set", "cap")),
    ):
        found, err = refused(llama3, out, *arguments)
        assert (found, said in err) == (code, True), err
        assert not out.exists()
    out.mkdir()
    (out / "mine.txt").write_text("keep me")
    code, err = refused(llama3, out, *given, "int8")
    assert (code, "L3-CNV-001" in err) == (2, True)
    assert [path.name for path in out.iterdir()] == ["mine.txt"]


def test_a_model_too_shallow_for_a_scheme_and_one_that_is_quantized_are_refused(llama3, tmp_path, model):
    shallow = tmp_path / "shallow"
    save_model(random_model(ModelConfig(128, 2, 4, 2, 256, CONFIG.vocab_size)), shallow)
    toy_tokenizer().save(shallow)
    code, err = refused(llama3, tmp_path / "out", shallow, tmp_path / "out", "--scheme", "fp8_rowwise")
    assert (code, "takes none of the model's matrices" in err) == (1, True)
    assert llama3("quantize", model, tmp_path / "once", "--scheme", "int8", "--prompts", "0")[0] == 0
    code, err = refused(llama3, tmp_path / "out", tmp_path / "once", tmp_path / "out", "--scheme", "int4")
    assert (code, "L3-REL-002" in err) == (1, True)


def test_what_reads_back_otherwise_never_appears(llama3, model, tmp_path, monkeypatch):
    monkeypatch.setattr("llama3.release.quantize.compare", lambda *_: 0.5)
    code, err = refused(llama3, tmp_path / "out", model, tmp_path / "out", "--scheme", "int8")
    assert (code, "L3-REL-007" in err) == (5, True)
    assert not (tmp_path / "out").exists()


def test_own_prompts_and_a_reward_model_are_used(llama3, model, tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"prompt": f"Say {n}."}) + "\n" for n in range(5)))
    judge = tmp_path / "judge"
    save_model(init_weights(Transformer(CONFIG, score_head=True), 3), judge)
    toy_tokenizer().save(judge)
    (judge / "llama3.json").write_text(json.dumps({"algorithm": {"name": "reward_model"}}))
    out = tmp_path / "out"
    code, printed, err = llama3("quantize", model, out, "--scheme", "int8", "--data", rows, "--reward-model", judge,
                                "--prompts", "4", "--max-tokens", "4", "--json")  # fmt: skip
    assert code == 0, err
    found = json.loads(printed)["answers"]
    assert found["logp"]["n"] == found["reward"]["n"] == 4
    assert found["reward"]["before"] != found["logp"]["before"]
