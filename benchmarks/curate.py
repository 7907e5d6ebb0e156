"""Whole curation from `jsonl.zst` beside datatrove's same rules: Gopher's quality and repetition, C4's, FineWeb's,
e-mail and IP addresses masked, near duplicates. CPU seconds of a process each, after its imports.

Documents are the main texts of HTML pages that lie on this machine (`--pages`), in pieces of at least 50 words. Before
anything is timed both must decide alike about nearly all of them, and ours must find the copies that were added.
datatrove runs as it comes: its own tokenizer (spaCy) and its four stages of deduplication.
"""

from __future__ import annotations

import argparse
import gzip
import importlib.util
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import common
import zstandard

RULES = ("c4", "fineweb", "gopher")


def pages(folder: Path, limit_bytes: int) -> list[str]:
    """Main texts of pages, in path order, one of each."""
    from llama3.sources import main_text

    texts: dict[str, None] = {}
    total = 0
    for path in sorted(folder.rglob("*.html")):
        try:
            text = main_text(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError):
            continue
        for at in range(0, len(text), PIECE):
            piece = text[at : at + PIECE]
            if len(piece.split()) >= 50 and piece not in texts:
                texts[piece] = None
                total += len(piece.encode())
        if total > limit_bytes:
            break
    return list(texts)


PIECE = 4000
"""Characters of a document: pages of manuals are longer than those of the web."""


def written(texts: list[str], path: Path) -> None:
    rows = (
        json.dumps({"text": text, "id": str(n), "url": f"https://pages.example/{n}"}) + "\n"
        for n, text in enumerate(texts)
    )
    path.write_bytes(zstandard.compress("".join(rows).encode(), 3))


# -- ours -------------------------------------------------------------------------------------------


def ours(source: Path, work: Path) -> dict[str, Any]:
    """The stage as the product runs it, on one thread."""
    from llama3 import _core
    from llama3.artifacts import StageOutput
    from llama3.config.schema import Config
    from llama3.data.corpus import Corpus
    from llama3.data.curate import CurateOptions, curate

    _core.set_num_threads(1)
    kinds = dict.fromkeys(("phone", "card", "iban", "secret"), "keep")
    section = {
        "sources": [{"name": "jsonl", "path": str(source)}],
        "filters": [*RULES, {"name": "personal_data", **kinds}],
    }
    out = StageOutput(path=work / "out", scratch=work / "scratch")
    for folder in (out.path, out.scratch):
        folder.mkdir(parents=True)
    started = time.process_time()
    curate(options=CurateOptions.of(Config.model_validate({"data": section})), out=out)
    seconds = time.process_time() - started
    corpus = Corpus(out.path)
    return {"seconds": seconds, "memory": peak(), "kept": kept_urls(corpus), "rejects": out.metrics["rejects"]}


def kept_urls(corpus: Any) -> list[int]:
    urls = (url for batch in corpus.documents(None) for url in batch.column("url"))
    return sorted(int(url.rpartition("/")[2]) for url in urls)


def peak() -> int:
    """Most memory that this process has held, in bytes; what getrusage tells is the parent's where that had more."""
    status = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))


# -- datatrove --------------------------------------------------------------------------------------


