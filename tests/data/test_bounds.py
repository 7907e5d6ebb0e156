"""A document whose rules take too long or too much, or crash, is named, counted, left out; it takes no other along."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import started
from data_texts import prose

from llama3.data.documents import DocumentBatch
from llama3.data.judging import LONGEST_REASON, Editor, labelled, surveyed
from llama3.data.ledger import MOST_REASONS
from llama3.data.opinions import opinion
from llama3.errors import DataError, PluginError
from llama3.filters import Edits, Judgement
from llama3.plugins import registry

PLUGIN = r"""
import os
import threading
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
            if "waits" in text:
                threading.Event().wait()
            if "nothing" in text:
                return None
            if "dies" in text:
                os.abort()
            if "fails" in text:
                raise ZeroDivisionError("it was the document")
        keep = np.array(["unwanted" not in text for text in batch.texts], bool)
        why = ["" if k else "unwanted \ud83d" for k in keep]
        for d, text in enumerate(batch.texts):
            if "it talks" in text:
                keep[d], why[d] = False, text * 1000
        return Judgement(np.ones(len(batch)), keep, why)

    def edits(self, batch):
        places = [d for d, text in enumerate(batch.texts) if text.startswith("Edit")]
        at = np.array(places, np.int64)
        return Edits(at, 0 * at, 0 * at + 4, ["word"] * len(places), ["Made"] * len(places))


class Asleep(Heavy):
    def __init__(self):
        threading.Event().wait()


class Stuck(Heavy):
    def judge(self, batch):
        threading.Event().wait()


class Leaving(Heavy):
    def __init__(self):
        os._exit(0)


@hookimpl
def llama3_filters():
    makers = ("Heavy", "Asleep", "Leaving", "Stuck")
    return [FilterSpec(name=maker.lower(), factory=f"acme_heavy:{maker}") for maker in makers]
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
        "bounds.heavy.too_slow": 1, "bounds.heavy.too_much_memory": 1, "bounds.heavy.crashed": 1,
        "filter.heavy.unwanted \\ud83d": 1,
    }  # fmt: skip
    bounds = [row for row in corpus.rejects().to_pylist() if row["stage"] == "bounds"]
    assert {(row["source"], len(row["id"])) for row in bounds} == {("web", 32)}
    assert corpus.funnel["bounds"]["web"]["documents"] == 3
    assert corpus.scores().column("heavy.seen").to_pylist() == [6.0] * 3, "it has seen all documents before"
    assert out.metrics["edits"] == {"heavy.word": 1}


def test_a_filter_that_takes_too_much_of_no_document_is_named(tmp_path: Path, heavy: None, curated: Callable) -> None:
    given = section(tmp_path, [prose(n, 60) for n in range(3)], seconds=0.5) | {"filters": ["stuck"]}
    with pytest.raises(PluginError, match=r"filters under watch \(stuck\).*L3-DAT-289"):
        curated(**given)


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


def test_a_run_that_is_stopped_does_not_wait_for_a_filter(tmp_path: Path, heavy: None, site) -> None:
    (tmp_path / "text").mkdir()
    for n in range(40):
        (tmp_path / "text" / f"{n}.txt").write_text(prose(n, 60) + " it turns" * (n == 39))
    command = [sys.executable, "-m", "llama3", "data", "curate", str(tmp_path / "text"), "--out", str(tmp_path / "run"),
               "--set", "data.filters=[heavy]", "--set", "data.bounds={seconds: 1000000}"]  # fmt: skip
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(site.path), *sys.path])}
    run = started.Popen(command, env=environment | {"TOLD": str(tmp_path / "told")}, stderr=subprocess.PIPE, text=True)
    _waited_for((tmp_path / "told").exists)
    child = _child_of_filters(run.pid)
    run.send_signal(signal.SIGTERM)
    told = run.communicate()[1]
    assert (run.returncode, "Traceback" in told) == (130, False), told
    _waited_for(lambda: not Path(f"/proc/{child}").exists())


