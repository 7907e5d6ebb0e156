"""docs/filters.md: all of it is executed, in order, in an empty folder, and prints what stands there.

python tests/test_filters_docs.py        # writes what commands print
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from pathlib import Path

from test_data_docs import executed

from llama3.filters import FileReading, Measuring
from llama3.plugins.loader import BUILT_IN
from llama3.plugins.registry import discover

PAGE = Path(__file__).parents[1] / "docs" / "filters.md"


def test_the_page_says_what_happens(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = PAGE.read_text("utf-8")
    assert executed(text) == text


def test_every_filter_is_in_the_table():
    built_in = {row.name for row in discover().list() if row.dist == BUILT_IN and row.family == "filters"}
    assert set(re.findall(r"^\| `(\w+)` ", PAGE.read_text("utf-8"), re.MULTILINE)) == built_in


def test_only_prose_and_code_are_judged_as_told(tmp_path):
    (tmp_path / "list").write_text("a\n")
    urls = discover().build("filters", "url_lists", {"hosts": str(tmp_path / "list")})
    assert isinstance(urls, Measuring)
    assert isinstance(urls, FileReading)
    assert not isinstance(discover().build("filters", "gopher", {}), Measuring | FileReading)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        PAGE.write_text(executed(PAGE.read_text("utf-8")), "utf-8")
    print(f"{PAGE.name}: written", file=sys.stderr)
