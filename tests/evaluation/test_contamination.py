"""The n-gram index against the definition."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from llama3.evaluation.contamination import NgramIndex, contaminated_share

ids = st.lists(st.integers(0, 3), max_size=30)


def naive_coverage(rows, tokens, n):
    grams = {tuple(row[i : i + n]) for row in rows for i in range(len(row) - n + 1)}
    covered = {i + k for i in range(len(tokens) - n + 1) if tuple(tokens[i : i + n]) in grams for k in range(n)}
    return len(covered) / len(tokens) if len(tokens) >= n else 0.0


@given(st.lists(ids, max_size=4), ids, st.integers(1, 5))
def test_coverage_is_the_share_of_tokens_in_a_known_ngram(rows, tokens, n):
    index = NgramIndex([np.array(row, np.uint32) for row in rows], n)
    assert index.coverage(np.array(tokens, np.uint32)) == naive_coverage(rows, tokens, n)


def test_a_planted_leak_is_found():
    rng = np.random.default_rng(0)
    text = rng.integers(0, 4096, 5000).astype(np.uint32)
    leaked, fresh = text[100:140], rng.integers(0, 4096, 40).astype(np.uint32)
    figures = contaminated_share(NgramIndex([text]), [leaked, fresh, fresh[:5]])
    assert (figures["n"], figures["contaminated"], figures["too_short"]) == (3, 1, 1)
    assert figures["max_coverage"] == 1.0
