"""Control tokens, templates and ends of generation from the files beside a tokenizer.json, and back to files."""

from __future__ import annotations

import json
import pickle

import pytest

from llama3.errors import DataError
from llama3.tokenizer import CHAT_TEMPLATE, Tokenizer

TEMPLATE = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
CONFIG = {
    "bos_token": "<|im_start|>",
    "eos_token": {"__type": "AddedToken", "content": "<|im_end|>"},
    "pad_token": "<pad>",
}


@pytest.fixture(scope="module")
def trained():
    return Tokenizer.train(["Hello there, wie geht's? 你好世界 😀😀 naïve café. " * 5], 300 + 16, 16)


@pytest.fixture
def chatml(trained, tmp_path):
    """A directory of another family: no token has a name of Llama 3's."""
    content = json.loads(trained.to_json())
    names = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *(f"<extra_{number}>" for number in range(13))]
    for token, name in zip(content["added_tokens"], names, strict=True):
        token["content"] = name
    content["post_processor"] = None
    folder = tmp_path / "chatml"
    folder.mkdir()
    (folder / "tokenizer.json").write_text(json.dumps(content))
    (folder / "tokenizer_config.json").write_text(json.dumps(CONFIG))
    return folder


def test_what_the_files_state(chatml):
    (chatml / "chat_template.jinja").write_text(TEMPLATE)
    (chatml / "generation_config.json").write_text(json.dumps({"eos_token_id": [302, 300], "bos_token_id": 301}))
    tokenizer = Tokenizer.load(chatml)
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (301, 302, None)
    assert tokenizer.stop_ids == {302, 300}
    assert tokenizer.chat_template == TEMPLATE
    assert not tokenizer.is_llama3_chat
    with pytest.raises(DataError, match="start_header"):
        _ = tokenizer.start_header_id


def begin_with(folder, name):
    """Gives the tokenizer.json a template that puts the token first."""
    content = json.loads((folder / "tokenizer.json").read_text())
    bos, text = {"SpecialToken": {"id": name, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}
    known = {name: {"id": name, "ids": [301], "tokens": [name]}}
    template = {"type": "TemplateProcessing", "single": [bos, text], "pair": [bos, text], "special_tokens": known}
    content["post_processor"] = {"type": "Sequence", "processors": [template]}
    (folder / "tokenizer.json").write_text(json.dumps(content))


@pytest.mark.parametrize("add", [False, True])
def test_bos_is_put_first_only_where_the_family_does(chatml, add):
    if add:
        begin_with(chatml, "<|im_start|>")
    tokenizer = Tokenizer.load(chatml)
    assert tokenizer.add_bos is add
    plain = tokenizer.encode("Hello").tolist()
    first = [301] if add else []
    assert tokenizer.encode("Hello", bos=True).tolist() == first + plain
    assert tokenizer.encode(b"\xff", bos=True, eos=True).tolist() == [*first, *tokenizer.encode(b"\xff"), 302]
    assert tokenizer.encode_batch(["Hello"], bos=True)[0].tolist() == first + plain
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoTokenizer.from_pretrained(chatml, trust_remote_code=False)
    assert theirs("Hello")["input_ids"] == first + plain


@pytest.mark.parametrize("add", [False, True])
def test_all_of_it_is_kept_by_saving_and_pickling(chatml, tmp_path, add):
    (chatml / "chat_template.jinja").write_text(TEMPLATE)
    (chatml / "generation_config.json").write_text('{"eos_token_id": 300}')
    if add:
        begin_with(chatml, "<|im_start|>")
    tokenizer = Tokenizer.load(chatml)
    saved = tmp_path / "saved"
    saved.mkdir()
    (saved / "chat_template.jinja").write_text("of another model")
    tokenizer.save(saved)
    for again in (Tokenizer.load(saved), pickle.loads(pickle.dumps(tokenizer))):
        assert again == tokenizer
        assert (again.bos_id, again.eos_id, again.add_bos) == (301, 302, add)
        assert again.stop_ids == {302, 300}
        assert again.chat_template == TEMPLATE
        assert again.to_json() == tokenizer.to_json()
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoTokenizer.from_pretrained(saved, trust_remote_code=False)
    messages = [{"role": "user", "content": "Hello"}]
    assert theirs.apply_chat_template(messages, tokenize=False) == "<|im_start|>user\nHello<|im_end|>\n"
    assert theirs("Hello there")["input_ids"] == tokenizer.encode("Hello there", bos=True).tolist()
    assert (theirs.bos_token_id, theirs.eos_token_id) == (301, 302)


def test_the_hash_tells_control_tokens_apart(chatml):
    plain = Tokenizer.load(chatml)
    (chatml / "tokenizer_config.json").write_text(json.dumps({**CONFIG, "eos_token": "<|endoftext|>"}))
    assert Tokenizer.load(chatml) != plain
    (chatml / "tokenizer_config.json").write_text(json.dumps(CONFIG))
    assert Tokenizer.load(chatml) == plain
    begin_with(chatml, "<|im_start|>")
    assert Tokenizer.load(chatml) != plain


def test_the_template_named_default_is_taken(chatml):
    named = [{"name": "tools", "template": "t"}, {"name": "default", "template": "d"}]
    (chatml / "tokenizer_config.json").write_text(json.dumps({**CONFIG, "chat_template": named}))
    assert Tokenizer.load(chatml).chat_template == "d"
    (chatml / "chat_template.jinja").write_text(TEMPLATE)
    assert Tokenizer.load(chatml).chat_template == TEMPLATE


def test_llama_3_keeps_its_own_roles(trained, tmp_path):
    trained.save(tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    config |= {"eos_token": "<|eot_id|>", "chat_template": "another"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    again = Tokenizer.load(tmp_path)
    assert again.is_llama3_chat
    assert again == trained
    assert (again.bos_id, again.eos_id, again.add_bos) == (trained.bos_id, trained.eos_id, True)
    assert again.stop_ids == trained.stop_ids
    assert again.chat_template == "another"
    assert trained.chat_template == CHAT_TEMPLATE


@pytest.mark.parametrize(
    ("name", "content", "code", "what"),
    [
        ("tokenizer_config.json", b"{", "L3-TOK-001", "not JSON"),
        ("tokenizer_config.json", b"[]", "L3-TOK-001", "object"),
        ("tokenizer_config.json", b'{"eos_token": "<nope>"}', "L3-TOK-001", "<nope>"),
        ("generation_config.json", b'{"eos_token_id": [2, 99999]}', "L3-TOK-001", "99999"),
        ("generation_config.json", b"\xff", "L3-TOK-001", "not JSON"),
        ("chat_template.jinja", b"\xff", "L3-TOK-007", "cannot be read"),
    ],
)
def test_damaged_files_are_refused(chatml, name, content, code, what):
    (chatml / name).write_bytes(content)
    with pytest.raises(DataError, match=what) as caught:
        Tokenizer.load(chatml)
    assert caught.value.problems[0].code == code
