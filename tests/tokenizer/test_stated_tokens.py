"""Tokens, ends and vocabularies as other programs state them: the ids of transformers, or a refusal by name."""

from __future__ import annotations

import copy
import json

import pytest

import llama3
from llama3.checkpoints.weights import save_model
from llama3.errors import DataError
from llama3.model.build import init_weights
from llama3.model.config import ModelConfig
from llama3.model.transformer import Transformer
from llama3.tokenizer import Tokenizer, stop_ids

hf = pytest.importorskip("tokenizers")
transformers = pytest.importorskip("transformers")

TEXT = "line 5: <tool>fox<more> 25 times<|im_end|> and 7"


@pytest.fixture(scope="module")
def trained():
    return Tokenizer.train([f"line {n}: fox {n * n} times" for n in range(99)], 280, num_special=16)


@pytest.fixture
def folder(trained, tmp_path):
    trained.save(tmp_path / "m")
    return tmp_path / "m"


def edit(path, change):
    content = json.loads(path.read_text()) if path.exists() else {}
    changed = change(content)
    path.write_text(json.dumps(content if changed is None else changed))


def same(folder, text=TEXT):
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    ours = Tokenizer.load(folder)
    ids = theirs(text, add_special_tokens=False)["input_ids"]
    assert ours.encode(text, allowed_special="all").tolist() == ids
    assert ours.vocab_size == len(theirs)
    return ours


# -- further added tokens --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "config",
    [
        {"added_tokens_decoder": {"281": {"content": "<more>", "special": False}, "280": {"content": "<tool>"}}},
        {"added_tokens_decoder": {"280": {"content": "<tool>", "special": True, "lstrip": True, "rstrip": True}}},
        {"extra_special_tokens": ["<tool>", "<more>"]},
        {"additional_special_tokens": ["<tool>", {"content": "<more>", "rstrip": True, "__type": "AddedToken"}]},
    ],
    ids=str,
)
def test_tokens_that_only_the_config_lists(config, folder, tmp_path):
    edit(folder / "tokenizer_config.json", lambda content: content | config)
    ours = same(folder)
    assert "<tool>" in {**ours.special_tokens, **ours.added_tokens}
    ours.save(tmp_path / "saved")
    assert Tokenizer.load(tmp_path / "saved") == ours
    if "<tool>" in ours.special_tokens:
        assert ours.special_tokens["<tool>"] not in ours.encode(TEXT)


def test_tokens_of_added_tokens_json(folder):
    (folder / "added_tokens.json").write_text('{"<more>": 281, "<tool>": 280}')
    edit(folder / "tokenizer_config.json", lambda content: content | {"extra_special_tokens": ["<tool>"]})
    ours = same(folder)
    assert (set(ours.added_tokens), ours.special_tokens["<tool>"]) == ({"<more>"}, 280)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer_config.json", {"added_tokens_decoder": {"290": {"content": "<tool>"}}}),
        ("tokenizer_config.json", {"added_tokens_decoder": {"x": {"content": "<tool>"}}}),
        ("tokenizer_config.json", {"added_tokens_decoder": {"280": "<tool>"}}),
        ("tokenizer_config.json", {"added_tokens_decoder": []}),
        ("tokenizer_config.json", {"extra_special_tokens": [5]}),
        ("tokenizer_config.json", {"eos_token": 5}),
        ("tokenizer_config.json", {"pad_token": {"content": ["x"]}}),
        ("tokenizer_config.json", {"chat_template": 5}),
        ("tokenizer_config.json", {"model_max_length": "long"}),
        ("added_tokens.json", {"<tool>": "280"}),
        ("added_tokens.json", {"<tool>": 1 << 40}),
        ("special_tokens_map.json", {"eos_token": []}),
        ("generation_config.json", {"eos_token_id": "2"}),
        ("generation_config.json", {"eos_token_id": [2, None]}),
        ("config.json", {"eos_token_id": {"a": 1}}),
    ],
)
def test_a_value_of_another_kind_is_named_with_its_file(name, content, folder):
    edit(folder / name, lambda old: old | content)
    with pytest.raises(DataError, match=r"L3-TOK-001"):
        Tokenizer.load(folder)


@pytest.mark.parametrize("name", ["tokenizer_config.json", "special_tokens_map.json", "generation_config.json"])
def test_json_without_end_is_a_problem_of_the_file(name, folder):
    (folder / name).write_text("[" * 100_000)
    with pytest.raises(DataError, match=name):
        Tokenizer.load(folder)


# -- tokens named for a role -----------------------------------------------------------------------


def test_a_named_end_is_special_whatever_its_flag(folder):
    edit(folder / "tokenizer.json", lambda t: t["added_tokens"][1].update(content="<|im_end|>", special=False))
    (folder / "tokenizer_config.json").write_text('{"eos_token": "<|im_end|>"}')
    ours = same(folder)
    assert ours.eos_id == transformers.AutoTokenizer.from_pretrained(folder).eos_token_id
    assert ours.eos_id not in ours.encode("a<|im_end|>b")


