"""Near-duplicate detection beside datasketch (and rensa, where installed): same documents, same word 5-grams, same
14 x 8 bands, one thread each; then ours on all cores.

Documents are pieces of this Python's standard library; a part of them has edited copies. Before anything is timed,
every candidate must find the copies: those with a word inserted in front, which position sampling misses, included.
Peers report whatever shares a band with an earlier document, unverified; ours verifies exactly, in the time shown.
"""

from __future__ import annotations

import argparse
import importlib.util
import random
import re
import sys
from collections.abc import Callable

import common
import datasketch
import numpy as np
import pyarrow as pa

from llama3 import _core
from llama3.data import Deduplicator
from llama3.data.documents import text_buffers

BANDS, ROWS, NGRAM, THRESHOLD = 14, 8, 5, 0.8
PIECE = 3400  # characters: the mean length of a web document
WORD = re.compile(r"[^\W_]+")

Finder = Callable[[list[str]], list[bool]]


def documents(count: int, copies: int, seed: int = 1) -> tuple[list[str], list[str], list[str]]:
    """(originals, copies of the first ones with a word in front, copies of the next ones with 1 % words replaced)."""
    text = "\n".join(common.stdlib_texts(limit_bytes=40_000_000))
    pieces = [text[at : at + PIECE] for at in range(0, len(text) - PIECE, PIECE)]
    rng = random.Random(seed)
    originals = rng.sample(pieces, count)
    front = [f"inserted{n} {piece}" for n, piece in enumerate(originals[:copies])]
    replaced = []
    for n, piece in enumerate(originals[copies : 2 * copies]):
        words = piece.split(" ")
        for at in rng.sample(range(len(words)), max(1, len(words) // 100)):
            words[at] = f"other{n}"
        replaced.append(" ".join(words))
    return originals, front, replaced


def shingles(text: str) -> list[str]:
    words = WORD.findall(text.lower())
    width = min(NGRAM, max(1, len(words)))
    return [" ".join(words[i : i + width]) for i in range(max(1, len(words) - width + 1))]


def by_ours(texts: list[str]) -> list[bool]:
    found = Deduplicator(threshold=THRESHOLD, ngram=NGRAM, bands=BANDS, rows=ROWS).find(texts)
    return (~found.keep_D).tolist()


def by_datasketch(texts: list[str]) -> list[bool]:
    index = datasketch.MinHashLSH(num_perm=BANDS * ROWS, params=(BANDS, ROWS))
    removed = []
    for n, text in enumerate(texts):
        minhash = datasketch.MinHash(num_perm=BANDS * ROWS)
        minhash.update_batch([shingle.encode() for shingle in shingles(text)])
        removed.append(bool(index.query(minhash)))
        if not removed[-1]:
            index.insert(n, minhash, check_duplication=False)
    return removed


def by_rensa(texts: list[str]) -> list[bool]:
    import rensa

    index = rensa.RMinHashLSH(threshold=THRESHOLD, num_perm=BANDS * ROWS, num_bands=BANDS)
    removed = []
    for n, text in enumerate(texts):
        minhash = rensa.RMinHash(num_perm=BANDS * ROWS, seed=1)
        minhash.update(shingles(text))
        removed.append(bool(index.query(minhash)))
        if not removed[-1]:
            index.insert(n, minhash)
    return removed


def quality(find: Finder, originals: list[str], front: list[str], replaced: list[str]) -> dict[str, float]:
    """Recall of both kinds of copies, those whose exact similarity reaches the threshold; originals removed."""
    removed = np.array(find([*originals, *front, *replaced]))
    sources = originals[: len(front) + len(replaced)]
    near = np.array([exact(a, b) >= THRESHOLD for a, b in zip(sources, [*front, *replaced], strict=True)])
    copies = removed[len(originals) :]
    first = len(front)
    return {
        "recall_word_in_front": float(copies[:first][near[:first]].mean()),
        "recall_words_replaced": float(copies[first:][near[first:]].mean()),
        "originals_removed": int(removed[: len(originals)].sum()),
    }


def exact(a: str, b: str) -> float:
    one, two = set(shingles(a)), set(shingles(b))
    return len(one & two) / len(one | two)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--documents", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    originals, front, replaced = documents(arguments.documents, arguments.documents // 8)
    texts = [*originals, *front, *replaced]
    size = sum(len(text.encode()) for text in texts)
    finders: dict[str, Finder] = {"llama3": by_ours, "datasketch": by_datasketch}
    if importlib.util.find_spec("rensa"):
        finders["rensa"] = by_rensa

    _core.set_num_threads(1)
    checks = {name: quality(find, originals, front, replaced) for name, find in finders.items()}
    weak = [
        name
        for name, check in checks.items()
        if min(check["recall_word_in_front"], check["recall_words_replaced"]) < 0.9
    ]
    if "llama3" in weak:
        sys.exit(f"not timed: llama3 misses copies: {checks['llama3']}")

    data, offsets = text_buffers(pa.array(texts, pa.large_string()))
    timed: dict[str, Callable[[], object]] = {name: lambda find=find: find(texts) for name, find in finders.items()}
    timed["llama3, keys only"] = lambda: _core.minhash_keys(data, offsets, ngram=NGRAM, bands=BANDS, rows=ROWS)
    timed["llama3, statistics"] = lambda: _core.text_statistics(data, offsets)
    timings = common.interleaved(timed, rounds=arguments.rounds)
    _core.set_num_threads(0)
    timings |= common.interleaved({"llama3, all cores": lambda: by_ours(texts)}, rounds=arguments.rounds)

    ours = timings["llama3"].median
    rows = [
        {
            "candidate": name,
            "documents/s": len(texts) / timing.median,
            "MB/s": size / timing.median / 1e6,
            "llama3 is faster by": timing.median / ours if name in finders else "",
            "spread": timing.spread,
            **({key: checks[name][key] for key in checks[name]} if name in checks else {}),
        }
        for name, timing in timings.items()
    ]
    print(common.table(rows))
    path = common.write_results(
        "dedup",
        {
            "corpus": {"documents": len(texts), "bytes": size, "sha256": common.corpus_hash(texts)},
            "versions": common.versions("datasketch", *(["rensa"] if "rensa" in finders else [])),
            "quality": checks,
            "missed_too_much": weak,
            "timings": {name: timing.summary() for name, timing in timings.items()},
        },
    )
    print(f"written to {path}")


if __name__ == "__main__":
    main()
