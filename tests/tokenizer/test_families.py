"""Tokenizers of other families, id for id equal to Hugging Face's `tokenizers` reading the same file."""

from __future__ import annotations

import importlib.util
import json
import sys
import sysconfig
from pathlib import Path

import pytest
from edges import EDGES, PATTERN
from hypothesis import given, settings
from hypothesis import strategies as st

from llama3.errors import DataError
from llama3.tokenizer import Tokenizer

hf = pytest.importorskip("tokenizers")

QWEN2 = PATTERN.replace(r"\p{N}{1,3}", r"\p{N}")
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
# Rules that no hand-written splitter knows: o200k_base's and DeepSeek 3's.
O200K = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
DEEPSEEK = (
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+"
)
CJK = "[一-龥぀-ゟ゠-ヿ]+"


def split(pattern, behavior="Isolated", invert=False):
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": behavior, "invert": invert}


def to_bytes(use_regex=False):
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}


def digits(individual):
    return {"type": "Digits", "individual_digits": individual}


def sequence(*parts):
    return {"type": "Sequence", "pretokenizers": list(parts)}


FAMILIES = {
    "gpt2": to_bytes(True),
    "llama3": sequence(split(PATTERN), to_bytes()),
    "qwen2": sequence(split(QWEN2), to_bytes()),
    "smollm": sequence(digits(True), to_bytes(True)),
    "digit runs": sequence(digits(False), to_bytes(True)),
    "digits, llama3": sequence(digits(True), split(PATTERN), to_bytes()),
    "qwen2, gpt2": sequence(split(QWEN2), to_bytes(True)),
    "gpt2 by pattern": sequence(split(GPT2, "Removed", True), to_bytes()),
    "o200k": sequence(split(O200K), to_bytes()),
    "deepseek": sequence(split(r"\p{N}{1,3}"), split(CJK), split(DEEPSEEK), to_bytes()),
    "nested, a literal": sequence(
        sequence({**split(""), "pattern": {"String": "e."}}, digits(True)), sequence(to_bytes(True))
    ),
    "bytes only": sequence(to_bytes()),
}


def stdlib(step):
    """Sources of this Python, one file in `step`."""
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).rglob("*.py"))
    for path in [path for path in files if "site-packages" not in path.parts][::step]:
        try:
            yield path.read_text("utf-8")
        except UnicodeDecodeError:
            continue


@pytest.fixture(scope="module")
def corpus():
    mixed = "".join(EDGES) * 3 + "naïve café Größe 日本語の文章 中文字符 한국어 текст नमस्ते ١٢٣ 12345 e.g. i.e.\r\n\n"
    return [*list(stdlib(60))[:12], mixed]


def trained(corpus, pre_tokenizer, *, ignore_merges=False, nfc=False, added=(), all_bytes=True, size=1200):
    """The JSON of a tokenizer that Hugging Face's own trainer makes."""
    frame = json.loads(hf.Tokenizer(hf.models.BPE()).to_str())
    frame["pre_tokenizer"] = pre_tokenizer
    frame["decoder"] = to_bytes(True)
    frame["normalizer"] = {"type": "NFC"} if nfc else None
    tokenizer = hf.Tokenizer.from_str(json.dumps(frame))
    alphabet = hf.pre_tokenizers.ByteLevel.alphabet() if all_bytes else []
    trainer = hf.trainers.BpeTrainer(
        vocab_size=size, initial_alphabet=alphabet, special_tokens=["<|end|>", "<|start|>"], show_progress=False
    )
    texts = [text[:6000] for text in corpus]
    tokenizer.train_from_iterator(
        texts if all_bytes else [text.encode("ascii", "ignore").decode() for text in texts], trainer
    )
    tokenizer.add_tokens([hf.AddedToken(**token) for token in added])
    content = json.loads(tokenizer.to_str())
    content["model"]["ignore_merges"] = ignore_merges
    return json.dumps(content, ensure_ascii=False)


@pytest.fixture(scope="module", params=[(name, merges) for name in FAMILIES for merges in (False, True)], ids=str)
def pair(request, corpus, tmp_path_factory):
    """Ours and theirs from one file."""
    name, ignore_merges = request.param
    return load_both(trained(corpus, FAMILIES[name], ignore_merges=ignore_merges), tmp_path_factory.mktemp("family"))


def load_both(content, folder):
    file = folder / "tokenizer.json"
    file.write_text(content, encoding="utf-8")
    theirs = hf.Tokenizer.from_str(content)
    return Tokenizer.load(file), theirs


def same(ours, theirs, text):
    """Equal ids where special tokens are found and where they are text."""
    theirs.encode_special_tokens = False
    assert ours.encode(text, allowed_special="all").tolist() == theirs.encode(text, add_special_tokens=False).ids, text
    if not any(name in text for name in ours.special_tokens):
        assert ours.encode(text).tolist() == ours.encode(text, allowed_special="all").tolist(), text


