"""Files of other kinds and damaged ones, decoding, streams, threads, forks and pickles."""

from __future__ import annotations

import base64
import concurrent.futures
import copy
import json
import multiprocessing
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama3.errors import DataError
from llama3.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def small():
    text = "Hello there, wie geht's? 你好世界 😀😀 naïve café. " * 5
    return Tokenizer.train([text], 300 + 16, 16)


# -- files ---------------------------------------------------------------------------------------


def edited(tokenizer, *path, value):
    """The tokenizer's JSON with one value replaced."""
    content = json.loads(tokenizer.to_json())
    node = content
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    return json.dumps(content)


WORDPIECE = {"type": "WordPiece", "vocab": {"a": 0}, "unk_token": "[UNK]"}
UNIGRAM = {"type": "Unigram", "vocab": [["<unk>", 0.0]], "unk_id": 0}
GPT2_SPLIT = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}


@pytest.mark.parametrize(
    ("path", "value", "name"),
    [
        (["model"], WORDPIECE, "WordPiece"),
        (["model"], UNIGRAM, "Unigram"),
        (["model", "byte_fallback"], True, "byte_fallback"),
        (["model", "dropout"], 0.1, "dropout"),
        (["model", "end_of_word_suffix"], "</w>", "affixes"),
        (["normalizer"], {"type": "NFKC"}, "NFKC"),
        (["normalizer"], {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Lowercase"}]}, "Lowercase"),
        (["pre_tokenizer"], {"type": "Metaspace"}, "Metaspace"),
        (["pre_tokenizer"], {"type": "Sequence", "pretokenizers": [GPT2_SPLIT, {"type": "Punctuation"}]}, "Sequence"),
        (["pre_tokenizer"], {"type": "Sequence", "pretokenizers": [{"type": "Whitespace"}, GPT2_SPLIT]}, "Whitespace"),
        (["pre_tokenizer"], {"type": "Sequence", "pretokenizers": []}, "Sequence"),
        (["pre_tokenizer"], None, "pre_tokenizer"),
        (["pre_tokenizer", "pretokenizers", 0, "pattern"], {"Regex": r"\w+"}, r"\\w+"),
        (["pre_tokenizer", "pretokenizers", 0, "pattern"], {"Regex": "(a"}, "does not compile"),
        (["pre_tokenizer", "pretokenizers", 0, "pattern"], {}, "Split"),
        (["pre_tokenizer", "pretokenizers", 0, "behavior"], "Removed", "Removed"),
        (["pre_tokenizer", "pretokenizers", 0, "behavior"], "MergedWithNext", "MergedWithNext"),
        (["pre_tokenizer", "pretokenizers", 1, "add_prefix_space"], True, "add_prefix_space"),
        (["decoder"], {"type": "WordPiece"}, "WordPiece"),
        (["added_tokens", 0, "single_word"], True, "begin_of_text"),
    ],
)
def test_another_kind_of_tokenizer_is_refused_by_name(small, tmp_path, path, value, name):
    file = tmp_path / "tokenizer.json"
    file.write_text(edited(small, *path, value=value))
    with pytest.raises(DataError) as caught:
        Tokenizer.load(file)
    problem = caught.value.problems[0]
    assert problem.code == "L3-TOK-002"
    assert name in problem.why
    assert problem.where == str(file)
    assert "byte-level BPE" in problem.fix


@pytest.mark.parametrize(
    ("path", "value", "what"),
    [
        (["model", "vocab", "H"], 1, "two tokens have the id 1"),
        (["model", "merges"], [["H", "zzzz"]], "zzzz"),
        (["model", "merges"], [["Q", "Q"]], "not in the vocabulary"),
        (["model", "merges"], ["Q"], "two parts"),
        (["added_tokens", 1, "id"], 300, "twice"),
        (["added_tokens", 1, "id"], 5, "normal token"),
    ],
)
def test_a_damaged_json_is_refused(small, tmp_path, path, value, what):
    file = tmp_path / "tokenizer.json"
    file.write_text(edited(small, *path, value=value))
    with pytest.raises(DataError, match=what) as caught:
        Tokenizer.load(file)
    assert caught.value.problems[0].code == "L3-TOK-001"


def lines(*tokens):
    return b"".join(base64.b64encode(token) + b" %d\n" % rank for rank, token in enumerate(tokens))


ALL_BYTES = [bytes([byte]) for byte in range(256)]


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "no token"),
        (b"\n\n", "no token"),
        (lines(*ALL_BYTES[:-1]), "0xFF"),
        (lines(*ALL_BYTES, b"a"), "same bytes"),
        (lines(*ALL_BYTES, b""), "should be"),
        (lines(*ALL_BYTES) + b"YWI= 300\n", "gap"),
        (lines(*ALL_BYTES) + b"YWI= 3\n", "repeat"),
        (lines(*ALL_BYTES) + b"YWI= 256", None),
        (lines(*ALL_BYTES) + b"YWI=\n", "line 257"),
        (lines(*ALL_BYTES) + b"Y*I= 256\n", "line 257: bad base64"),
        (lines(*ALL_BYTES) + b"YWI= -1\n", "line 257: bad rank"),
        (lines(*ALL_BYTES) + b"YWI= 99999999999999999999999\n", "bad rank"),
        (lines(*ALL_BYTES) + b"\xff\xfe 256\n", "line 257: is not text"),
        (lines(*ALL_BYTES, b"x" * 1025), "1025 bytes"),
        (b"\x0a\x0e\x0a\x05<unk>\x15\x00\x00\x00\x00\x18\x02", "SentencePiece"),
    ],
)
def test_model_files(tmp_path, data, what):
    file = tmp_path / "tokenizer.model"
    file.write_bytes(data)
    if what is None:
        assert Tokenizer.load(file, num_special=12).encode("ab").tolist() == [256]
        return
    with pytest.raises(DataError, match=what):
        Tokenizer.load(file)


