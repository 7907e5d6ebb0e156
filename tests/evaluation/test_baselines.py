"""Baselines and intervals against slow, obvious versions."""

import gzip
import math
from collections import Counter, defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama3.evaluation.baselines import ByteModel, gzip_bits_per_byte
from llama3.evaluation.intervals import wilson


def naive_bits_per_byte(train, held_out, order):
    """The definition: p_k(b | context) = (count + kinds * p_{k-1}) / (total + kinds), from the uniform up."""
    counts = [defaultdict(Counter) for _ in range(order + 1)]
    for document in train:
        for i, byte in enumerate(document):
            for k in range(min(order, i) + 1):
                counts[k][document[i - k : i]][byte] += 1
    bits, n = 0.0, 0
    for document in held_out:
        for i, byte in enumerate(document):
            p = 1 / 256
            for k in range(min(order, i) + 1):
                seen = counts[k].get(document[i - k : i])
                if seen:
                    p = (seen[byte] + len(seen) * p) / (seen.total() + len(seen))
            bits -= math.log2(p)
            n += 1
    return bits / n


documents = st.lists(st.binary(min_size=1, max_size=30).map(lambda b: bytes(x % 5 for x in b)), min_size=1, max_size=6)


@given(documents, documents, st.integers(0, 3))
def test_the_byte_model_is_witten_bell(train, held_out, order):
    assert ByteModel(train, order).bits_per_byte(held_out) == pytest.approx(naive_bits_per_byte(train, held_out, order))


def test_probabilities_sum_to_one_after_any_context():
    model = ByteModel([b"abracadabra", b"bar"])
    for context in (b"", b"a", b"br", b"abr", b"zzz"):
        whole = [model.bits_per_byte([context + bytes([b])]) * (len(context) + 1) for b in range(256)]
        rest = model.bits_per_byte([context]) * len(context) if context else 0.0
        assert sum(2 ** (rest - bits) for bits in whole) == pytest.approx(1)


def test_gzip_counts_bits():
    text = b"abc" * 1000
    assert gzip_bits_per_byte(text) == 8 * len(gzip.compress(text, 9)) / 3000


def test_wilson_matches_published_values():
    # Newcombe 1998, table I: 81/263 and 0/20.
    rate = wilson(81, 263)
    assert (round(rate.low, 4), round(rate.high, 4)) == (0.2553, 0.3662)
    assert (wilson(0, 20).low, round(wilson(0, 20).high, 4)) == (0.0, 0.1611)


def test_no_trials_know_nothing():
    rate = wilson(0, 0)
    assert (rate.low, rate.high, rate.n) == (0.0, 1.0, 0)
    assert math.isnan(rate.rate)


@given(st.integers(1, 500), st.data())
def test_the_interval_holds_the_rate(n, data):
    k = data.draw(st.integers(0, n))
    rate = wilson(k, n)
    assert 0 <= rate.low <= rate.rate + 1e-12
    assert rate.rate - 1e-12 <= rate.high <= 1