def test_edges_and_a_slice_of_the_standard_library(pair, corpus, edge_text):
    ours, theirs = pair
    for text in corpus:
        same(ours, theirs, text[:40_000])
    for seed in range(1500):
        same(ours, theirs, edge_text(seed))
    text = "".join(edge_text(seed, 60) for seed in range(40)) + "<|end|>x <|start|><|end|>"
    same(ours, theirs, text)
    assert ours.decode(ours.encode(text)) == text


def test_saved_and_loaded_it_is_the_same_tokenizer(pair, tmp_path, edge_text):
    ours, theirs = pair
    ours.save(tmp_path)
    again = Tokenizer.load(tmp_path)
    assert again == ours
    assert again.to_json() == ours.to_json()
    by_them = hf.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert by_them.get_vocab() == theirs.get_vocab()
    for seed in range(300):
        same(ours, by_them, edge_text(seed))


@settings(max_examples=60)
@given(st.one_of(st.text(max_size=60), st.lists(st.sampled_from(EDGES), max_size=40).map("".join)))
def test_fuzz(pair, text):
    ours, theirs = pair
    text = text.encode("utf-8", "ignore").decode()
    same(ours, theirs, text)
    assert ours.decode(ours.encode(text)) == text


def test_the_hash_tells_rules_apart(corpus, tmp_path):
    base = json.loads(trained(corpus, FAMILIES["gpt2"]))
    hashes = {}
    for name, rule in FAMILIES.items():
        for ignore_merges in (False, True):
            content = {**base, "pre_tokenizer": rule, "model": {**base["model"], "ignore_merges": ignore_merges}}
            hashes[name, ignore_merges] = load_both(json.dumps(content), tmp_path)[0].hash
    gpt2 = {hashes.pop(("gpt2 by pattern", merges)) for merges in (False, True)}
    assert gpt2 == {hashes["gpt2", merges] for merges in (False, True)}, "one rule in two spellings"
    assert len(set(hashes.values())) == len(hashes)


# -- what else a file may state ------------------------------------------------------------------

WORDS = [
    {"content": "<think>", "special": False, "normalized": False},
    {"content": "<l>", "special": False, "normalized": False, "lstrip": True},
    {"content": "<r>", "special": True, "normalized": False, "rstrip": True},
    {"content": "<lr>", "special": True, "normalized": True, "lstrip": True, "rstrip": True},
    {"content": "  ", "special": False, "normalized": True},
    {"content": "Cafe\u0301", "special": False, "normalized": True},
    {"content": "<thinking>", "special": False, "normalized": True},
]
PARTS = [*EDGES, *(word["content"] for word in WORDS), "Café", "<|end|>", "e\u0301", "\u0344", "가", "\u1100\u1161"]


@pytest.fixture(scope="module", params=[False, True], ids=["as it is", "NFC"])
def with_words(request, corpus, tmp_path_factory):
    content = trained(corpus, FAMILIES["smollm"], nfc=request.param, added=WORDS)
    return load_both(content, tmp_path_factory.mktemp("words"))


@settings(max_examples=400)
@given(st.lists(st.sampled_from(PARTS), max_size=16).map("".join))
def test_added_tokens_and_normalization(with_words, text):
    same(*with_words, text)


def test_added_tokens_are_kept(with_words, tmp_path):
    ours, theirs = with_words
    ours.save(tmp_path)
    assert Tokenizer.load(tmp_path) == ours
    again = hf.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert again.get_added_tokens_decoder() == theirs.get_added_tokens_decoder()
    assert set(ours.added_tokens) == {word["content"] for word in WORDS if not word["special"]}
    assert ours.vocab_size == theirs.get_vocab_size() == len(ours)
    ids = ours.encode("<think>x<r>", allowed_special="all")
    assert ours.decode(ids, skip_special=True) == "<think>x"


def test_bytes_that_a_vocabulary_lacks_are_left_out_as_there(corpus, tmp_path, edge_text):
    content = trained(corpus, FAMILIES["smollm"], all_bytes=False)
    ours, theirs = load_both(content, tmp_path)
    assert ours.encode("é").tolist() == []
    for seed in range(2000):
        same(ours, theirs, edge_text(seed))
    named = json.loads(content)
    named["model"]["unk_token"] = "<|end|>"
    (tmp_path / "tokenizer.json").write_text(json.dumps(named))
    with pytest.raises(DataError, match=r"unk_token.*\[L3-TOK-002\]"):
        Tokenizer.load(tmp_path)


def test_a_pair_that_is_listed_twice_has_its_last_place(corpus, tmp_path, edge_text):
    content = json.loads(trained(corpus, FAMILIES["gpt2"]))
    merges = content["model"]["merges"]
    merges += merges[5:200:3]
    ours, theirs = load_both(json.dumps(content), tmp_path)
    for text in [*corpus[:3], *map(edge_text, range(500))]:
        same(ours, theirs, text[:20_000])


@pytest.mark.parametrize(
    ("id", "name", "special", "what"),
    [
        (1200, "<new>", True, None),
        (1201, "<new>", True, "its place gives it 1200"),
        (5, "the", False, "of a normal token"),
        (0, "<|end|>", True, "twice"),
    ],
)
def test_added_ids_are_those_that_the_reader_gives(corpus, tmp_path, id, name, special, what):
    content = json.loads(trained(corpus, FAMILIES["gpt2"]))
    entry = {**content["added_tokens"][0], "id": id, "content": name, "special": special}
    content["added_tokens"].append(entry)
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    if what is None:
        assert Tokenizer.load(tmp_path).special_tokens["<new>"] == 1200
        return
    with pytest.raises(DataError, match=what):
        Tokenizer.load(tmp_path)