@pytest.mark.parametrize("content", [b"{", b'{"a": 1}', b'{"model": 3}', b"{}" * 3, b'{"model":' + b"[" * 100_000])
def test_json_of_something_else(tmp_path, content):
    file = tmp_path / "tokenizer.json"
    file.write_bytes(content)
    with pytest.raises(DataError):
        Tokenizer.load(file)


def test_a_missing_file_or_an_empty_directory(tmp_path):
    for path in (tmp_path, tmp_path / "nothing.model"):
        with pytest.raises(DataError, match="L3-TOK-007"):
            Tokenizer.load(path)


def test_saving_and_loading(small, tmp_path):
    small.save(tmp_path / "new" / "folder")
    small.save(tmp_path / "t.json")
    small.save(tmp_path / "t.model")
    for path in (tmp_path / "new" / "folder", tmp_path / "new" / "folder" / "tokenizer.json", tmp_path / "t.json"):
        again = Tokenizer.load(path)
        assert again == small
        assert hash(again) == hash(small)
        assert again.to_json() == small.to_json()
    assert Tokenizer.load(tmp_path / "t.model", num_special=16) == small
    assert Tokenizer.load(tmp_path / "t.model", num_special=17) != small


def test_a_failed_save_keeps_the_old_file(small, tmp_path):
    swapped = json.loads(small.to_json())
    swapped["model"]["merges"][-2:] = swapped["model"]["merges"][-2:][::-1]
    listed = tmp_path / "listed.json"
    listed.write_text(json.dumps(swapped))
    target = tmp_path / "keep.model"
    small.save(target)
    before = target.read_bytes()
    with pytest.raises(DataError, match="list"):
        Tokenizer.load(listed).save(target)
    assert target.read_bytes() == before


def test_an_older_json_with_joined_merges_loads(small, tmp_path):
    content = json.loads(small.to_json())
    content["model"]["merges"] = [" ".join(pair) for pair in content["model"]["merges"]]
    file = tmp_path / "tokenizer.json"
    file.write_text(json.dumps(content))
    assert Tokenizer.load(file) == small


def test_other_names_at_the_same_offsets_are_understood(small, tmp_path):
    """Llama 3.0 files call the padding and end-of-message tokens reserved; ids are the contract."""
    content = json.loads(small.to_json())
    content["added_tokens"][4]["content"] = "<|reserved_special_token_2x|>"
    content["added_tokens"][8]["content"] = "<|reserved_special_token_4x|>"
    file = tmp_path / "tokenizer.json"
    file.write_text(json.dumps(content))
    tokenizer = Tokenizer.load(file)
    assert (tokenizer.pad_id, tokenizer.eom_id) == (small.pad_id, small.eom_id)
    content["added_tokens"] = []
    file.write_text(json.dumps(content))
    bare = Tokenizer.load(file)
    assert (bare.bos_id, bare.add_bos, bare.pad_id, bare.stop_ids) == (None, False, None, frozenset())
    assert not bare.is_llama3_chat
    with pytest.raises(DataError, match="start_header"):
        _ = bare.start_header_id
    with pytest.raises(DataError, match="eos_token"):
        bare.encode("x", eos=True)


# -- arguments -----------------------------------------------------------------------------------


def test_what_encode_accepts_and_returns(small):
    ids = small.encode("Hello there", bos=True, eos=True)
    assert isinstance(ids, np.ndarray)
    assert ids.dtype == np.uint32
    assert ids[0] == small.bos_id
    assert ids[-1] == small.eos_id
    assert ids[1:-1].tolist() == small.encode(b"Hello there").tolist()
    assert small.encode("").tolist() == []
    assert small.encode(b"\xff", bos=True, eos=True)[[0, -1]].tolist() == [small.bos_id, small.eos_id]
    rows, starts = small.encode_batch(["Hello", "", "there"], bos=True, eos=True)
    assert starts.dtype == np.uint64
    assert starts.tolist()[0] == 0
    assert rows[int(starts[1]) : int(starts[2])].tolist() == [small.bos_id, small.eos_id]
    empty, starts = small.encode_batch([])
    assert empty.tolist() == []
    assert starts.tolist() == [0]


