"""Equal to the reference, id for id, on the real Llama 3 vocabulary: tiktoken with Meta's split rule, Meta's own
class for its cuts, Hugging Face's tokenizers for the saved file.
"""

from __future__ import annotations

import random
import sys
import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama3.tokenizer import Message, Tokenizer, render

UNREACHABLE = 588  # tokens of the real vocabulary that no sequence of merges makes


@pytest.fixture(scope="module")
def same(llama3, reference):
    def check(text):
        assert llama3.encode(text).tolist() == reference.encode_ordinary(text), repr(text[:200])

    return check


def merge_only(reference_ranks, token):
    """Ids of a token's bytes by merges alone, without looking the whole up first."""
    parts = [token[i : i + 1] for i in range(len(token))]
    while True:
        ranked = [
            (reference_ranks[parts[i] + parts[i + 1]], i)
            for i in range(len(parts) - 1)
            if parts[i] + parts[i + 1] in reference_ranks
        ]
        if not ranked:
            return parts
        _, i = min(ranked)
        parts[i : i + 2] = [parts[i] + parts[i + 1]]


def test_the_588_tokens_that_no_merge_reaches(llama3, reference):
    ranks = reference._mergeable_ranks
    unreachable = [token for token in ranks if len(merge_only(ranks, token)) > 1]
    assert len(unreachable) == UNREACHABLE
    assert min(ranks[token] for token in unreachable) >= 100_256
    for token in unreachable:
        text = token.decode("utf-8")
        assert llama3.encode(text).tolist() == [ranks[token]], text
        # Inside longer pieces they must not appear whole.
        for longer in (text + "a", "x" + text.strip(), text + text.strip(), text + "中"):
            assert llama3.encode(longer).tolist() == reference.encode_ordinary(longer), longer


def test_every_token_alone(llama3, reference):
    for id in range(128_000):
        token = reference.decode_single_token_bytes(id)
        assert llama3.encode(token).tolist() == reference._encode_bytes(token), id
        assert llama3.decode_bytes([id]) == token


def test_the_standard_library(llama3, reference, stdlib_texts, same):
    for text in stdlib_texts:
        same(text)
    ids, starts = llama3.encode_batch(stdlib_texts)
    assert ids.tolist() == [id for text in stdlib_texts for id in reference.encode_ordinary(text)]
    assert np.diff(starts.astype(np.int64)).tolist() == [llama3.count(text) for text in stdlib_texts]
    whole = "".join(stdlib_texts)
    assert llama3.encode(whole).tolist() == reference.encode_ordinary(whole)


def test_unicode_edges(same, edge_text):
    for seed in range(20_000):
        same(edge_text(seed))


def test_random_code_points(same):
    rng = random.Random(1)
    for _ in range(4000):
        codes = (rng.choice((0x80, 0x800, 0x3000, 0x10000, sys.maxunicode + 1)) for _ in range(20))
        text = "".join(map(chr, (rng.randrange(code) for code in codes)))
        same(text.encode("utf-8", "replace").decode("utf-8"))


def test_two_tokens_after_a_letter(same, reference):
    rng = random.Random(2)
    for _ in range(10_000):
        token = b"x" + b"".join(reference.decode_single_token_bytes(rng.randrange(128_000)) for _ in range(2))
        same(token.decode("utf-8", "replace"))


def test_runs(same):
    rng = random.Random(3)
    for char in [*"a A0 \n\r\t.='^_-#/*中한é😀\u0301\xa0\u3000", "ab", " a", "\n ", "'s", "\r\n"]:
        for length in [1, 2, 3, 4, 7, 8, 15, 16, 17, 31, 48, 49, 64, 100, 127, 128, 129, 1000, rng.randrange(3000)]:
            run = char * length
            for text in (run, run + "x", "x" + run, run + "1", run + " "):
                same(text)


def test_every_code_point_between_letters(same):
    """All of Unicode, so that a difference between the two libraries' character classes shows here."""
    for start in range(0, sys.maxunicode + 1, 512):
        chars = [chr(code) for code in range(start, start + 512) if unicodedata.category(chr(code)) != "Cs"]
        same("".join(f"a{char}b {char}1{char}{char}\n" for char in chars))


@settings(max_examples=300)
@given(st.text(max_size=60))
def test_any_text(same, text):
    same(text)


@settings(max_examples=300)
@given(
    st.binary(max_size=24)
    | st.builds(lambda text, tail: text.encode() + tail, st.text(max_size=20), st.binary(max_size=6))
)
def test_bytes_that_are_no_utf8(llama3, reference, data):
    ids = llama3.encode(data)
    assert ids.tolist() == reference._encode_bytes(data)
    assert llama3.decode_bytes(ids) == data


@pytest.mark.parametrize("blank", [b" ", b"\n", b"\t", b" \n", b"\n \n", b"   \n\n ", b"a\n\n", b"a ", b"\r\n "])
@pytest.mark.parametrize("tail", [b"\xf0\x9f", b"\xff", b"\xe4\xb8 x", b"\xc3"])
def test_blank_runs_before_bytes_that_are_no_utf8(llama3, reference, blank, tail):
    for data in (blank + tail, b"ab" + blank * 3 + tail, blank * 9 + tail + blank):
        assert llama3.encode(data).tolist() == reference._encode_bytes(data), data


