"""The greedy law of semantic deduplication, against a plain loop over all pairs of a cluster, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama3.quality import semantic
from llama3.quality.semantic import cluster, cosine, near_duplicates


def rows_of(seed: int, count: int, width: int, spread: float) -> np.ndarray:
    """Few directions with noise, so that cosines lie on both sides of any threshold; some rows are equal."""
    draw = np.random.default_rng(seed)
    centres = draw.standard_normal((max(1, count // 6), width))
    rows = centres[draw.integers(0, len(centres), count)] + spread * draw.standard_normal((count, width))
    rows[draw.integers(0, count, count // 8)] = rows[0]
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def by_definition(rows: np.ndarray, order: np.ndarray, clusters: np.ndarray, threshold: float):
    of, similarity = np.full(len(rows), -1), np.full(len(rows), np.nan)
    kept: list[int] = []
    for row in order.tolist():
        for other in kept:
            if clusters[other] == clusters[row] and (found := cosine(rows[row], rows[other])) >= threshold:
                of[row], similarity[row] = other, found
                break
        else:
            kept.append(row)
    return of, similarity


sets = st.builds(rows_of, st.integers(0, 10**6), st.integers(1, 90), st.integers(2, 24), st.floats(0.05, 1.0))


@given(sets, st.floats(0.05, 1.0), st.integers(1, 5), st.integers(0, 9), st.sampled_from([7, 32, 512]))
@settings(max_examples=60)
def test_it_is_the_greedy_rule_bit_for_bit(rows, threshold, clusters, seed, block):
    order = np.random.default_rng(seed).permutation(len(rows))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(semantic, "BLOCK", block)
        found = near_duplicates(rows, order, threshold, clusters=clusters, seed=seed)
    of, similarity = by_definition(rows, order, found.cluster_N, threshold)
    np.testing.assert_array_equal(found.of_N, of)
    np.testing.assert_array_equal(found.similarity_N, similarity)

    # The law itself: what is kept is apart, what went has a better kept neighbour, the best of a cluster stays.
    kept, rank = found.of_N < 0, np.argsort(order)
    for name in np.unique(found.cluster_N):
        members = order[found.cluster_N[order] == name]
        assert kept[members[0]]
        stay = members[kept[members]]
        assert all(cosine(rows[a], rows[b]) < threshold for n, a in enumerate(stay) for b in stay[:n])
    for row in np.flatnonzero(~kept):
        of = found.of_N[row]
        assert kept[of]
        assert rank[of] < rank[row]
        assert found.cluster_N[of] == found.cluster_N[row]
        assert cosine(rows[row], rows[of]) == found.similarity_N[row] >= threshold


@given(sets, st.floats(0.5, 1.0), st.integers(1, 4), st.randoms(use_true_random=False))
@settings(max_examples=25)
def test_only_the_stated_order_counts_not_that_of_the_rows(rows, threshold, clusters, random):
    order = np.random.default_rng(1).permutation(len(rows))
    found = near_duplicates(rows, order, threshold, clusters=clusters)
    moved = np.array(random.sample(range(len(rows)), len(rows)))  # row n stood at moved[n]
    back = np.argsort(moved)
    again = near_duplicates(rows[moved], back[order], threshold, clusters=clusters)
    np.testing.assert_array_equal(again.cluster_N, found.cluster_N[moved])
    np.testing.assert_array_equal(np.where(again.of_N < 0, -1, moved[again.of_N]), found.of_N[moved])


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_precision_of_products_changes_nothing(monkeypatch, precision):
    """Also of pairs that lie closer to the threshold than any product can tell."""
    monkeypatch.setattr(semantic, "chosen", lambda *_: precision)
    rows = rows_of(3, 1200, 64, 0.3)
    close = np.sort([cosine(rows[n], rows[n + 1]) for n in range(300)])
    threshold = float(close[np.searchsorted(close, 0.8)])  # exactly the cosine of a pair
    found = near_duplicates(rows, np.arange(len(rows)), threshold)
    of, similarity = by_definition(rows, np.arange(len(rows)), found.cluster_N, threshold)
    np.testing.assert_array_equal(found.of_N, of)
    np.testing.assert_array_equal(found.similarity_N, similarity)
    assert 100 < (of >= 0).sum() < 1100


def test_clusters_hold_what_is_alike_together():
    draw = np.random.default_rng(0)
    centres = np.linalg.qr(draw.standard_normal((32, 4)))[0].T
    label = draw.integers(0, 4, 400)
    rows = (centres[label] + 0.02 * draw.standard_normal((400, 32))).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    found = cluster(rows, 12, seed=0)
    assert all(len({*label[found == name].tolist()}) == 1 for name in np.unique(found)), "no cluster mixes directions"
    assert cluster(rows[:3], 50, seed=0).max() < 3
    assert (cluster(rows, 1, seed=0) == 0).all()


def test_a_row_of_zeros_is_similar_to_nothing():
    rows = np.zeros((3, 8), np.float32)
    rows[1, 0] = 1
    assert (near_duplicates(rows, np.arange(3), 0.5).of_N == -1).all()
