"""A document whose rules take too long or too much, or crash, is named, counted, left out; it takes no other along."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import started
from data_texts import prose

from llama3.errors import DataError, PluginError
from llama3.plugins import registry

PLUGIN = """
import os
import numpy as np
from llama3.filters import Edits, Judgement
from llama3.plugins import FilterSpec, hookimpl


class Heavy:
    features = frozenset({"words"})
    measures = ("seen",)

    def __init__(self):
        self.total = 0

    def survey(self, batch):
        self.total += len(batch)

    def surveyed(self):
        return {"total": np.array([self.total])}

    def join(self, surveyed):
        self.total += int(surveyed["total"][0])

    def measure(self, batch):
        return {"seen": np.full(len(batch), float(self.total))}

    def judge(self, batch):
        print("noise of a plugin")
        for text in batch.texts:
            if "turns" in text and "TOLD" in os.environ:
                open(os.environ["TOLD"], "w").close()
            while "turns" in text:
                pass
            if "swells" in text:
                np.ones(1 << 28)
            if "dies" in text:
                os.abort()
            if "fails" in text:
                raise ZeroDivisionError("it was the document")
        keep = np.array(["unwanted" not in text for text in batch.texts], bool)
        return Judgement(np.ones(len(batch)), keep, ["" if k else "unwanted" for k in keep])

    def edits(self, batch):
        places = [d for d, text in enumerate(batch.texts) if text.startswith("Edit")]
        at = np.array(places, np.int64)
        return Edits(at, 0 * at, 0 * at + 4, ["word"] * len(places), ["Made"] * len(places))


@hookimpl
def llama3_filters():
    return [FilterSpec(name="heavy", factory="acme_heavy:Heavy")]
"""


@pytest.fixture
def heavy(site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The plugin, installed as any other."""
    site.add("acme-heavy", PLUGIN, module="acme_heavy")
    monkeypatch.syspath_prepend(str(site.path))
    registry.discover.cache_clear()
    yield
    registry.discover.cache_clear()


def section(folder: Path, texts: list[str], **bounds: object) -> dict[str, object]:
    (folder / "in.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return {
        "sources": [{"name": "jsonl", "path": str(folder / "in.jsonl"), "source": "web"}],
        "filters": ["gopher", "heavy"],
        "bounds": {"seconds": 2, "memory_mb": 1024, **bounds},
    }


def test_what_takes_too_much_is_left_out_alone(tmp_path: Path, heavy: None, curated: Callable) -> None:
    texts = [prose(n, 60) for n in range(6)]
    texts[0] += " it turns"
    texts[2] += " it swells"
    texts[3] += " it dies"
    texts[4] += " unwanted"
    texts[5] = "Edit " + texts[5]
    corpus, out = curated(**section(tmp_path, texts))
    left = [text for batch in corpus.documents(None) for text in batch.texts]
    assert left == [("Made " + text[5:] if n == 5 else text) for n, text in enumerate(texts) if n not in (0, 2, 3, 4)]
    rejects = out.metrics["rejects"]
    assert rejects == {
        "bounds.too_slow": 1, "bounds.too_much_memory": 1, "bounds.crashed": 1, "filter.heavy.unwanted": 1,
    }  # fmt: skip
    bounds = [row for row in corpus.rejects().to_pylist() if row["stage"] == "bounds"]
    assert {(row["source"], len(row["id"])) for row in bounds} == {("web", 32)}
    assert corpus.funnel["bounds"]["web"]["documents"] == 3
    assert corpus.scores().column("heavy.seen").to_pylist() == [6.0] * 3, "it has seen all documents before"
    assert out.metrics["edits"] == {"heavy.word": 1}


def test_the_process_ends_with_the_one_that_started_it(tmp_path: Path, heavy: None, site) -> None:
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text(prose(1, 60) + " it turns")
    run = started.Popen(
        [sys.executable, "-m", "llama3", "data", "curate", str(tmp_path / "text"), "--out", str(tmp_path / "run"),
         "--set", "data.filters=[heavy]", "--set", "data.bounds={seconds: 900}"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(site.path), *sys.path]), "TOLD": str(tmp_path / "told")},
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    _waited_for((tmp_path / "told").exists)
    child = _child_of_filters(run.pid)
    run.kill()
    run.wait()
    _waited_for(lambda: not Path(f"/proc/{child}").exists())


def _child_of_filters(parent: int) -> int:
    """The process of filters, while one of them turns."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            watched = "llama3.data.watched" in (path.parent / "cmdline").read_text()
            if watched and int(path.read_text().rpartition(")")[2].split()[1]) == parent:
                return int(path.parent.name)
    raise AssertionError("there is none")


def _waited_for(found: Callable) -> Any:
    while not (value := found()):
        time.sleep(0.1)
    return value


def test_the_run_may_stop_there(tmp_path: Path, heavy: None, curated: Callable) -> None:
    with pytest.raises(DataError, match=r"crashed.*L3-DAT-278"):
        curated(**section(tmp_path, [prose(1), prose(2) + " it dies"], action="stop"))


def test_a_filter_that_fails_there_stops_the_stage(tmp_path: Path, heavy: None, curated: Callable) -> None:
    with pytest.raises(PluginError, match="it was the document"):
        curated(**section(tmp_path, [prose(1), prose(2) + " it fails"]))


def test_built_in_filters_need_no_process(tmp_path: Path, curated: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llama3.data.watching.WatchedFilters._start", lambda self: 1 / 0)
    corpus, out = curated(**section(tmp_path, [prose(1), prose(2)]) | {"filters": ["gopher"]})
    assert len(corpus) == 2
    assert "bounds" not in out.metrics["funnel"]
