"""A model's folder with one file that is not what it should be: each command that reads it says which, in words."""

from __future__ import annotations

import json
import shutil

import pytest
from model_files import random_model

from llama3.cli import main
from llama3.model.config import ModelConfig
from llama3.tokenizer import Tokenizer

TEMPLATE = "{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content }}<|eot_id|>{% endfor %}"
WHOLE = {
    "null": b"null",
    "list": b"[]",
    "text": b'"x"',
    "endless list": b"[" * 100_000,
    "deep": b'{"a": ' + b"[" * 900 + b"]" * 900 + b"}",
    "NaN": b'{"a": NaN',
    "long number": b'{"a": ' + b"9" * 5000 + b"}",
    "nothing": b"",
    "not UTF-8": b'{"a": "\xff"}',
    "UTF-16": '{"a": 1}'.encode("utf-16"),
}
"""Contents of a file that should hold a JSON object."""
READ_BY = {
    "config.json": "show",
    "model.safetensors": "show",
    "model.safetensors.index.json": "show",
    "tokenizer.json": "tokens",
    "tokenizer_config.json": "tokens",
    "special_tokens_map.json": "tokens",
    "added_tokens.json": "tokens",
    "generation_config.json": "tokens",
    "chat_template.jinja": "tokens",
    "chat_template.json": "tokens",
    "policy.json": "generate",
    "manifest.json": "show",
    "llama3.json": "show",
    "LICENSE": "show",
    "README.md": "show",
    "adapter/adapter_config.json": "merge",
    "adapter/adapter_model.safetensors": "merge",
    "adapter/llama3.json": "merge",
}


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    from llama3.checkpoints.adapter import base_hash, save_adapter
    from llama3.checkpoints.weights import save_model
    from llama3.config.schema import LoRASection
    from llama3.model.lora import adapter_tensors, add_lora

    folder = tmp_path_factory.mktemp("sound")
    tokenizer = Tokenizer.train([f"line {n}: the quick brown fox, {n * n} times" for n in range(100)], 300, 16)
    config = ModelConfig(32, 1, 2, 1, 48, tokenizer.vocab_size, max_seq_len=64)
    save_model(random_model(config), folder)
    tokenizer.save(folder)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    section = LoRASection(rank=2, targets=("q_proj",))
    adapted, base = add_lora(random_model(config), section, 0), base_hash(random_model(config))
    save_adapter(adapter_tensors(adapted), section, folder / "adapter", base)
    return folder


@pytest.fixture
def told(sound, tmp_path, capsys):
    """What a command says of the model with one file of another content, and its exit code."""

    def call(name, content, command=None):
        folder = tmp_path / "model"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(sound, folder)
        if name == "model.safetensors.index.json":
            (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
        if content is not None:
            (folder / name).write_bytes(content)
        command = command or READ_BY[name]
        more = {
            "tokens": ["--message", "hi"],
            "generate": ["hi", "--max-tokens", "2"],
            "merge": [str(folder / "adapter"), str(tmp_path / "merged")],
        }
        with pytest.raises(SystemExit) as done:
            main([command, str(folder), *more.get(command, [])])
        shutil.rmtree(tmp_path / "merged", ignore_errors=True)
        return done.value.code, capsys.readouterr().err

    return call


@pytest.mark.parametrize("name", READ_BY)
def test_a_file_of_another_content_is_a_problem_with_its_place(name, told):
    if "index" not in name:
        assert told(name, None)[0] == 0
    for what, content in WHOLE.items():
        code, err = told(name, content)
        problems = [line for line in err.splitlines() if line.startswith("error: ")]
        assert (code == 0) == (not problems), (what, code, err)
        assert code in (0, 1, 2), (what, code, err)
        assert "L3-CLI-00" not in err, (what, err)


HUGE, HALF = 10**400, "cut \ud83d"


@pytest.mark.parametrize(
    ("command", "name", "value", "code"),
    [
        ("show", "config.json", {"num_attention_heads": HUGE}, 1),
        ("show", "config.json", {"num_hidden_layers": 1 << 32}, 1),
        ("show", "config.json", {"num_attention_heads": (1 << 32) - 1}, 1),
        ("show", "config.json", {"architectures": [HALF]}, 1),
        ("generate", "config.json", {"max_position_embeddings": 1 << 30}, 3),
        ("generate", "config.json", {"max_position_embeddings": 1 << 32}, 1),
        ("tokens", "tokenizer_config.json", {"eos_token": HALF}, 1),
        ("tokens", "tokenizer_config.json", {"extra_special_tokens": [HALF]}, 1),
        ("tokens", "tokenizer_config.json", {"extra_special_tokens": {HALF: "x"}}, 1),
        ("tokens", "special_tokens_map.json", {"eos_token": {"content": HALF}}, 1),
        ("tokens", "added_tokens.json", {HALF: 299}, 1),
        ("tokens", "generation_config.json", {"eos_token_id": HUGE}, 1),
        ("generate", "policy.json", {"input": {"guard": HALF}}, 2),
        ("merge", "adapter/adapter_config.json", {"r": HUGE}, 1),
        ("merge", "adapter/adapter_config.json", {"target_modules": [HALF]}, 1),
        ("show", "model.safetensors.index.json", {"weight_map": {"model.norm.weight": HALF}}, 1),
    ],
)  # fmt: skip
def test_a_value_that_nothing_can_be_done_with_is_refused(command, name, value, code, told, sound):
    known = json.loads((sound / name).read_bytes()) if (sound / name).exists() else {}
    found, err = told(name, json.dumps(known | value).encode(), command)
    assert found == code, err
    assert "error: " in err
    assert "L3-CLI-00" not in err
