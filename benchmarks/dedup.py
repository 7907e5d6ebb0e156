"""Near-duplicate detection beside datasketch and rensa (where installed, or RENSA_PATH names it): same documents, word
5-grams and number of hashes, one thread each, CPU seconds; every candidate begins at the text.

Documents are pieces of this Python's standard library; a part of them has edited copies. Before anything is timed, each
candidate's removals are compared with those that exact Jaccard similarity over all pairs asks for, and copies with one
word inserted must be found, which position sampling misses. Peers report whatever shares a band with an earlier
document, unverified; ours verifies exactly, in the time shown. At the end two million documents are banded and grouped.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import random
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping

import common
import datasketch
import numpy as np
import pyarrow as pa

from llama3 import _core
from llama3.data import Deduplicator
from llama3.data.documents import text_buffers

BANDS, ROWS, NGRAM, THRESHOLD = 14, 8, 5, 0.8  # of the peers; ours are chosen for the threshold
HASHES = BANDS * ROWS
PIECE = 3400  # characters: the mean length of a web document
WORD = re.compile(r"[^\W_]+")
ASKED = {"rensa": 15, "datasketch": 50}
"""How much faster ours must be, from text to signature."""
GROUPED = 2_000_000
GROUPED_PER_SECOND = 1_000_000

Finder = Callable[[list[str]], list[bool]]


def documents(count: int, copies: int, seed: int = 1) -> tuple[list[str], list[str]]:
    """(originals, edited copies): of each of `copies` originals one with a word in front, one with a word inserted
    anywhere, one with 1 % and one with 3 % of the words replaced."""
    text = "\n".join(common.stdlib_texts(limit_bytes=40_000_000))
    pieces = [text[at : at + PIECE] for at in range(0, len(text) - PIECE, PIECE)]
    rng = random.Random(seed)
    originals = rng.sample(pieces, count)
    edited = [copy for n, piece in enumerate(originals[:copies]) for copy in _copies(rng, n, piece)]
    return originals, edited


def _copies(rng: random.Random, n: int, piece: str) -> Iterator[str]:
    words = piece.split(" ")
    yield f"inserted{n} {piece}"
    at = rng.randrange(len(words))
    yield " ".join([*words[:at], f"inserted{n}", *words[at:]])
    for share in (0.01, 0.03):
        other = list(words)
        for at in rng.sample(range(len(words)), max(1, int(len(words) * share))):
            other[at] = f"other{n}"
        yield " ".join(other)


def insertions(pairs: int = 200, length: int = 600) -> list[str]:
    """Texts of `length` words, then each again with one word inserted among its first 50."""
    rng = random.Random(9)
    texts = [[f"w{rng.randrange(20_000)}" for _ in range(length)] for _ in range(pairs)]
    moved = []
    for words in texts:
        at = rng.randrange(50)
        moved.append([*words[:at], "inserted", *words[at:]])
    return [" ".join(words) for words in [*texts, *moved]]


def shingles(text: str) -> list[str]:
    words = WORD.findall(text.lower())
    width = min(NGRAM, max(1, len(words)))
    return [" ".join(words[i : i + width]) for i in range(max(1, len(words) - width + 1))]


def by_ours(texts: list[str]) -> list[bool]:
    return (~Deduplicator(threshold=THRESHOLD, ngram=NGRAM).find(texts).keep_D).tolist()


def by_datasketch(texts: list[str]) -> list[bool]:
    index = datasketch.MinHashLSH(num_perm=HASHES, params=(BANDS, ROWS))
    removed = []
    for n, text in enumerate(texts):
        minhash = signed_by_datasketch(text)
        removed.append(bool(index.query(minhash)))
        if not removed[-1]:
            index.insert(n, minhash, check_duplication=False)
    return removed


def by_rensa(texts: list[str]) -> list[bool]:
    import rensa

    index = rensa.RMinHashLSH(threshold=THRESHOLD, num_perm=HASHES, num_bands=BANDS)
    removed = []
    for n, text in enumerate(texts):
        minhash = signed_by_rensa(text)
        removed.append(bool(index.query(minhash)))
        if not removed[-1]:
            index.insert(n, minhash)
    return removed


def signed_by_datasketch(text: str) -> datasketch.MinHash:
    minhash = datasketch.MinHash(num_perm=HASHES)
    minhash.update_batch([shingle.encode() for shingle in shingles(text)])
    return minhash


def signed_by_rensa(text: str) -> object:
    import rensa

    minhash = rensa.RMinHash(num_perm=HASHES, seed=1)
    minhash.update(shingles(text))
    return minhash


def truth(texts: list[str]) -> list[bool]:
    """What goes by the definition: every document against every kept one before it, exactly."""
    sets = [set(shingles(text)) for text in texts]
    having: dict[str, list[int]] = {}
    removed = []
    for n, own in enumerate(sets):
        shared = Counter(kept for shingle in own for kept in having.get(shingle, ()))
        near = (both / (len(own) + len(sets[kept]) - both) for kept, both in shared.items())
        removed.append(any(similarity >= THRESHOLD for similarity in near))
        if not removed[-1]:
            for shingle in own:
                having.setdefault(shingle, []).append(n)
    return removed


def quality(find: Finder, texts: list[str], expected: list[bool]) -> dict[str, float]:
    """Recall and precision of what is removed against the definition, and how many of 200 insertions are found."""
    removed, wanted = np.array(find(texts)), np.array(expected)
    moved = insertions()
    return {
        "recall": float(removed[wanted].mean()),
        "precision": float(wanted[removed].mean()),
        "insertions_of_200": int(np.sum(find(moved)[len(moved) // 2 :])),
    }


def grouped() -> dict[str, float]:
    """Documents per second from band keys to groups, 15 % of the documents sharing half of their keys with another; by
    CPU and by wall clock, one thread and all."""
    draw = np.random.default_rng(1)
    keys = draw.integers(0, 2**64 - 1, (GROUPED, 16), np.uint64)
    copies, sources = draw.permutation(GROUPED)[: GROUPED * 15 // 100], draw.integers(0, GROUPED, GROUPED * 15 // 100)
    keys[copies, :8] = keys[sources, :8]
    found = {}
    for name, threads, clock in (("one_thread", 1, time.process_time), ("all_cores_wall", 0, time.perf_counter)):
        _core.set_num_threads(threads)
        timing = common.interleaved({name: lambda: _core.duplicate_groups(keys)}, rounds=3, clock=clock)[name]
        found[name] = GROUPED / timing.median
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--documents", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    sys.path += filter(None, [os.environ.get("RENSA_PATH")])
    originals, edited = documents(arguments.documents, arguments.documents // 8)
    texts = [*originals, *edited]
    size = sum(len(text.encode()) for text in texts)
    finders: dict[str, Finder] = {"llama3": by_ours, "datasketch": by_datasketch}
    signing: dict[str, Callable[[str], object]] = {"datasketch": signed_by_datasketch}
    if importlib.util.find_spec("rensa"):
        finders["rensa"], signing["rensa"] = by_rensa, signed_by_rensa

    _core.set_num_threads(1)
    expected = truth(texts)
    checks = {name: quality(find, texts, expected) for name, find in finders.items()}
    print(common.table([{"candidate": name, **check} for name, check in checks.items()]), end="\n\n")
    ours, peers = checks["llama3"], [check for name, check in checks.items() if name != "llama3"]
    weak = [key for key in ours if any(ours[key] < check[key] for check in peers)]
    if weak or ours["insertions_of_200"] < 200:
        sys.exit(f"not timed: llama3 is worse in {weak}: {checks}")

    data, offsets = text_buffers(pa.array(texts, pa.large_string()))
    signatures: dict[str, Callable[[], object]] = {
        "llama3": lambda: _core.minhash_signatures(data, offsets, ngram=NGRAM, hashes=HASHES),
        **{name: lambda sign=sign: [sign(text) for text in texts] for name, sign in signing.items()},  # type: ignore[misc]
    }
    whole: dict[str, Callable[[], object]] = {name: lambda find=find: find(texts) for name, find in finders.items()}  # type: ignore[misc]
    timings = {
        step: common.interleaved(timed, rounds=arguments.rounds, clock=time.process_time)
        for step, timed in (("text to signature", signatures), ("text to verdict", whole))
    }
    rows: list[Mapping[str, object]] = [
        {
            "step": step,
            "candidate": name,
            "documents/s": len(texts) / timing.median,
            "MB/s": size / timing.median / 1e6,
            "llama3 is faster by": timing.median / timed["llama3"].median,
            "asked": ASKED.get(name, "") if step == "text to signature" else "",
            "spread": timing.spread,
        }
        for step, timed in timings.items()
        for name, timing in timed.items()
    ]
    print(common.table(rows), end="\n\n")
    groups = grouped()
    print(f"{GROUPED:,} documents grouped, documents/s: {groups} (asked: {GROUPED_PER_SECOND:,})")
    path = common.write_results(
        "dedup",
        {
            "corpus": {"documents": len(texts), "bytes": size, "sha256": common.corpus_hash(texts)},
            "versions": common.versions("datasketch", *(["rensa"] if "rensa" in finders else [])),
            "quality": checks,
            "rows": rows,
            "timings": {
                step: {name: timing.summary() for name, timing in timed.items()} for step, timed in timings.items()
            },
            "grouped": {"documents": GROUPED, "documents_per_second": groups},
        },
    )
    print(f"written to {path}")


if __name__ == "__main__":
    main()
