"""Semantic deduplication after embedding, beside FAISS (all pairs) and SemHash (an approximate index).

The set has planted topics and near duplicates: cosines from 0.90 to 0.999 to what they were made of. On a part of it a
plain loop over all pairs is compared bit for bit before anything is timed. Peers are timed on a smaller set, in seconds
of CPU of one thread; the whole set is timed with all threads, in one cluster (all pairs) and in several, whose recall
is told. `--encoder FOLDER` also tells the recall of clusters on real texts: docstrings of the standard library.

Peers, where `--packages` (folders by colon) or the environment has them: faiss-cpu, semhash.
"""

from __future__ import annotations

import argparse
import ast
import importlib.util
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import common
import numpy as np
import numpy.typing as npt
import torch

from llama3.quality.embedding import EncoderEmbedder
from llama3.quality.semantic import cosine, near_duplicates

WIDTH, TOPICS, DUPLICATES, THRESHOLD = 384, 2000, 0.2, 0.95
CHECKED = 3000
CLUSTERS = (64, 316)
REAL = 5000
Removed = npt.NDArray[np.bool_]
Rows = npt.NDArray[np.float32]


def planted(count: int) -> Rows:
    """Rows of length 1: topics of very different sizes, and a fifth that are near another one."""
    draw = np.random.default_rng(0)
    originals = count - round(count * DUPLICATES)
    weights = draw.zipf(1.3, TOPICS).clip(max=50).astype(float)
    topics = draw.choice(TOPICS, originals, p=weights / weights.sum())
    rows = unit(draw.standard_normal((TOPICS, WIDTH))[topics] * 0.8 + draw.standard_normal((originals, WIDTH)))
    sources = draw.integers(0, originals, count - originals)
    away = draw.uniform(0.05, 0.48, (count - originals, 1)) * unit(draw.standard_normal((count - originals, WIDTH)))
    found = np.concatenate([rows, unit(rows[sources] + away)])[draw.permutation(count)]
    return unit(found).astype(np.float32)


