"""Semantic deduplication (paper 4.2.3): inside clusters of embeddings, best dialog first, one is kept only where its
similarity to all kept before it in its cluster is below a threshold.

Whether two dialogs are that similar is decided in double precision by one formula (`cosine`). Products of matrices, in
whichever precision this machine multiplies faster in, only find the pairs that may be: their error has a bound, and no
pair within it of the threshold is left out. So precision, blocks, threads and libraries change nothing, and a plain
loop over all pairs of a cluster finds the same, bit for bit.

Legend: N dialogs, D width of an embedding, K clusters, B rows of a block.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from llama3.model.precision import DTYPES, chosen

CLUSTER = 1 << 17
"""Dialogs for each of which there is a cluster: a set of up to so many is one, of which all pairs are compared."""
ROUNDS = 10
"""Of k-means."""
PER_CENTROID = 256
"""Dialogs for each centroid that k-means learns from, at most."""
BLOCK = 512

Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class NearDuplicates:
    """What was found of N dialogs, in their order."""

    of_N: npt.NDArray[np.int64]
    """The dialog that one is too similar to: the best of its cluster that is kept; -1: the dialog is kept."""
    similarity_N: npt.NDArray[np.float64]
    """The cosine of both; NaN: the dialog is kept."""
    cluster_N: npt.NDArray[np.int64]


def near_duplicates(
    embeddings_ND: Float32,
    order_N: npt.NDArray[np.int64],
    threshold: float,
    *,
    clusters: int | None = None,
    seed: int = 0,
    device: str = "cpu",
) -> NearDuplicates:
    """Dialogs that are near duplicates of better ones.

    Args:
        embeddings_ND: rows of length 1.
        order_N: places of the dialogs, best first. Nothing depends on the order of the rows beside it.
        threshold: similarity from which a dialog goes.
        clusters: of k-means (default: one for each `CLUSTER` dialogs).
    """
    ranked_ND = np.ascontiguousarray(embeddings_ND[order_N], dtype=np.float32)
    cluster_N = cluster(ranked_ND, clusters or -(-len(ranked_ND) // CLUSTER) or 1, seed)
    of_N = np.full(len(ranked_ND), -1)
    similarity_N = np.full(len(ranked_ND), np.nan)
    for places in _members(cluster_N):
        for row, kept, similarity in _greedy(ranked_ND[places], threshold, torch.device(device)):
            of_N[places[row]] = order_N[places[kept]]
            similarity_N[places[row]] = similarity
    back = np.empty(len(order_N), np.int64)
    back[order_N] = np.arange(len(order_N))
    return NearDuplicates(of_N[back], similarity_N[back], cluster_N[back])


def cosine(a_D: Float32, b_D: Float32) -> float:
    """The similarity of two embeddings of length 1, in double precision."""
    return float((a_D.astype(np.float64) * b_D.astype(np.float64)).sum())


def cluster(rows_ND: Float32, clusters: int, seed: int) -> npt.NDArray[np.int64]:
    """The cluster of each row, int64 [N]: spherical k-means (Dhillon and Modha 2001) from rows that are drawn."""
    clusters = min(clusters, len(rows_ND))
    if clusters <= 1:
        return np.zeros(len(rows_ND), np.int64)
    rng = np.random.default_rng(seed)
    drawn = rng.permutation(len(rows_ND))
    all_ND = torch.from_numpy(rows_ND)
    sample_SD = all_ND[torch.from_numpy(np.sort(drawn[: PER_CENTROID * clusters]))]
    centroids_KD = all_ND[torch.from_numpy(drawn[:clusters])].clone()
    for _ in range(ROUNDS):
        nearest_S = _nearest(sample_SD, centroids_KD)
        sums_KD = torch.zeros_like(centroids_KD, dtype=torch.float64)
        sums_KD.index_add_(0, nearest_S, sample_SD.double())
        filled_K = torch.bincount(nearest_S, minlength=clusters) > 0
        centroids_KD[filled_K] = torch.nn.functional.normalize(sums_KD[filled_K], dim=1).float()
    found: npt.NDArray[np.int64] = _nearest(all_ND, centroids_KD).numpy()
    return found


def _nearest(rows_ND: Tensor, centroids_KD: Tensor) -> Tensor:
    return torch.cat([(part_BD @ centroids_KD.T).argmax(1) for part_BD in rows_ND.split(1 << 14)])


def _members(cluster_N: npt.NDArray[np.int64]) -> Iterator[npt.NDArray[np.int64]]:
    """The places of each cluster's rows, in order."""
    places = np.argsort(cluster_N, kind="stable")
    return (part for part in np.split(places, np.flatnonzero(np.diff(cluster_N[places])) + 1) if len(part))


def _greedy(rows_ND: Float32, threshold: float, device: torch.device) -> Iterator[tuple[int, int, float]]:
    """Of one cluster, best first: each row that goes, the first kept row that it is too similar to, and how similar."""
    dtype = DTYPES[chosen("auto", "training", device)]
    rows = torch.from_numpy(rows_ND).to(device, dtype)
    maybe = threshold - 2 * torch.finfo(dtype).eps - rows_ND.shape[1] * 2.0**-22
    later_BB = torch.ones(BLOCK, BLOCK, dtype=torch.bool, device=device).triu()
    kept_ND, kept, count = torch.empty_like(rows), np.empty(len(rows), np.int64), 0
    for start in range(0, len(rows), BLOCK):
        block_BD = rows[start : start + BLOCK]
        size = len(block_BD)
        own_BB = (block_BD @ block_BD.T).masked_fill_(later_BB[:size, :size], -np.inf)
        # What is kept of earlier blocks, then this block: in the order of rank.
        maybe_BC = torch.cat([block_BD @ kept_ND[:count].T, own_BB], 1) >= maybe
        candidates = np.concatenate([kept[:count], np.arange(start, start + size)])
        is_kept = np.ones(size, bool)
        doubtful = maybe_BC.any(1).nonzero().flatten()
        for row, hits in zip(doubtful.tolist(), maybe_BC[doubtful].cpu().numpy(), strict=True):
            for other in candidates[hits].tolist():
                if other >= start and not is_kept[other - start]:
                    continue
                similarity = cosine(rows_ND[start + row], rows_ND[other])
                if similarity >= threshold:
                    is_kept[row] = False
                    yield start + row, other, similarity
                    break
        new = torch.from_numpy(np.flatnonzero(is_kept))
        kept[count : count + len(new)] = start + new.numpy()
        kept_ND[count : count + len(new)] = block_BD[new.to(device)]
        count += len(new)