@pytest.fixture
def other(folder):
    """Of another family: no token has a name of Llama 3's, whose roles would go first."""

    def rename(content):
        for number, token in enumerate(content["added_tokens"]):
            token["content"] = f"<extra_{number}>"
        content["post_processor"] = None

    edit(folder / "tokenizer.json", rename)
    return folder


@pytest.mark.parametrize("merged", [False, True])
def test_an_end_that_is_a_word_of_the_vocabulary(merged, other):
    """The text that spells it does not become it, whether or not merging would have made it."""
    content = json.loads((other / "tokenizer.json").read_text())
    vocab, merges = content["model"]["vocab"], content["model"]["merges"]
    name = "".join(merges[-1]) if merged else "</s>"
    if not merged:
        free = next(token for token, id in vocab.items() if id == max(vocab.values()))
        merges[:] = [pair for pair in merges if free not in (*pair, "".join(pair))]
        vocab[name] = vocab.pop(free)
    (other / "tokenizer.json").write_text(json.dumps(content))
    (other / "tokenizer_config.json").write_text(json.dumps({"eos_token": name}))
    ours = Tokenizer.load(other)
    theirs = transformers.AutoTokenizer.from_pretrained(other)
    assert ours.eos_id == theirs.eos_token_id
    assert ours.eos_id not in ours.encode(f"a{name}b {name}")
    text = f"line 5{name}7"
    assert ours.encode(text, allowed_special="all").tolist() == theirs(text, add_special_tokens=False)["input_ids"]


def test_a_pad_that_is_an_ordinary_word_stays_one(folder):
    edit(folder / "tokenizer_config.json", lambda content: content | {"pad_token": "!", "unk_token": "e"})
    assert "!" not in Tokenizer.load(folder).special_tokens
    assert same(folder, "a!b e").decode([0])


# -- ends of generation ----------------------------------------------------------------------------


def test_ends_are_those_of_the_folder_whatever_was_loaded_before(trained, tmp_path):
    asked = {}
    for name, ends in {"first": [265], "second": [265, 278, 279]}.items():
        trained.save(tmp_path / name)
        (tmp_path / name / "generation_config.json").write_text(json.dumps({"eos_token_id": ends}))
        asked[name] = Tokenizer.load(tmp_path / name)
    assert asked["first"] == asked["second"], "they give equal ids"
    assert stop_ids(asked["second"]) - stop_ids(asked["first"]) == {278, 279}
    assert not {278, 279} & stop_ids(asked["first"])


def test_what_a_template_is_given_is_of_its_own_tokenizer_too(other):
    """Two folders that differ in the padding token alone, which the template writes."""
    template = "{% for m in messages %}{{ pad_token }}{{ m.content }}{{ eos_token }}{% endfor %}"
    found = []
    for pad in ("<extra_3>", "<extra_4>"):
        config = {"eos_token": "<extra_1>", "pad_token": pad, "chat_template": template}
        (other / "tokenizer_config.json").write_text(json.dumps(config))
        tokenizer = Tokenizer.load(other)
        found.append(tokenizer.decode(llama3.tokenizer.render(tokenizer, [llama3.tokenizer.Message("user", "x")]).ids))
    assert found == ["<extra_3>x<extra_1>", "<extra_4>x<extra_1>"]


def test_what_a_model_answers_does_not_depend_on_the_model_before_it(trained, tmp_path):
    config = ModelConfig(32, 2, 2, 1, 64, trained.vocab_size, max_seq_len=256)

    def write(name, ends):
        save_model(init_weights(Transformer(config), 0), tmp_path / name)
        trained.save(tmp_path / name)
        (tmp_path / name / "generation_config.json").write_text(json.dumps({"eos_token_id": ends}))
        return llama3.load(tmp_path / name)

    ask = lambda model: model.generate(["line 5"], max_tokens=8, temperature=0.0)[0]
    assert ask(write("a", [265])) != ""
    assert ask(write("b", list(range(trained.vocab_size)))) == "", "every token ends it"


def test_ends_that_only_config_json_states(trained, tmp_path):
    config = ModelConfig(32, 1, 2, 1, 64, trained.vocab_size)
    save_model(init_weights(Transformer(config), 0), tmp_path, extra={"eos_token_id": [265, 270]})
    trained.save(tmp_path)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).generation_config.eos_token_id
    assert stop_ids(Tokenizer.load(tmp_path)) >= set(theirs) == {265, 270}
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": 271}')  # which then goes first
    assert 270 not in stop_ids(Tokenizer.load(tmp_path))
    assert 271 in stop_ids(Tokenizer.load(tmp_path))


# -- vocabularies ----------------------------------------------------------------------------------


@pytest.fixture
def bare(trained):
    content = json.loads(trained.to_json())
    return content | {"added_tokens": [], "post_processor": None}


def by_both(content, path, text="line 5: fox 25"):
    path.write_text(json.dumps(content))
    ours = Tokenizer.load(path)
    assert ours.encode(text, allowed_special="all").tolist() == hf.Tokenizer.from_file(str(path)).encode(text).ids
    ours.save(path)
    assert Tokenizer.load(path) == ours
    again = hf.Tokenizer.from_file(str(path))
    assert ours.encode(text, allowed_special="all").tolist() == again.encode(text).ids
    return ours