def datatrove(source: Path, work: Path) -> dict[str, Any]:
    """Its pipeline, in its own order: rules, masks, then the four stages of MinHash."""
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.dedup import MinhashDedupCluster, MinhashDedupFilter, MinhashDedupSignature
    from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupBuckets
    from datatrove.pipeline.filters import (
        C4QualityFilter,
        FineWebQualityFilter,
        GopherQualityFilter,
        GopherRepetitionFilter,
    )
    from datatrove.pipeline.formatters import PIIFormatter
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.writers.jsonl import JsonlWriter

    config = MinhashConfig(n_grams=5, num_buckets=14, hashes_per_bucket=8)
    read = lambda folder: JsonlReader(str(folder), compression="infer")
    signatures, buckets, removed = (str(work / name) for name in ("signatures", "buckets", "removed"))
    stages = [
        [
            read(source.parent),
            GopherRepetitionFilter(),
            GopherQualityFilter(),
            C4QualityFilter(),
            FineWebQualityFilter(),
            PIIFormatter(),
            JsonlWriter(str(work / "filtered")),
        ],
        [read(work / "filtered"), MinhashDedupSignature(output_folder=signatures, config=config)],
        [MinhashDedupBuckets(input_folder=signatures, output_folder=buckets, config=config)],
        [MinhashDedupCluster(input_folder=buckets, output_folder=removed, config=config)],
        [read(work / "filtered"), MinhashDedupFilter(input_folder=removed), JsonlWriter(str(work / "kept"))],
    ]
    started = cpu()
    parts = []
    for number, pipeline in enumerate(stages):
        before = cpu()
        tasks = config.num_buckets if number == 2 else 1
        LocalPipelineExecutor(pipeline, tasks=tasks, workers=1, logging_dir=str(work / f"log{number}")).run()
        parts.append(round(cpu() - before, 3))
    seconds = cpu() - started
    rows = [json.loads(line) for path in (work / "kept").glob("*") for line in lines_of(path)]
    return {"seconds": seconds, "parts": parts, "memory": peak(), "kept": sorted(int(row["id"]) for row in rows)}


def cpu() -> float:
    """Seconds of this process and its children."""
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def lines_of(path: Path) -> list[str]:
    data = path.read_bytes()
    return (gzip.decompress(data) if path.suffix == ".gz" else data).decode().splitlines()


ALPHA = "alpha_token_fraction"


def agreement(texts: list[str]) -> dict[str, float]:
    """How often each rule set of ours decides as theirs does. They count punctuation among the words of which 80 % must
    have a letter, which we do not: Gopher's rules are compared without that one too."""
    from datatrove.pipeline import filters as theirs

    from llama3.data.documents import DocumentBatch
    from llama3.data.judging import judged, measured
    from llama3.plugins.registry import discover

    quality, repetition = theirs.GopherQualityFilter, theirs.GopherRepetitionFilter
    compared: dict[str, tuple[str, dict[str, Any], list[Any]]] = {
        "c4": ("c4", {}, [theirs.C4QualityFilter()]),
        "fineweb": ("fineweb", {}, [theirs.FineWebQualityFilter()]),
        "gopher": ("gopher", {}, [repetition(), quality()]),
        "gopher, words with letters aside": (
            "gopher",
            {"prose": {ALPHA: {}}},
            [repetition(), quality(max_non_alpha_words_ratio=None)],
        ),
    }
    batch = DocumentBatch.of(texts, source="s", urls=[""] * len(texts))
    shares = {}
    for title, (name, options, rules) in compared.items():
        filter = discover().build("filters", name, options)
        ours = judged(name, filter, measured({name: filter}, batch)).keep_D.tolist()
        kept = [all(rule.filter(SimpleNamespace(text=text, metadata={})) is True for rule in rules) for text in texts]
        shares[title] = sum(a == b for a, b in zip(ours, kept, strict=True)) / len(texts)
    return shares


# -- both -------------------------------------------------------------------------------------------

CANDIDATES: dict[str, Callable[[Path, Path], dict[str, Any]]] = {"llama3": ours, "datatrove": datatrove}


def measured(name: str, source: Path, packages: str) -> dict[str, Any]:
    """A candidate in a process of its own."""
    with tempfile.TemporaryDirectory() as work:
        command = [sys.executable, __file__, "--run", name, str(source), work, "--packages", packages]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{name} failed:\n{done.stderr[-3000:]}")
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return found