def test_special_tokens_where_they_are_allowed(llama3, reference):
    names = list(llama3.special_tokens)
    rng = random.Random(4)
    for _ in range(500):
        text = "".join(rng.choice([*names, "a", " b", "<|", "|>", "\n", "<|eot_id"]) for _ in range(12))
        allowed = set(rng.sample(names, rng.randrange(30)))
        expected = reference.encode(text, allowed_special=allowed, disallowed_special=())
        assert llama3.encode(text, allowed_special=allowed).tolist() == expected
        everything = reference.encode(text, allowed_special="all")
        assert llama3.encode(text, allowed_special="all").tolist() == everything
        assert llama3.decode(everything) == text
        assert llama3.encode(text).tolist() == reference.encode_ordinary(text)


def test_lone_surrogates_are_replaced(llama3, reference):
    for text in ("\ud800", "a\udfffb", "\ud83d\ude00", "x \ud800\ud800 y"):
        assert llama3.encode(text).tolist() == reference.encode_ordinary(text)
        assert llama3.encode_batch(["é", text])[0].tolist() == reference.encode_ordinary(
            "é"
        ) + reference.encode_ordinary(text)
        assert llama3.count(text) == len(reference.encode_ordinary(text))


@pytest.fixture(scope="module")
def meta(llama3_model):
    module = pytest.importorskip("llama_models.llama3.tokenizer")
    return module.Tokenizer(llama3_model)


def test_metas_cuts_of_long_text(llama3, meta):
    rng = random.Random(5)
    words = ["the ", "of\n", "中", "word", " ", "\n\n", "1234", "\x1c"]
    long_text = "".join(rng.choice(words) for _ in range(180_000))
    assert len(long_text) > 400_000
    texts = [long_text, "", "ab " * 10, "ab" * 12_500 + "c", "ab" * 12_500, " " * 25_001, "é" * 60_000 + "\n" * 30_000]
    texts += ["x" * 399_990 + " " * 20 + "y" * 30_000, "\x1c \u3000" * 9000]
    differs = 0
    for text in texts:
        expected = meta.encode(text, bos=False, eos=False)
        assert llama3.encode(text, meta_compat=True).tolist() == expected
        assert llama3.count(text, meta_compat=True) == len(expected)
        differs += llama3.encode(text).tolist() != expected
    assert differs, "some text must tell the two modes apart"
    every_blank = "".join(chr(code) * 2 for code in range(0x3001) if not 0xD800 <= code < 0xE000)
    runs = "".join(char * 25_001 for char in "\x1c\x1f\x85\xa0\u180e\u200b\u2028")
    for text in (every_blank, runs):
        assert llama3.encode(text, meta_compat=True).tolist() == meta.encode(text, bos=False, eos=False)
    assert llama3.encode("a", bos=True, eos=True).tolist() == meta.encode("a", bos=True, eos=True)


def test_ids_of_the_control_tokens(llama3, meta):
    assert llama3.vocab_size == meta.n_words == 128_256
    assert llama3.special_tokens == meta.special_tokens
    assert (llama3.bos_id, llama3.eos_id, llama3.pad_id) == (meta.bos_id, meta.eos_id, meta.pad_id)
    assert (llama3.eot_id, llama3.eom_id) == (meta.eot_id, meta.eom_id)
    assert llama3.stop_ids == set(meta.stop_tokens)


def test_the_chat_format_is_metas(llama3, meta):
    header = meta.special_tokens["<|start_header_id|>"], meta.special_tokens["<|end_header_id|>"]
    dialog = [Message("system", "You are\n\nbrief."), Message("user", "<|eot_id|> 'S?"), Message("ipython", "{}")]
    expected = [meta.bos_id]
    for role, content in [*((message.role, message.content) for message in dialog), ("assistant", None)]:
        expected += [header[0], *meta.encode(role, bos=False, eos=False), header[1]]
        expected += meta.encode("\n\n", bos=False, eos=False)
        if content is not None:
            expected += [*meta.encode(content, bos=False, eos=False), meta.eot_id]
    assert render(llama3, dialog, generation_prompt=True).ids.tolist() == expected


@pytest.fixture(scope="module")
def saved(llama3, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    llama3.save(folder)
    return folder


def test_the_saved_json_gives_the_same_ids_in_tokenizers(llama3, saved, stdlib_texts, edge_text):
    tokenizers = pytest.importorskip("tokenizers")
    theirs = tokenizers.Tokenizer.from_file(str(saved / "tokenizer.json"))
    texts = [text[:20_000] for text in stdlib_texts[:40]] + [edge_text(seed) for seed in range(3000)]
    for text, encoding in zip(texts, theirs.encode_batch(texts, add_special_tokens=False), strict=True):
        assert llama3.encode(text).tolist() == encoding.ids, repr(text[:100])
        assert theirs.decode(encoding.ids) == text
    assert theirs.encode("a b").ids == llama3.encode("a b", bos=True).tolist()
    assert theirs.encode("a<|eot_id|>").ids[1:] == llama3.encode("a<|eot_id|>", allowed_special="all").tolist()
    assert theirs.get_vocab_size() == llama3.vocab_size


def test_both_formats_come_back_byte_for_byte(llama3, llama3_model, saved, tmp_path):
    llama3.save(tmp_path / "copy.model")
    assert (tmp_path / "copy.model").read_bytes() == llama3_model.read_bytes()
    again = Tokenizer.load(saved)
    assert again == llama3
    again.save(tmp_path / "tokenizer.json")
    assert (tmp_path / "tokenizer.json").read_bytes() == (saved / "tokenizer.json").read_bytes()
    again.save(tmp_path / "again.model")
    assert (tmp_path / "again.model").read_bytes() == llama3_model.read_bytes()
