"""Models from one layout to another, and the stage `adopt`: the same logits, the same words, nothing overwritten."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from itertools import product
from pathlib import Path

import gguf
import pytest
import torch
from model_files import logits_of, random_model, write_gguf, write_meta
from safetensors.torch import load_file, save_file

from llama3.artifacts.run import RunDir
from llama3.checkpoints.adopt import AdoptOptions, adopt, content_hash
from llama3.checkpoints.convert import convert
from llama3.checkpoints.formats import open_weights
from llama3.checkpoints.license import license_of
from llama3.checkpoints.load import load_model
from llama3.checkpoints.weights import save_model
from llama3.config.schema import Config
from llama3.errors import CheckpointError, ConfigError, DataError
from llama3.model.build import init_weights
from llama3.model.config import ModelConfig, RopeScaling
from llama3.model.transformer import Transformer
from llama3.tokenizer import Tokenizer

TEXTS = [f"line {n}: the quick brown fox jumps over the lazy dog; 'tis {n * n} times" for n in range(300)]
LICENSE = "Apache License\nVersion 2.0\n"
TOKENS = torch.arange(5, 60)


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(TEXTS, 600, num_special=256)


def config_for(tokenizer, **changes):
    return dataclasses.replace(ModelConfig(64, 2, 4, 2, 96, tokenizer.vocab_size), **changes)


@pytest.fixture(scope="module")
def model(tokenizer):
    return random_model(config_for(tokenizer, rope_scaling=RopeScaling(), max_seq_len=131_072))


@pytest.fixture(scope="module")
def hf(model, tokenizer, tmp_path_factory):
    """As released: with ids, a template of its own, defaults of sampling, a license and a card."""
    folder = tmp_path_factory.mktemp("hf")
    save_model(model, folder, max_shard_bytes=50_000, extra={"bos_token_id": 7, "eos_token_id": [8, 9]})
    tokenizer.save(folder)
    (folder / "generation_config.json").write_text('{"temperature": 0.25, "eos_token_id": [8, 9]}')
    (folder / "chat_template.jinja").write_text("{{ messages[0].content }}")
    (folder / "LICENSE").write_text(LICENSE)
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n# A model\n")
    return folder


@pytest.fixture
def meta(model, tokenizer, tmp_path):
    folder = write_meta(tmp_path / "meta", model, 2)
    tokenizer.save(folder / "tokenizer.model")
    return folder


@pytest.fixture
def gguf_file(tokenizer, tmp_path):
    """Without scaled RoPE, of mixed types, with the tokenizer in the metadata."""
    content = json.loads(tokenizer.to_json())
    names = {**content["model"]["vocab"], **{added["content"]: added["id"] for added in content["added_tokens"]}}
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in content["model"]["merges"]]

    def change(writer):
        writer.add_name("Small")
        writer.add_license("mit")
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("llama-bpe")
        writer.add_token_list(sorted(names, key=names.__getitem__))
        special = gguf.TokenType.CONTROL
        kinds = {added["id"] for added in content["added_tokens"]}
        writer.add_token_types([special if id in kinds else gguf.TokenType.NORMAL for id in range(len(names))])
        writer.add_token_merges(merges)
        writer.add_bos_token_id(tokenizer.bos_id)
        writer.add_eos_token_id(tokenizer.eos_id)

    q8 = gguf.GGMLQuantizationType.Q8_0
    return write_gguf(tmp_path / "small.gguf", random_model(config_for(tokenizer)), {"ffn": q8}, change=change)


def test_a_gguf_file_becomes_the_numbers_its_codes_stand_for(gguf_file, tokenizer, tmp_path):
    made = convert(gguf_file, tmp_path / "hf", "hf")
    assert made.dtype == "float32"
    assert torch.equal(logits_of(load_model(made.folder), TOKENS), logits_of(load_model(gguf_file), TOKENS))
    assert Tokenizer.load(made.folder).encode("the fox, 81").tolist() == tokenizer.encode("the fox, 81").tolist()
    facts = json.loads((made.folder / "llama3.json").read_text())
    assert (facts["name"], facts["license"], facts["types"]["Q8_0"]) == ("Small", "mit", 6)
    assert license_of(made.folder) == "mit"


@pytest.mark.parametrize("layout", ["hf", "meta", "gguf_file"])
def test_a_part_of_a_tensor_is_that_part_of_the_whole(layout, request):
    source = open_weights(request.getfixturevalue(layout))
    for name, shape in source.shapes.items():
        part = tuple(slice(size // 3, size - size // 4) for size in shape)
        assert torch.equal(source.part(name, part), source.get(name)[part])


def test_hf_keeps_what_a_release_says(hf, model, tmp_path):
    made = convert(hf, tmp_path / "out", "hf")
    out = made.folder
    assert (made.dtype, made.parameters, made.notes) == ("float32", model.config.num_params(), ())
    assert torch.equal(logits_of(load_model(out), TOKENS), logits_of(model, TOKENS))
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json", "LICENSE"):
        assert (out / name).read_bytes() == (hf / name).read_bytes(), name
    raw = json.loads((out / "config.json").read_text())
    assert (raw["bos_token_id"], raw["eos_token_id"]) == (7, [8, 9])
    assert raw["rope_scaling"]["factor"] == 8.0


def test_there_and_back_through_metas_layout(hf, model, tokenizer, tmp_path):
    there = convert(hf, tmp_path / "meta", "meta").folder
    names = sorted(path.name for path in there.iterdir())
    assert names == ["LICENSE", "consolidated.00.pth", "llama3.json", "params.json", "tokenizer.model"]
    weights = torch.load(there / "consolidated.00.pth", weights_only=True)
    assert weights["layers.0.attention.wq.weight"].shape == (64, 64)
    assert torch.equal(weights["tok_embeddings.weight"], model.embed.weight)
    back = convert(there, tmp_path / "back", "hf").folder
    assert load_model(back).config == model.config
    assert torch.equal(logits_of(load_model(back), TOKENS), logits_of(model, TOKENS))
    assert Tokenizer.load(back).hash == tokenizer.hash


def test_transformers_reads_what_came_from_meta(meta, model, tokenizer, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    out = convert(meta, tmp_path / "hf", "hf", torch.float32).folder
    theirs = AutoModelForCausalLM.from_pretrained(out).eval()
    with torch.no_grad():
        torch.testing.assert_close(theirs(TOKENS[None]).logits[0], logits_of(model, TOKENS), atol=1e-4, rtol=0)
    text = "the quick brown fox, 81 times"
    assert AutoTokenizer.from_pretrained(out)(text)["input_ids"] == tokenizer.encode(text, bos=True).tolist()


@pytest.mark.parametrize("to", ["hf", "meta"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_precision_is_as_asked_or_as_it_was(hf, to, dtype, model, tmp_path):
    half = convert(hf, tmp_path / "half", to, dtype)
    assert half.dtype == str(dtype).removeprefix("torch.")
    again = convert(half.folder, tmp_path / "again", "hf")
    assert again.dtype == half.dtype
    loaded = load_model(again.folder).state_dict()
    assert all(torch.equal(x.to(dtype).float(), loaded[name]) for name, x in model.state_dict().items())


def test_a_tied_model_in_metas_layout_has_its_output_matrix(tokenizer, tmp_path):
    model = random_model(config_for(tokenizer, tied=True))
    save_model(model, tmp_path / "tied")
    tokenizer.save(tmp_path / "tied")
    out = convert(tmp_path / "tied", tmp_path / "meta", "meta").folder
    weights = torch.load(out / "consolidated.00.pth", weights_only=True)
    assert torch.equal(weights["output.weight"], weights["tok_embeddings.weight"])
    assert load_model(out).config.tied


def test_a_vocabulary_that_meta_cannot_hold_comes_as_json(tmp_path):
    small = Tokenizer.train(TEXTS, 400, num_special=16)
    save_model(random_model(config_for(small)), tmp_path / "in")
    small.save(tmp_path / "in")
    made = convert(tmp_path / "in", tmp_path / "out", "meta")
    assert any("tokenizer.json is there instead" in note for note in made.notes)
    assert Tokenizer.load(made.folder).hash == small.hash
    assert load_model(made.folder).config == config_for(small)


def test_nothing_is_overwritten_and_nothing_half_is_left(hf, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("dear")
    with pytest.raises(ConfigError, match="L3-CNV-001"):
        convert(hf, tmp_path / "mine", "hf")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "dear"
    bad = shutil.copytree(hf, tmp_path / "bad")
    file = next(bad.glob("*.safetensors"))
    tensors = load_file(file)
    next(iter(tensors.values())).view(-1)[0] = float("nan")
    save_file(tensors, file)
    for to in ("hf", "meta"):
        with pytest.raises(CheckpointError, match="L3-CKP-010"):
            convert(bad, tmp_path / "out", to)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad", "mine"]
    (tmp_path / "empty").mkdir()
    assert convert(hf, tmp_path / "empty", "hf").folder.is_dir()


def test_heads_have_no_place_in_metas_layout(tokenizer, tmp_path):
    save_model(init_weights(Transformer(config_for(tokenizer), score_head=True), 0), tmp_path / "in")
    tokenizer.save(tmp_path / "in")
    with pytest.raises(CheckpointError, match=r"score_head\.weight"):
        convert(tmp_path / "in", tmp_path / "meta", "meta")
    assert load_model(convert(tmp_path / "in", tmp_path / "hf", "hf").folder).score_head is not None


# -- adopt -----------------------------------------------------------------------------------------


def adopted(path: Path, run: Path):
    options = AdoptOptions.of(Config.model_validate({"model": {"path": str(path)}}))
    with RunDir(run) as directory:
        return directory.execute(adopt, {}, options)


@pytest.mark.parametrize("layout", ["hf", "meta", "gguf"])
def test_adopted_models_are_checkpoints(layout, request, model, tokenizer, tmp_path):
    source = request.getfixturevalue({"gguf": "gguf_file"}.get(layout, layout))
    made = adopted(source, tmp_path / "run")
    assert torch.equal(logits_of(load_model(made.path), TOKENS), logits_of(load_model(source), TOKENS))
    assert Tokenizer.load(made.path).encode("the fox").tolist() == tokenizer.encode("the fox").tolist()
    facts = json.loads((made.path / "llama3.json").read_text())
    assert facts["layout"] == layout
    assert facts["license"] == {"hf": "apache-2.0", "meta": None, "gguf": "mit"}[layout]
    assert facts["blake3"] == content_hash(source)
    assert made.metrics["parameters"] == model.config.num_params()
    assert layout != "hf" or (made.path / "LICENSE").read_text() == LICENSE


def test_the_same_model_is_adopted_once_and_a_changed_one_anew(hf, tmp_path):
    run = tmp_path / "run"
    first = adopted(hf, run)
    elsewhere = shutil.copytree(hf, tmp_path / "elsewhere")
    assert adopted(elsewhere, run).hash == first.hash
    (elsewhere / "chat_template.jinja").write_text("{{ messages[1].content }}")
    changed = adopted(elsewhere, run)
    assert changed.hash != first.hash
    assert (changed.path / "chat_template.jinja").read_text() == "{{ messages[1].content }}"


def test_what_cannot_be_adopted_is_refused(hf, tokenizer, tmp_path):
    with pytest.raises(ConfigError, match="L3-ADO-001"):
        AdoptOptions.of(Config())
    small = shutil.copytree(hf, tmp_path / "small")
    Tokenizer.train(TEXTS, 700).save(small)
    with pytest.raises(CheckpointError, match="tokenizer has 700 tokens, the model only 600"):
        adopted(small, tmp_path / "run")
    none = shutil.copytree(hf, tmp_path / "none")
    (none / "tokenizer.json").unlink()
    with pytest.raises(DataError):
        adopted(none, tmp_path / "run")
    with pytest.raises(CheckpointError, match="L3-CKP-001"):
        adopted(tmp_path / "nowhere", tmp_path / "run")
    assert not list((tmp_path / "run" / "artifacts").iterdir())


def test_a_padded_embedding_is_fine(hf, tokenizer, tmp_path):
    model = random_model(config_for(tokenizer, vocab_size=tokenizer.vocab_size + 24))
    save_model(model, tmp_path / "padded")
    tokenizer.save(tmp_path / "padded")
    assert adopted(tmp_path / "padded", tmp_path / "run").metrics["vocab_size"] == 624


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"llama3.json": '{"license": "mit"}', "LICENSE": "Other"}, "mit"),
        ({"README.md": "---\nlicense: other\nlicense_name: llama3.1\n---\nText"}, "llama3.1"),
        (
            {"README.md": "no front matter", "LICENSE": "\n  LLAMA 3 COMMUNITY LICENSE\nMeta"},
            "LLAMA 3 COMMUNITY LICENSE",
        ),
        ({"README.md": "---\n[: \n---\n", "llama3.json": "{"}, None),
        ({}, None),
    ],
)
def test_the_license_is_found_where_it_is_stated(files, expected, tmp_path):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert license_of(tmp_path) == expected


# -- memory ----------------------------------------------------------------------------------------

PEAK = """
import pathlib, sys, gguf, torch
from llama3.checkpoints.load import load_model