def test_a_header_line_among_the_merges(bare, tmp_path):
    bare["model"]["merges"] = ["#version: 0.2", *(" ".join(pair) for pair in bare["model"]["merges"])]
    by_both(bare, tmp_path / "tokenizer.json")


@pytest.mark.parametrize("hole", [1, 10, 1000])
def test_a_hole_in_the_ids(hole, bare, tmp_path):
    content = copy.deepcopy(bare)
    vocab = content["model"]["vocab"]
    vocab["Ġhole"] = max(vocab.values()) + 1 + hole
    ours = by_both(content, tmp_path / "tokenizer.json")
    assert ours.vocab_size == vocab["Ġhole"] + 1
    with pytest.raises(DataError, match="L3-TOK-003"):
        ours.decode([vocab["Ġhole"] - 1])


def test_an_id_beyond_bounds_and_one_given_twice_are_refused(bare, tmp_path):
    for id, code in ((1 << 31, "L3-TOK-006"), (5, "L3-TOK-001")):
        content = copy.deepcopy(bare)
        content["model"]["vocab"]["Ġhole"] = id
        (tmp_path / "tokenizer.json").write_text(json.dumps(content))
        with pytest.raises(DataError, match=code):
            Tokenizer.load(tmp_path)


def test_a_sentencepiece_model_is_named(tmp_path):
    piece = b"\n\x0e\n\x05<unk>\x15\x00\x00\x00\x00\x18\x02"
    (tmp_path / "tokenizer.model").write_bytes(piece + b"\n\x0c\n\x03<s>\x15\x00\x00\x00\x00\x18\x03")
    with pytest.raises(DataError, match=r"SentencePiece.*L3-TOK-002"):
        Tokenizer.load(tmp_path)


@pytest.mark.timeout(120)
def test_a_long_name_loads_in_proportion_to_its_length(folder):
    """With the square of it, this would take a quarter of an hour."""
    edit(folder / "tokenizer.json", lambda t: t["added_tokens"][-1].update(content="x" * 64_000))
    ours = Tokenizer.load(folder)
    text = "a" + "x" * 64_000 + "b"
    assert len(ours.encode(text, allowed_special="all")) == 3
    assert len(ours.encode(text)) > 3


# -- split rules -----------------------------------------------------------------------------------

RULES = [
    (r"\pL+", "the fox"), (r"\pN", "ab12"), (r"(?i:\p{Lu}+)", "the fox"), (r"\p{Word}+", "the½fox"),
    (r"\p{Graph}+", "a👩\u200d👩b"), (r"(?i:ss)", "straße"), (r"(?i:st|fi)", "ﬆ ﬁ"), (r"\p{L}{,}", "the fox"),
    (r"\p{L}{,2}", "the fox"), (r"\p{L}{2}?", "the fox"), (r"\p{L}{2}+", "theref"), (r"x(?i)t|H", "the Xt h"),
    (r"[a-z--o]+", "the fox"), (r"[a-z~~o]+", "the fox"), (r"[[:word:]]+", "the½"), (r"\h+", "cafe"),
    (r"(?m:.)+", "a\nb"), (r"[^\W]+", "the½"), (r"\<the", "<the"), (r"\bfox", "the fox½"), (r"\R", "a\r\nb"),
    (r"\p{L}+", "the fox"),
    (r"(?i:'s|'ll)|\p{L}+", "it's 'LL x'ſ"), (r"'(?i:[sdmt]|ll)", "it'S"),
    (r"\d{1,3}", "1234"),
    (r"[^\s\p{L}\p{N}]+", "a, b!?"), (r"\s+(?!\S)|\s+", "a   b"), (r"(?<=a)b|[\p{Han}]+", "ab 中文"),
    (r"[a[bx]]+", "fox ab"),
]  # fmt: skip
READ_DIFFERENTLY = 21
"""So many of the first."""


@pytest.mark.parametrize(("rule", "text"), RULES)
def test_a_split_rule_is_read_as_there_or_refused(rule, text, bare, tmp_path):
    to_bytes = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    split = {"type": "Split", "pattern": {"Regex": rule}, "behavior": "Isolated", "invert": False}
    bare["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [split, to_bytes]}
    theirs = hf.Tokenizer.from_str(json.dumps(bare))
    vocab = {token: id for token, id in bare["model"]["vocab"].items() if id < 256}
    for piece, _ in theirs.pre_tokenizer.pre_tokenize_str(text):
        vocab.setdefault(piece, len(vocab))
    bare["model"] |= {"vocab": vocab, "merges": [], "ignore_merges": True}
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(bare))
    if RULES.index((rule, text)) < READ_DIFFERENTLY:
        with pytest.raises(DataError, match="L3-TOK-002"):
            Tokenizer.load(path)
        return
    assert Tokenizer.load(path).encode(text).tolist() == hf.Tokenizer.from_file(str(path)).encode(text).ids
