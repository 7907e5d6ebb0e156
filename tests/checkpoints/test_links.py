"""A model's folder comes from elsewhere: links that lead out of it, devices and pipes are no files of it."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil

import pytest
from model_files import CONFIG, random_model

from llama3.checkpoints.adopt import content_hash
from llama3.checkpoints.convert import convert
from llama3.checkpoints.describe import describe
from llama3.checkpoints.weights import save_model
from llama3.errors import LlamaError
from llama3.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    folder = tmp_path_factory.mktemp("released")
    tokenizer = Tokenizer.train([f"line {n}: the quick brown fox, {n * n} times" for n in range(100)], 300, 16)
    save_model(random_model(dataclasses.replace(CONFIG, vocab_size=tokenizer.vocab_size)), folder)
    tokenizer.save(folder)
    (folder / "generation_config.json").write_text('{"eos_token_id": 285}')
    (folder / "chat_template.jinja").write_text("{{ messages[0].content }}")
    (folder / "special_tokens_map.json").write_text("{}")
    (folder / "LICENSE").write_text("Llama 3 licence\n")
    return folder


@pytest.fixture
def copy(released, tmp_path):
    return shutil.copytree(released, tmp_path / "copy")


@pytest.fixture
def secret(tmp_path):
    (tmp_path / "secret").write_text('{"eos_token_id": 285, "s3cret": "s3cret"}')
    return tmp_path / "secret"


@pytest.mark.parametrize("name", ["LICENSE", "NOTICE", "README.md"])
def test_a_license_elsewhere_is_not_shown_nor_copied(name, copy, secret, tmp_path):
    (copy / name).unlink(missing_ok=True)
    (copy / name).symlink_to(secret)
    assert "s3cret" not in json.dumps(describe(copy), default=str)
    out = convert(copy, tmp_path / "out", "hf").folder
    assert not any("s3cret" in path.read_text("latin-1") for path in out.iterdir() if path.is_file())


@pytest.mark.parametrize(
    "name", ["config.json", "generation_config.json", "tokenizer_config.json", "special_tokens_map.json",
             "chat_template.jinja", "tokenizer.json", "model.safetensors"],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["link", "device", "pipe", "nowhere"])
def test_a_file_that_is_none_of_the_folders_is_refused(name, kind, copy, secret, tmp_path):
    whole = (copy / name).read_bytes()
    (copy / name).unlink()
    if kind == "link":
        (tmp_path / "elsewhere").write_bytes(whole)
        (copy / name).symlink_to(tmp_path / "elsewhere")
    elif kind == "pipe":
        os.mkfifo(copy / name)
    else:
        (copy / name).symlink_to("/dev/zero" if kind == "device" else "nowhere")
    with pytest.raises(LlamaError) as caught:
        convert(copy, tmp_path / "out", "hf")
    assert not (tmp_path / "out").exists()
    assert caught.value.problems[0].code.startswith("L3-")


def test_links_within_the_folder_and_those_of_a_cache_are_fine(released, tmp_path):
    cache = tmp_path / "models--a--b"
    (cache / "blobs").mkdir(parents=True)
    snapshot = cache / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    for number, path in enumerate(sorted(released.iterdir())):
        if path.is_file():
            shutil.copyfile(path, cache / "blobs" / str(number))
            (snapshot / path.name).symlink_to(f"../../blobs/{number}")
    (snapshot / "NOTICE").symlink_to("LICENSE")
    out = convert(snapshot, tmp_path / "out", "hf").folder
    assert (out / "NOTICE").read_text() == "Llama 3 licence\n"
    (tmp_path / "link").symlink_to(snapshot)  # a link that the user names is the user's
    assert convert(tmp_path / "link", tmp_path / "again", "hf").dtype == "float32"


@pytest.mark.parametrize("name", ["other.safetensors", "notes.json", "further.jinja"])
@pytest.mark.parametrize("kind", ["nowhere", "/dev/zero", "pipe"])
def test_what_is_adopted_is_hashed_without_waiting_for_a_device(kind, name, copy):
    if kind == "pipe":
        os.mkfifo(copy / name)
    else:
        (copy / name).symlink_to(kind)
    with pytest.raises(LlamaError, match="L3-CNV-005"):
        content_hash(copy)
    assert describe(copy)["weights"]["bytes"] == (copy / "model.safetensors").stat().st_size


def test_further_templates_are_a_part_of_what_is_adopted(copy):
    before = content_hash(copy)
    (copy / "additional_chat_templates").mkdir()
    (copy / "additional_chat_templates" / "tool_use.jinja").write_text("{{ tools }}")
    assert content_hash(copy) != before
