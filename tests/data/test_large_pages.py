"""Documents that no crawler expects, through the whole of `llama3 data curate`: bounded, and none costs another."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
from data_texts import prose

SOUND = [prose(seed, 300) for seed in (7, 8, 9)]
LIMIT = 3 << 20
SHAPES = {
    "line": lambda words: f"<p>{words}</p>",
    "paragraphs": lambda words: "".join(f"<p>{words[at : at + 50]}</p>" for at in range(0, len(words), 50)),
    "attribute": lambda words: f'<div data-x="{words}"><p>few words</p></div>',
    "alternative": lambda words: f'<img alt="{words}">',
    "nested": lambda words: "<div>" * (len(words) // 11) + "few words" + "</div>" * (len(words) // 11),
    "brackets": lambda words: "few words " + "<" * len(words),
    "dollars": lambda words: r"<p>$x \( a " * (len(words) // 11),
}


def written(folder: Path, size: int) -> None:
    """A large page of `size` characters of each shape, large lines of JSON, and a sound document beside each."""
    pages, lines = folder / "pages", folder / "lines"
    pages.mkdir(parents=True)
    lines.mkdir()
    words = (f"{prose(size, 20_000)} " * (size // 100_000 + 1))[:size]
    for name, page in SHAPES.items():
        (pages / f"{name}.html").write_text(page(words))
    (pages / "sound.html").write_text(f"<p>{SOUND[0]}</p>")
    texts = [SOUND[1], words, "a" * size, SOUND[2]]
    (lines / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))


def curated(folder: Path, out: Path) -> tuple[list[str], list[tuple[str, str]], int]:
    """The texts of the corpus, what was left out (why, and where it stood), and the peak memory in bytes."""
    sources = [
        {"name": name, "path": str(folder / part), "max_document_bytes": LIMIT}
        for name, part in (("html", "pages"), ("jsonl", "lines"))
    ]
    config = folder.with_suffix(".yaml")
    config.write_text(json.dumps({"data": {"sources": sources}}))
    command = [sys.executable, "-m", "llama3", "data", "curate", str(config), "--out", str(out)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    corpus = out / "artifacts" / "curate"
    rejects = pq.read_table(corpus / "rejects").to_pylist()
    left_out = sorted((row["reason"], row["where"].rpartition(os.sep)[2]) for row in rejects)
    texts = pq.read_table(corpus / "documents").column("text").to_pylist()
    return texts, left_out, used.ru_maxrss << 10


def test_large_documents_cost_no_other_and_memory_in_proportion(tmp_path: Path) -> None:
    """Five times the size is less than forty bytes more for each byte of all documents; what took the square of a
    document's size, memory or time, would not end here."""
    peaks = {}
    for size in (500_000, 2_500_000):
        written(tmp_path / str(size), size)
        texts, left_out, peaks[size] = curated(tmp_path / str(size), tmp_path / f"run-{size}")
        assert set(SOUND) <= set(texts), "no large document takes a sound one with it"
        assert len(texts) + len(left_out) == len(SHAPES) + 1 + 4, "each document is in the corpus or named, and once"
    assert peaks[2_500_000] - peaks[500_000] < 40 * 2_000_000 * (len(SHAPES) + 2)


def test_what_is_above_the_limit_is_named_unread(tmp_path: Path) -> None:
    written(tmp_path / "texts", LIMIT + 100_000)
    texts, left_out, _ = curated(tmp_path / "texts", tmp_path / "run")
    assert sorted(texts) == sorted(SOUND)
    large = [*(f"{name}.html" for name in SHAPES), "texts.jsonl:2", "texts.jsonl:3"]
    assert left_out == sorted(("too_large", where) for where in large)