def test_wrong_arguments(small):
    with pytest.raises(TypeError):
        small.encode_batch("one string")
    with pytest.raises(TypeError):
        small.encode(["a list"])
    with pytest.raises(DataError, match="L3-TOK-004"):
        small.encode("x", allowed_special={"<|nope|>"})
    with pytest.raises(ValueError, match="all"):
        small.encode("x", allowed_special="some")


# -- decoding ------------------------------------------------------------------------------------


@settings(max_examples=200)
@given(st.text(max_size=60))
def test_round_trip(small, text):
    ids = small.encode(text)
    assert small.decode(ids) == small.decode(ids.tolist()) == text
    assert small.decode_bytes(ids) == text.encode()


@settings(max_examples=200)
@given(st.lists(st.integers(0, 315), max_size=40))
def test_any_ids_decode_and_a_stream_gives_the_same_text(small, ids):
    stream = small.stream()
    parts = [stream.push(id) for id in ids]
    assert "".join(parts) + stream.flush() == small.decode(ids)
    assert small.decode(ids) == small.decode_bytes(ids).decode("utf-8", "replace")
    # The stream is empty again.
    assert stream.push(small.encode("H")[0]) == "H"


def test_a_stream_cut_anywhere_is_what_decode_gives(llama3):
    text = "naïve 😀👨‍👩‍👧 你好 Việt 𐐀\u0301 end"
    for ids in (llama3.encode(text).tolist(), [llama3.encode(bytes([byte]))[0] for byte in text.encode()]):
        for cut in range(len(ids) + 1):
            stream = llama3.stream()
            given_out = "".join(stream.push(id) for id in ids[:cut])
            assert text.startswith(given_out), "a stream never takes back what it gave"
            assert given_out + stream.flush() == llama3.decode(ids[:cut])


def test_ids_in_every_form(small):
    ids = small.encode("Hello there")
    forms = [ids, ids.tolist(), tuple(ids.tolist()), ids.astype(np.int64), ids[::-1][::-1], ids.reshape(1, -1)]
    assert {small.decode(form) for form in forms} == {"Hello there"}
    assert small.decode([]) == ""
    assert small.decode(int(ids[0])) == small.decode([ids[0]])


@pytest.mark.parametrize("ids", [[-1], [316], [2**32], [2**40, 1], np.array([2**63], np.uint64)])
def test_unknown_ids_are_refused(small, ids):
    with pytest.raises(DataError, match="L3-TOK-003"):
        small.decode(ids)
    stream = small.stream()
    with pytest.raises(DataError, match="L3-TOK-003"):
        stream.push(int(ids[0]))
    assert stream.push(int(small.encode("H")[0])) == "H"


def test_ids_must_be_whole_numbers(small):
    with pytest.raises(TypeError):
        small.decode([1.5])


def test_special_tokens_can_be_left_out(small):
    ids = small.encode("Hello<|eot_id|>", bos=True, allowed_special={"<|eot_id|>"})
    assert small.decode(ids) == "<|begin_of_text|>Hello<|eot_id|>"
    assert small.decode(ids, skip_special=True) == "Hello"


# -- threads, forks, pickles ---------------------------------------------------------------------


def test_threads_share_one_tokenizer(llama3, small, stdlib_texts):
    texts = [text[:50_000] for text in stdlib_texts[:8]]
    expected = [(llama3.encode(text).tolist(), small.encode(text).tolist()) for text in texts]

    def work(turn):
        text = texts[turn % 8]
        return llama3.encode(text).tolist(), small.encode(text).tolist()

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for turn, found in enumerate(pool.map(work, range(24))):
            assert found == expected[turn % 8]


def _encode_in_child(tokenizer, texts, answers):
    answers.put(tokenizer.encode_batch(texts)[0].tolist())


@pytest.mark.filterwarnings("ignore:This process")
def test_a_forked_child_encodes_in_parallel(llama3, stdlib_texts):
    texts = stdlib_texts[:30]
    expected = llama3.encode_batch(texts)[0].tolist()  # the parent's threads run by now
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    child = context.Process(target=_encode_in_child, args=(llama3, texts, answers))
    child.start()
    assert answers.get(timeout=60) == expected
    child.join(60)
    assert child.exitcode == 0


def test_pickle_and_copy(small):
    for again in (pickle.loads(pickle.dumps(small)), copy.deepcopy(small)):
        assert again == small
        assert again.to_json() == small.to_json()