def test_reasons_are_bounded(tmp_path: Path, heavy: None, curated: Callable) -> None:
    """A filter may say something else of every document, and any amount of it."""
    texts = [prose(n, 60) + (" it talks" if n else "") for n in range(MOST_REASONS + 20)]
    corpus, out = curated(**section(tmp_path, texts) | {"filters": ["heavy"]})
    rejects = out.metrics["rejects"]
    assert rejects["filter.heavy.other_reasons"] == 19
    assert len(rejects) == MOST_REASONS + 1
    reasons = [row["reason"] for row in corpus.rejects().to_pylist()]
    assert sorted(map(len, reasons)) == [LONGEST_REASON] * (MOST_REASONS + 19)


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


def test_what_waits_is_not_waited_for(
    tmp_path: Path, heavy: None, curated: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What sleeps uses no processor time, and is ended all the same; by the bound of its own, not by that of last
    resort, with which this would take days."""
    monkeypatch.setattr("llama3.data.watching.BLIND", 10**6)
    _, out = curated(**section(tmp_path, [prose(1, 60), prose(2, 60) + " it waits"], seconds=1.5))
    assert out.metrics["rejects"] == {"bounds.heavy.too_slow": 1}


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("asleep", r"(?s)filter 'asleep'.*not made after 4 seconds.*L3-DAT-288"),
        ("leaving", r"(?s)filter 'leaving'.*it ended.*L3-DAT-279"),
    ],
)
def test_a_factory_that_does_not_end_stops_the_run_before_work(
    tmp_path: Path, heavy: None, curated: Callable, monkeypatch: pytest.MonkeyPatch, name: str, told: str
) -> None:
    monkeypatch.setattr("llama3.data.watching.START_SECONDS", 4.0)
    with pytest.raises(PluginError, match=told):
        curated(**section(tmp_path, [prose(1)]) | {"filters": ["gopher", name]})


def test_what_no_filter_may_answer_is_told(tmp_path: Path, heavy: None, curated: Callable) -> None:
    with pytest.raises(PluginError, match=r"Heavy.judge returned None.*L3-DAT-286"):
        curated(**section(tmp_path, [prose(1), prose(2) + " nothing"]))


class Answering:
    """A filter that answers as it is told."""

    features: frozenset[str] = frozenset()
    measures = ("a",)

    def __init__(self, **answers: Any) -> None:
        self.answers = answers

    def measure(self, batch: DocumentBatch) -> Any:
        return self.answers.get("measure", {"a": [1.0] * len(batch)})

    def judge(self, batch: DocumentBatch) -> Any:
        return self.answers.get("judge", Judgement(np.ones(len(batch)), np.ones(len(batch), bool), [""] * len(batch)))

    def edits(self, batch: DocumentBatch) -> Any:
        return self.answers.get("edits", Edits.none())

    def languages(self, batch: DocumentBatch) -> Any:
        return self.answers["languages"]

    def survey(self, batch: DocumentBatch) -> None: ...

    def surveyed(self) -> Any:
        return self.answers["surveyed"]

    def join(self, surveyed: Any) -> None: ...


NONE, ONE, KEPT = np.empty(0, np.int64), np.zeros(1, np.int64), np.ones(1, bool)


@pytest.mark.parametrize(
    ("answers", "told"),
    [
        ({"judge": [1.0]}, "judge returned a list"),
        ({"judge": Judgement(ONE, KEPT, None)}, "judge returned a Judgement.*not iterable"),
        ({"judge": Judgement(ONE, KEPT, [None])}, "judge returned a Judgement"),
        ({"judge": Judgement(["1"], KEPT, [""])}, "judge returned a Judgement.*score_D is an array of <U1"),
        ({"judge": Judgement([1j], KEPT, [""])}, "judge returned a Judgement.*score_D is an array of complex128"),
        ({"judge": Judgement(None, KEPT, [""])}, "judge returned a Judgement.*score_D is an array of object"),
        ({"judge": Judgement([[1, 2]], KEPT, [""])}, r"score_D is an array of int64 of the shape \[1, 2\]"),
        ({"judge": Judgement(ONE, ONE, [""])}, "keep_D is an array of int64.*a Judgement: for each document"),
        ({"judge": Judgement(ONE, ["no"], [""])}, "keep_D is an array of <U2"),
        ({"judge": Judgement(ONE, [[True]], [""])}, r"keep_D is an array of bool of the shape \[1, 1\]"),
        ({"judge": Judgement(NONE, NONE, [])}, "judge gave columns of 0 rows, of 1 documents"),
        ({"judge": Judgement([np.inf], KEPT, [""])}, "`judge`.*1 of 1 scores are NaN or infinite"),
        ({"judge": Judgement(ONE, ~KEPT, [""])}, "`judge`.*1 of 1 documents are not kept and have no reason"),
        ({"measure": None}, "measure returned None"),
        ({"measure": {"a": 1.0}}, r"measure returned a dict.*a is an array of float64 of the shape \[\]"),
        ({"measure": {"a": [[1.0]]}}, r"measure returned a dict.*a is an array of float64 of the shape \[1, 1\]"),
        ({"measure": {"a": ["x"]}}, "measure returned a dict.*a is an array of <U1"),
        ({"measure": {"b": ONE}}, r"measure gave \{'b': 1\}"),
        ({"edits": None}, "edits returned None"),
        ({"edits": Edits(ONE, ONE, ONE, ["k"], [])}, r"edits returned a Edits.*\[0, 1\] rows"),
        ({"edits": Edits(ONE, ONE, ONE, ["k"], ["\ud83d"])}, "half of a surrogate pair"),
        ({"edits": Edits(ONE, ONE, ONE, ["k"], [3])}, "edits returned a Edits"),
    ],
)
def test_odd_answers_are_told(answers: dict[str, Any], told: str) -> None:
    batch = DocumentBatch.of(["é text"], source="s", urls=["u"])
    with pytest.raises(PluginError, match=rf"(?s)filter 'odd'.*{told}.*L3-(DAT-(286|107|262)|PLG-043)"):
        opinion({"odd": Answering(**answers)}, batch)


def test_odd_answers_of_those_that_see_documents_before_are_told() -> None:
    batch = DocumentBatch.of(["a text"], source="s", urls=["u"])
    for languages in (None, ["en", "de"], [None]):
        with pytest.raises(PluginError, match="languages returned"):
            labelled({"odd": Answering(languages=languages)}, batch)
    assert labelled({"odd": Answering(languages=["\ud83d"])}, batch).column("language") == ["\\ud83d"]
    for found in (None, {"a": [None, "x"]}):
        with pytest.raises(PluginError, match="surveyed returned"):
            surveyed("odd", Answering(surveyed=found))


@pytest.mark.parametrize("place", [(0, 0, 1), (0, 5, 99), (0, 3, 2), (1, 0, 1), (0, -2, 2)])
def test_an_edit_that_is_no_part_of_its_document_is_told(tmp_path: Path, place: tuple[int, ...]) -> None:
    batch = DocumentBatch.of(["é text"], source="s", urls=["u"])
    edits = Edits(*(np.array([at]) for at in place), ["k"], ["new"])
    with Editor(tmp_path / "edits") as editor, pytest.raises(PluginError, match=r"odd.*no part.*L3-DAT-287"):
        editor.edit(batch, {"odd": edits})


def test_a_filter_that_fails_there_stops_the_stage(tmp_path: Path, heavy: None, curated: Callable) -> None:
    with pytest.raises(PluginError, match="it was the document"):
        curated(**section(tmp_path, [prose(1), prose(2) + " it fails"]))


def test_built_in_filters_need_no_process(tmp_path: Path, curated: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llama3.data.watching.WatchedFilters.start", lambda self: 1 / 0)
    corpus, out = curated(**section(tmp_path, [prose(1), prose(2)]) | {"filters": ["gopher"]})
    assert len(corpus) == 2
    assert "bounds" not in out.metrics["funnel"]