def test_text_cannot_become_a_control_token_by_merging(corpus, tmp_path):
    content = json.loads(trained(corpus, FAMILIES["gpt2"]))
    id = content["model"]["vocab"]["in"]
    entry = {**content["added_tokens"][0], "id": id, "content": "in"}
    content["added_tokens"].append(entry)
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match='"in" has the id'):
        Tokenizer.load(tmp_path)
    entry["special"] = False  # as a mere word it may be both
    ours, theirs = load_both(json.dumps(content), tmp_path)
    same(ours, theirs, "in the inn within")


def test_a_model_file_cannot_hold_another_rule(corpus, tmp_path):
    content = json.loads(Tokenizer.train(["a b c ab abc abcd"], 260 + 16, 16).to_json())
    for change in ({"pre_tokenizer": FAMILIES["gpt2"]}, {"normalizer": {"type": "NFC"}}):
        (tmp_path / "tokenizer.json").write_text(json.dumps({**content, **change}))
        with pytest.raises(DataError, match=r"cannot hold that.*\[L3-TOK-002\]"):
            Tokenizer.load(tmp_path).save(tmp_path / "x.model")
    (tmp_path / "tokenizer.json").write_text(trained(corpus, FAMILIES["llama3"], ignore_merges=True))
    with pytest.raises(DataError, match="cannot hold that"):
        Tokenizer.load(tmp_path).save(tmp_path / "x.model")
    assert not (tmp_path / "x.model").exists()


@pytest.mark.parametrize("family", ["gpt2", "smollm", "o200k", "deepseek", "bytes only"])
@pytest.mark.parametrize("run", ["a", " ", "\n", "1", "^", "é", "中", " a", "\u0301"])
def test_long_runs(corpus, tmp_path, family, run):
    ours, theirs = load_both(trained(corpus, FAMILIES[family]), tmp_path)
    for text in (run * 3000, run * 3000 + "x", "x" + run * 3000 + " "):
        same(ours, theirs, text)


@pytest.mark.parametrize("data", ["aaaa" * 2000, b"aaaa" * 2000 + b"\xff"])
def test_a_pattern_that_gives_up_is_named(corpus, tmp_path, data):
    rule = sequence(split("(a|aa)+\\1b"), to_bytes())
    (tmp_path / "tokenizer.json").write_text(trained(corpus, FAMILIES["gpt2"]))
    content = json.loads((tmp_path / "tokenizer.json").read_text())
    (tmp_path / "tokenizer.json").write_text(json.dumps({**content, "pre_tokenizer": rule}))
    with pytest.raises(DataError, match=r"gave up on a text of 8000 bytes.*\[L3-TOK-006\]"):
        Tokenizer.load(tmp_path).encode(data)


# -- much text -----------------------------------------------------------------------------------


def same_batch(ours, theirs, texts):
    ids, starts = ours.encode_batch(texts)
    for number, encoding in enumerate(theirs.encode_batch(texts, add_special_tokens=False)):
        assert ids[int(starts[number]) : int(starts[number + 1])].tolist() == encoding.ids, texts[number][:100]


def catalogues(length=None):
    """Django's message catalogues: the same texts in about a hundred languages, `length` characters of each."""
    spec = importlib.util.find_spec("django")
    if spec is None or spec.origin is None:
        pytest.skip("no multilingual text (package django)")
    files = sorted(Path(spec.origin).parent.glob("conf/locale/*/LC_MESSAGES/django.po"))
    assert len(files) > 80
    return [path.read_text("utf-8")[:length] for path in files]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_hundred_languages(corpus, tmp_path, family):
    same_batch(*load_both(trained(corpus, FAMILIES[family]), tmp_path), catalogues(3000))


@pytest.mark.slow
@pytest.mark.parametrize("family", ["gpt2", "smollm", "qwen2", "deepseek"])
def test_all_of_the_standard_library_and_the_catalogues(corpus, tmp_path, family):
    ours, theirs = load_both(trained(corpus, FAMILIES[family]), tmp_path)
    texts = [*stdlib(1), *catalogues()]
    same_batch(ours, theirs, [text for text in texts if "<|" not in text])


@pytest.mark.slow
@pytest.mark.parametrize("family", ["gpt2", "smollm", "llama3", "o200k", "deepseek"])
def test_every_code_point_is_cut_as_there(corpus, tmp_path, family):
    ours, theirs = load_both(trained(corpus, FAMILIES[family]), tmp_path)
    for first in range(0, sys.maxunicode + 1, 1 << 15):
        scalars = [chr(code) for code in range(first, first + (1 << 15)) if not 0xD800 <= code < 0xE000]
        same_batch(ours, theirs, [f"a{c}a1{c}1 {c} !{c}!" for c in scalars])