def unit(rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def ours(rows: Rows, clusters: int | None = None) -> Removed:
    return near_duplicates(rows, np.arange(len(rows)), THRESHOLD, clusters=clusters).of_N >= 0


def by_faiss(rows: Rows) -> Removed:
    """All pairs at or above the threshold, then the greedy rule over them."""
    import faiss

    index = faiss.IndexFlatIP(rows.shape[1])
    index.add(rows)
    ends, _, near = index.range_search(rows, np.nextafter(np.float32(THRESHOLD), np.float32(0)))
    return greedy(len(rows), ends, near)


def greedy(count: int, ends: npt.NDArray[Any], near: npt.NDArray[Any]) -> Removed:
    removed = np.zeros(count, bool)
    for row in range(count):
        others = near[ends[row] : ends[row + 1]]
        earlier = others[others < row]
        removed[row] = len(earlier) > 0 and not removed[earlier].all()
    return removed


def by_semhash(rows: Rows) -> Removed:
    """Its default index; of a group of duplicates it keeps the first."""
    from semhash import SemHash

    records = [str(n) for n in range(len(rows))]
    found = SemHash.from_embeddings(rows, records, model=None).self_deduplicate(THRESHOLD)
    kept = np.zeros(len(rows), bool)
    kept[[int(record) for record in found.selected]] = True
    return ~kept


def brute_force(rows: Rows) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """The definition, pair by pair."""
    kept: list[int] = []
    of, similarity = np.full(len(rows), -1), np.full(len(rows), np.nan)
    for row in range(len(rows)):
        for other in kept:
            if (found := cosine(rows[row], rows[other])) >= THRESHOLD:
                of[row], similarity[row] = other, found
                break
        else:
            kept.append(row)
    return of, similarity


def docstrings() -> list[str]:
    """Of the functions and classes of the standard library, with the name as a question."""
    texts = {}
    for text in common.stdlib_texts(200_000_000):
        try:
            tree = ast.parse(text)
        except (SyntaxError, ValueError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and (said := ast.get_docstring(node)):
                texts[f"What does {node.name} do?\n\n{said[:1000]}"] = None
    return [*texts]


def agreement(removed: Removed, expected: Removed) -> dict[str, float]:
    """Recall and precision of what is removed."""
    return {
        "removed": int(removed.sum()),
        "recall": float(removed[expected].mean()),
        "precision": float(expected[removed].mean()),
    }


def of_clusters(rows: Rows) -> dict[str, dict[str, float]]:
    """By number of clusters: seconds of the clock and of the CPU, and what is removed of that which goes over all
    pairs."""
    found: dict[str, dict[str, float]] = {}
    expected: Removed | None = None
    for clusters in (1, *CLUSTERS):
        start, worked = time.perf_counter(), time.process_time()
        removed = ours(rows, clusters)
        took = {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - worked}
        expected = removed if expected is None else expected
        found[str(clusters)] = took | agreement(removed, expected)
    return found


def real(encoder: str) -> dict[str, Any]:
    """Recall of clusters on real texts."""
    texts = docstrings()[:REAL]
    start = time.perf_counter()
    rows = EncoderEmbedder(encoder).embed(texts)
    seconds = time.perf_counter() - start
    return {
        "texts": len(texts),
        "embedding_s": seconds,
        "sha256": common.corpus_hash(texts),
        "clusters": of_clusters(rows),
    }


def versions() -> dict[str, str]:
    """Of what is compared."""
    there = [
        name for name, module in (("faiss-cpu", "faiss"), ("semhash", "semhash")) if importlib.util.find_spec(module)
    ]
    return common.versions("numpy", "torch", *there)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--dialogs", type=int, default=100_000)
    parser.add_argument("--beside", type=int, default=10_000, help="dialogs on which peers are timed too")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--packages", default="")
    parser.add_argument("--encoder", default="")
    arguments = parser.parse_args()
    sys.path += filter(None, arguments.packages.split(":"))

    candidates: dict[str, Callable[[Rows], Removed]] = {
        "llama3, all pairs": ours,
        "llama3, 316 clusters": lambda rows: ours(rows, 316),
    }
    peers = {"faiss": ("faiss, all pairs", by_faiss), "semhash": ("semhash", by_semhash)}
    candidates |= {name: find for module, (name, find) in peers.items() if importlib.util.find_spec(module)}

    part = planted(CHECKED)
    found, (of, similarity) = near_duplicates(part, np.arange(CHECKED), THRESHOLD), brute_force(part)
    if not (np.array_equal(found.of_N, of) and np.array_equal(found.similarity_N, similarity, equal_nan=True)):
        sys.exit("not timed: a plain loop over all pairs finds others")
    if "faiss, all pairs" in candidates and not np.array_equal(by_faiss(part), of >= 0):
        sys.exit("not timed: FAISS finds others over all pairs")

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    if "faiss, all pairs" in candidates:
        importlib.import_module("faiss").omp_set_num_threads(1)
    rows = planted(arguments.beside)
    removed: dict[str, Removed] = {}
    timings = common.interleaved(
        {name: lambda name=name: removed.update({name: candidates[name](rows)}) for name in candidates},  # type: ignore[misc]
        rounds=arguments.rounds,
        warmup=0,
        clock=time.process_time,
    )
    checks = {name: agreement(found, removed["llama3, all pairs"]) for name, found in removed.items()}
    base = timings["llama3, all pairs"].median
    table: list[Mapping[str, object]] = [
        {
            "candidate": name,
            "CPU seconds": timing.median,
            "llama3 is faster by": timing.median / base,
            "spread": timing.spread,
            **checks[name],
        }
        for name, timing in timings.items()
    ]
    print(f"{arguments.beside:,} dialogs, one thread", common.table(table), sep="\n", end="\n\n")

    torch.set_num_threads(threads)
    clusters = of_clusters(planted(arguments.dialogs))
    shown = common.table([{"clusters": name, **row} for name, row in clusters.items()])
    print(f"{arguments.dialogs:,} dialogs, all threads", shown, sep="\n", end="\n\n")
    path = common.write_results(
        "semantic_dedup",
        {
            "dialogs": arguments.dialogs,
            "dialogs_beside_peers": arguments.beside,
            "width": WIDTH,
            "threshold": THRESHOLD,
            "versions": versions(),
            "checked_bit_for_bit": CHECKED,
            "agreement": checks,
            "clusters": clusters,
            "rows": table,
            "real_texts": real(arguments.encoder) if arguments.encoder else None,
            "timings": {name: timing.summary() for name, timing in timings.items()},
        },
    )
    print(f"written to {path}")


if __name__ == "__main__":
    main()