def kib(key):
    return int(pathlib.Path("/proc/self/status").read_text().split(key)[1].split()[0])

tiny, path, dtype = sys.argv[1:]
load_model(tiny, dtype=getattr(torch, dtype))  # what this layout imports and keeps is paid for
pathlib.Path("/proc/self/clear_refs").write_text("5")
before = kib("VmRSS:")
model = load_model(path, dtype=getattr(torch, dtype))
print((kib("VmHWM:") - before) * 1024)
"""
BIG = ModelConfig(512, 6, 8, 2, 1536, 24_000)
"""39 M parameters; the largest tensor has 12 M."""
SMALL_THINGS = 4_000_000
"""Bytes of rows that are being dequantized, and the like."""
NO_GAPS = {"MALLOC_MMAP_THRESHOLD_": "65536"}
"""Has glibc give larger pieces back when they are freed: what is measured is held, not kept by the heap."""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak is read from Linux's /proc")
def test_peak_memory_is_the_model_and_one_tensor(tmp_path):
    for size, model in (("tiny", random_model()), ("big", init_weights(Transformer(BIG), 0))):
        (tmp_path / size).mkdir()
        save_model(model, tmp_path / size / "hf")
        write_meta(tmp_path / size / "meta", model, 2)
        write_gguf(tmp_path / size / "q8.gguf", model, {"": gguf.GGMLQuantizationType.Q8_0})
    largest = BIG.vocab_size * BIG.dim * 4
    for name, dtype in product(("hf", "meta", "q8.gguf"), (torch.float32, torch.bfloat16)):
        # Each in a process of its own, which has held nothing else.
        paths = [str(tmp_path / size / name) for size in ("tiny", "big")]
        arguments = [*paths, str(dtype).removeprefix("torch.")]
        command = [sys.executable, "-c", PEAK, *arguments]
        environment = {**os.environ, **NO_GAPS}
        done = subprocess.run(command, capture_output=True, text=True, timeout=200, env=environment)
        assert done.returncode == 0, done.stderr
        wanted = BIG.num_params() * dtype.itemsize
        assert wanted < int(done.stdout) < wanted + largest + SMALL_THINGS, (name, dtype)