def median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--pages", type=Path, default=Path("/usr/share/doc"), help="a folder of HTML")
    parser.add_argument("--megabytes", type=float, default=24, help="text that both read, of which the start is little")
    parser.add_argument(
        "--large", type=int, default=12, help="how often ours alone reads that much, edited, for its memory"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--packages", default="", help="a folder with datatrove, spacy and what they need")
    parser.add_argument("--run", nargs=3, metavar=("NAME", "SOURCE", "WORK"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.packages:
        sys.path[:0] = arguments.packages.split(":")
    if arguments.run:
        name, source, work = arguments.run
        print(json.dumps(CANDIDATES[name](Path(source), Path(work))))
        return
    candidates = ["llama3"] + (["datatrove"] if has("datatrove") and has("spacy") else [])
    with tempfile.TemporaryDirectory() as folder:
        report(arguments, candidates, Path(folder))


def has(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def report(arguments: argparse.Namespace, candidates: list[str], folder: Path) -> None:
    texts = pages(arguments.pages, int(arguments.megabytes * 1e6))
    if not texts:
        sys.exit(f"{arguments.pages} holds no page")
    rng = random.Random(1)
    copies = [f"{rng.choice(['Moreover', 'Inserted'])} {text}" for text in texts[: len(texts) // 10]]
    source = folder / "small" / "pages.jsonl.zst"
    source.parent.mkdir()
    written([*texts, *copies], source)
    size = sum(len(text.encode()) for text in [*texts, *copies])
    checks: dict[str, Any] = {}
    if "datatrove" in candidates:
        checks["decided_alike"] = agreement(rng.sample(texts, min(400, len(texts))))
        if min(share for name, share in checks["decided_alike"].items() if name != "gopher") < 0.95:
            sys.exit(f"not timed: the candidates decide differently: {checks}")
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in candidates}
    for _ in range(arguments.rounds):
        for name in candidates:
            found[name].append(measured(name, source, arguments.packages))
    checks |= quality(found, len(texts), len(copies))
    seconds = {name: median([run["seconds"] for run in runs]) for name, runs in found.items()}
    large = memory(texts, arguments, folder)
    count = len(texts) + len(copies)
    rows = [
        {
            "candidate": name,
            "documents/CPU-s": count / seconds[name],
            "MB/CPU-s": size / seconds[name] / 1e6,
            "llama3 is faster by": seconds[name] / seconds["llama3"],
            "spread": (max(run["seconds"] for run in runs) - min(run["seconds"] for run in runs)) / seconds[name],
            "peak MB": runs[0]["memory"] / 1e6,
            "kept": len(runs[0]["kept"]),
        }
        for name, runs in found.items()
    ]
    print(common.table(rows))
    print(json.dumps({"checks": checks, "memory": large}, indent=1))
    packages = ["datatrove", "spacy"] if "datatrove" in candidates else []
    path = common.write_results(
        "curate",
        {
            "corpus": {"documents": count, "bytes": size, "sha256": common.corpus_hash([*texts, *copies])},
            "versions": common.versions(*packages),
            "checks": checks,
            "memory": large,
            "rows": rows,
            "rejects": found["llama3"][0]["rejects"],
            "datatrove_seconds_by_stage": [run.get("parts") for run in found.get("datatrove", [])],
        },
    )
    print(f"written to {path}")


def quality(found: dict[str, list[dict[str, Any]]], texts: int, copies: int) -> dict[str, Any]:
    """Runs of one candidate must be equal; of every pair of original and copy one must go."""
    for name, runs in found.items():
        if any(run["kept"] != runs[0]["kept"] for run in runs):
            sys.exit(f"{name} decides by chance")
    kept = {name: set(runs[0]["kept"]) for name, runs in found.items()}
    both = sum(n in kept["llama3"] and n + texts in kept["llama3"] for n in range(copies))
    checks: dict[str, Any] = {"copies": copies, "both_of_a_pair_kept": both}
    if both:
        sys.exit(f"not timed: {both} of {copies} copies are kept beside their originals")
    return checks


def memory(texts: list[str], arguments: argparse.Namespace, folder: Path) -> dict[str, float]:
    """Bytes a document: peak of a run on many times the documents, less the peak on the first few, by their number."""
    peaks = []
    for times in (1, arguments.large):
        source = folder / f"times{times}" / "pages.jsonl.zst"
        source.parent.mkdir()
        rng = random.Random(times)
        edited = [" ".join(rng.sample(words := text.split(" "), len(words))) for _ in range(times) for text in texts]
        written(edited, source)
        peaks.append(measured("llama3", source, arguments.packages)["memory"])
        source.unlink()
    more = len(texts) * (arguments.large - 1)
    return {
        "documents": len(texts) * arguments.large,
        "peak_bytes": peaks[1],
        "bytes_per_document": (peaks[1] - peaks[0]) / more,
    }


if __name__ == "__main__":
    main()
