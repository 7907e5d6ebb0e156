"""Training: against Hugging Face's trainer, deterministic, with errors instead of a smaller vocabulary."""

from __future__ import annotations

import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama3 import _core
from llama3.errors import DataError
from llama3.tokenizer import Tokenizer
from llama3.tokenizer.special import SPECIAL_TOKENS


def hf_trained(texts, size, template):
    """The vocabulary that Hugging Face's trainer learns with the same split rule."""
    tokenizers = pytest.importorskip("tokenizers")
    theirs = tokenizers.Tokenizer(tokenizers.models.BPE())
    theirs.pre_tokenizer = tokenizers.Tokenizer.from_str(template.to_json().decode()).pre_tokenizer
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    theirs.train_from_iterator(texts, trainer)
    return theirs.get_vocab()


def vocabulary(tokenizer):
    """As Hugging Face writes it: text of visible characters -> id."""
    return json.loads(tokenizer.to_json())["model"]["vocab"]


def test_equal_to_hugging_faces_trainer(stdlib_texts):
    texts = [text[:30_000] for text in stdlib_texts[:60]]
    ours = Tokenizer.train(texts, 3000 + 16, 16)
    assert vocabulary(ours) == hf_trained(texts, 3000, ours)


@settings(max_examples=40)
@given(st.lists(st.text("ab c\n!é中", max_size=60), min_size=1, max_size=5))
def test_equal_to_hugging_faces_trainer_where_pairs_overlap(texts):
    # 40 distinct words, so that no text yields too few merges.
    texts = [*texts, " ".join(f"{a}{b}" for a in "abcdefgh" for b in "vwxyz")]
    ours = Tokenizer.train(texts, 270 + 12, 12)
    assert vocabulary(ours) == hf_trained(texts, 270, ours)


def test_the_first_ids_are_llama3s_bytes(llama3):
    trained = Tokenizer.train(["abcabc" * 3], 258 + 12, 12)
    first = range(256)
    assert [trained.decode_bytes([id]) for id in first] == [llama3.decode_bytes([id]) for id in first]


def test_order_portions_and_threads_change_nothing(stdlib_texts):
    texts = stdlib_texts[:50]
    shuffled = random.Random(7).sample(texts, len(texts))
    hashes = set()
    try:
        for threads in (1, 2, 3):
            _core.set_num_threads(threads)
            for order in (texts, shuffled, iter(texts)):
                hashes.add(Tokenizer.train(order, 1000, 256).hash)
    finally:
        _core.set_num_threads(0)
    assert len(hashes) == 1


def test_sizes_and_special_tokens():
    text = "the cat sat on the mat with the other cat " * 9
    tokenizer = Tokenizer.train([text], 256 + 10 + 16, 16)
    assert tokenizer.vocab_size == len(tokenizer) == 282
    assert tokenizer.special_tokens == {name: 266 + i for i, name in enumerate(SPECIAL_TOKENS[:16])}
    assert tokenizer.bos_id == 266
    assert tokenizer.eot_id == 275
    assert tokenizer.stop_ids == {267, 274, 275}
    assert len(tokenizer.encode(text)) < len(text)
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_learned_tokens_are_whole_pieces_of_the_split_rule(stdlib_texts):
    tokenizer = Tokenizer.train(stdlib_texts[:20], 2000, 16)
    for id in range(256, 2000 - 16):
        token = tokenizer.decode_bytes([id])
        assert tokenizer.encode(token).tolist() == [id]


@pytest.mark.parametrize("size", [0, 100, 271])
def test_a_size_under_the_bytes_is_refused(size):
    with pytest.raises(DataError, match="L3-TOK-006"):
        Tokenizer.train(["text"], size, 16)


@pytest.mark.parametrize("texts", [[], [""], ["aab"]])
def test_too_little_text_is_refused_with_what_it_yields(texts):
    with pytest.raises(DataError, match="tokens at most, 1000 were asked for") as caught:
        Tokenizer.train(texts, 1016, 16)
    assert "smaller vocabulary" in caught.value.problems[0].fix


def test_too_few_special_tokens_are_refused():
    for count in (0, 11, 257):
        with pytest.raises(DataError, match="special tokens"):
            Tokenizer.train(["text"], 1000, count)


def test_a_surrogate_in_the_text_is_replaced():
    tokenizer = Tokenizer.train(["\ud800\ud800 abab\ud800"] * 3, 259 + 12, 12)
    assert tokenizer.decode(tokenizer.encode("\ud800")) == "\ufffd"


def test_a_trainer_is_used_once():
    trainer = _core.BpeTrainer()
    trainer.feed(["abab"])
    trainer.finish(257)
    with pytest.raises(RuntimeError):
        trainer.feed(["abab"])
    with pytest.raises(RuntimeError):
        trainer.finish(257)
