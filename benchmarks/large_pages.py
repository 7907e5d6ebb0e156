"""Documents that no crawler expects, each in a folder beside a sound one, through the whole of `llama3 data curate`: a
page of one line, many paragraphs on one line, an attribute, an alternative text, nested elements, open angle brackets
and dollars without end, and one line of JSON with and without spaces.

Shown are the CPU seconds and the peak memory of the command, each at a quarter of the size and at all of it, so that
what is not linear is seen; the first row is what two small pages cost. The limit on the size of a document is raised
above them: by default pages above 16 MiB are rejected unread. The sound document must be there in the end, and the
other kept or named.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pyarrow.parquet as pq
from common import table, versions, write_results

WORDS = [
    f"{a}{b}" for a in ("the", "of", "and", "to", "wa", "ri", "mo") for b in ("", "s", "ter", "ling", "ne", "dorf")
]
MANY = 1 << 40


def prose(size: int, seed: int = 0) -> str:
    """So many characters of words."""
    draw = random.Random(seed)
    block = " ".join(draw.choices(WORDS, k=min(200_000, size // 3 + 10)))
    return (f"{block} " * (size // len(block) + 1))[:size]


SHAPES: dict[str, Callable[[int], str]] = {
    "one paragraph": lambda n: f"<p>{prose(n)}</p>",
    "paragraphs on one line": lambda n: "".join(f"<p>{prose(400, seed)}</p>" for seed in range(50)) * (n // 20_350),
    "links": lambda n: '<p><a href="x">see this</a> and that</p>' * (n // 40),
    "attribute": lambda n: f'<div data-x="{prose(n)}"><p>{prose(2000)}</p></div>',
    "alternative text": lambda n: f'<p>{prose(2000)}</p><img alt="{prose(n)}">',
    "nested elements": lambda n: "<div>" * (n // 11) + prose(2000) + "</div>" * (n // 11),
    "angle brackets": lambda n: f"<p>{prose(2000)}</p>" + "<" * n,
    "dollars": lambda n: "<p>" + r"$x \( a " * (n // 8) + "</p>",
    "table": lambda n: "<table>" + "<tr><td>some words</td><td>12</td></tr>" * (n // 40) + "</table>",
}
LINES: dict[str, Callable[[int], str]] = {
    "line of words": prose,
    "line without a space": lambda n: "a" * n,
}
SOUND = prose(3000, 1)


def write(folder: Path, shape: str, size: int) -> str:
    """Writes a large document and a sound one; returns what reads them."""
    if shape in LINES:
        lines = [{"text": SOUND}, {"text": LINES[shape](size)}]
        (folder / "texts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        return "jsonl"
    (folder / "large.html").write_text(f"<html><body>{SHAPES[shape](size)}</body></html>")
    (folder / "sound.html").write_text(f"<html><body><p>{SOUND}</p></body></html>")
    return "html"


def curate(folder: Path, source: str, out: Path) -> tuple[float, float]:
    """CPU seconds and peak MB of the command."""
    given = json.dumps([{"name": source, "path": str(folder), "max_document_bytes": MANY}])
    command = [sys.executable, "-m", "llama3", "data", "curate", str(folder), "--out", str(out)]
    process = subprocess.Popen(
        [*command, "--set", f"data.sources={given}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, process.returncode
    return used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def check(out: Path, shape: str) -> None:
    """The sound document is in the corpus, the large one there or among the rejects."""
    (corpus,) = (path.resolve() for path in (out / "artifacts").glob("curate"))
    texts = pq.read_table(corpus / "documents").column("text").to_pylist()
    assert SOUND.strip() in texts, f"{shape}: the sound document is not there"
    rejected = pq.read_table(corpus / "rejects").num_rows
    assert len(texts) + rejected == 2, f"{shape}: {len(texts)} kept, {rejected} named"


def measure(shape: str, size: int) -> tuple[float, float]:
    with tempfile.TemporaryDirectory(dir=os.environ.get("BENCH_DIR")) as place:
        folder, out = Path(place, "texts"), Path(place, "run")
        folder.mkdir()
        source = write(folder, shape, size)
        used = curate(folder, source, out)
        check(out, shape)
        return used


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=float, default=50)
    parser.add_argument("--shapes", nargs="*", default=[*SHAPES, *LINES])
    options = parser.parse_args()
    base = measure("one paragraph", 1000)
    rows: list[Mapping[str, object]] = [{"document": "two small ones", "MB": 0.0, "CPU-s": base[0], "peak MB": base[1]}]
    for shape in options.shapes:
        for part in (4, 1):
            megabytes = options.megabytes / part
            seconds, peak = measure(shape, int(megabytes * 1e6))
            rows.append({"document": shape, "MB": megabytes, "CPU-s": seconds, "peak MB": peak})
            print(rows[-1], flush=True)
    print(table(rows))
    print(write_results("large_pages", {"versions": versions("llama3"), "rows": rows}))


if __name__ == "__main__":
    main()
