"""What the page of a report is made of: its parts, read with an HTML parser as a browser or a screen reader would."""

from __future__ import annotations

import copy
import json
from html.parser import HTMLParser
from typing import Any

import pytest
from test_report import REPORT

from llama3.artifacts.files import write_json_atomic
from llama3.evaluation.intervals import wilson
from llama3.evaluation.report import render_html
from llama3.evaluation.verdict import verdict_of

VOID = {"meta", "br"}
RATE = wilson(60, 100).to_json()
FULL: dict[str, Any] = {
    **REPORT,
    "curation": {
        "documents": 80,
        "bytes": 9000,
        "sources": ["web", "book"],
        "stages": [
            {"stage": "read", "documents": 100, "bytes": 10_000, "document_share": 1.0, "byte_share": 1.0,
             "by_source": {"web": 90, "book": 10}},
            {"stage": "train", "documents": 80, "bytes": 9000, "document_share": 0.8, "byte_share": 0.9,
             "by_source": {"web": 80}},
        ],
        "told": ["source 'web': <much> went"],
        "removed": [{"reason": "near.near_duplicate", "count": 20, "share": 1.0}],
        "shares": {"language": [{"value": "en", "documents": 80, "share": 1.0}]},
        "samples": [
            {"what": "changed", "source": "web", "id": "ab", "score": None, "detail": "", "before": "<b>", "after": ""},
            {"what": "near.near_duplicate", "source": "web", "id": "cd", "score": 0.9, "detail": "of ef", "before": "x",
             "other": "y"},
        ],
    },
    "made": {
        "date": "2026-11-30T05:22:07+00:00",
        "seconds": 3723.4,
        "versions": ["0.1.0"],
        "commits": [f"{'ab' * 20}-dirty"],
    },
    "models": {
        "base": {"what": "the model that this run was given (<toy>), unchanged", "artifact": "aa" * 32},
        "final": {"what": "base after averaging", "artifact": "bb" * 32},
    },
    "verdict": {"state": "failed", "title": "Failed: 2 of 2 suites; not released", "lines": ["tasks: a <loss>"]},
    "evaluations": {
        "base": {"tasks": {"pass_rate": RATE, "better": "higher"}, "text": {"bits_per_byte": 1.9, "better": "lower"}},
        "final": {"tasks": {"pass_rate": RATE, "better": "higher"}, "text": {"error": "ValueError: <no>"}},
    },
    "losses": [
        {"source": "files", "reason": "not <text>", "count": 1200, "examples": [{"where": "a.txt", "detail": "byte 3"}]}
    ],
    "examples": [
        {
            "family": "sums",
            "prompt": "1 + 1?",
            "expected": "<2>",
            "answers": {"base": "fish", "final": "2", "int8": "", "judge": "hm"},
            "scores": {"base": 0.0, "final": 1.0, "int8": None, "judge": 0.5},
        }
    ],
    "curves": {
        "loss": {"pretrain": [[1, 8.0], [2, 7.0]], "sft-1": [[1, 3.0], [2, 2.0]], "sft-2": [[1, 2.5], [2, 1.5]]},
        "reward": {"prefer-1": [[3, 0.25]]},
        "kl": {},
        "length": {"prefer-1": []},
        "histograms": {
            "reject-1": {"edges": [0.5, 1.5], "counts": {"all": [7]}, "unknown": 0},
            "reject-2": {"edges": [], "counts": {}, "unknown": 9},
            "prefer-1": {"edges": [0.0, 0.5, 1.0], "counts": {"all": [3, 1]}, "unknown": 0},
        },
    },
    "stages": [
        {"key": "curate", "stage": "curate", "artifact": "cd" * 32, "created": "2026-11-30T05:20:00+00:00",
         "seconds": 4.81},
        {"key": "final", "stage": "cast", "artifact": "ef" * 32, "created": "2026-11-30T05:22:00+00:00",
         "seconds": None},
    ],
}  # fmt: skip


class Element:
    """A tag with its attributes, its text and what it holds."""

    def __init__(self, tag: str, attributes: dict[str, str], parent: Element | None = None) -> None:
        self.tag, self.attributes, self.parent = tag, attributes, parent
        self.children: list[Element] = []
        self.words: list[str] = []

    def all(self, tag: str, **attributes: str) -> list[Element]:
        found = [self] if self.tag == tag and attributes.items() <= self.attributes.items() else []
        return found + [element for child in self.children for element in child.all(tag, **attributes)]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def above(self) -> list[Element]:
        return [] if self.parent is None else [self.parent, *self.parent.above()]


class Page(HTMLParser):
    """The tree of a page; a tag that closes another than the open one fails."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.root = self.open = Element("", {})
        self.feed(source)
        self.close()
        assert self.open is self.root, f"<{self.open.tag}> is never closed"

    def handle_starttag(self, tag, attrs):
        element = Element(tag, {name: value or "" for name, value in attrs}, self.open)
        self.open.children.append(element)
        if tag not in VOID:
            self.open = element

    def handle_startendtag(self, tag, attrs):
        self.open.children.append(Element(tag, {name: value or "" for name, value in attrs}, self.open))

    def handle_endtag(self, tag):
        assert tag == self.open.tag, f"</{tag}> closes <{self.open.tag}>"
        self.open = self.open.parent

    def handle_data(self, data):
        for element in [self.open, *self.open.above()]:
            element.words.append(data)

    def section(self, identity: str) -> Element | None:
        found = [s for s in self.root.all("section") if s.attributes["aria-labelledby"] == identity]
        return found[0] if found else None


def page(**changes: Any) -> Page:
    return Page(render_html({**copy.deepcopy(FULL), **changes}))


@pytest.mark.parametrize("report", [REPORT, FULL], ids=["of an earlier version", "whole"])
def test_a_page_can_be_read_without_seeing_it(report):
    readable(Page(render_html(report)).root)


def readable(root: Element) -> None:
    (html,) = root.all("html")
    assert html.attributes["lang"] == "en"
    assert len(root.all("h1")) == len(root.all("main")) == len(root.all("title")) == 1
    identities = [e.attributes["id"] for tag in ("h2", "h3") for e in root.all(tag) if "id" in e.attributes]
    assert len(identities) == len(set(identities))
    assert {section.attributes["aria-labelledby"] for section in root.all("section")} == set(identities)
    for table in root.all("table"):
        around = table.above()[0]
        assert around.attributes["class"] == "scroll", "a wide table scrolls by itself, not the page"
        assert around.attributes["aria-label"]
        assert around.attributes["tabindex"] == "0"
        (head,) = table.all("thead")
        for row in table.all("tr"):
            assert len(row.all("th") + row.all("td")) == len(head.all("th")), "rows are as long as their head"
    assert all(cell.attributes["scope"] in ("col", "row") for cell in root.all("th"))
    for svg in root.all("svg"):
        assert svg.attributes["role"] == "img"
        assert svg.attributes["aria-label"]


def test_it_brings_everything_along_and_fits_phone_paper_and_dark_rooms():
    source = render_html(FULL)
    root = Page(source).root
    for tag in ("script", "link", "img", "iframe", "a", "object"):
        assert root.all(tag) == []
    assert {meta.attributes.get("name") for meta in root.all("meta")} >= {"viewport", "color-scheme"}
    (policy,) = [m for m in root.all("meta") if m.attributes.get("http-equiv") == "Content-Security-Policy"]
    assert policy.attributes["content"].startswith("default-src 'none'")
    (style,) = root.all("style")
    for rule in ("(prefers-color-scheme: dark)", "@media print", "@media (max-width:", "break-inside: avoid"):
        assert rule in style.text
    assert not [e for tag in ("polyline", "line", "rect", "text") for e in root.all(tag) if "fill" in e.attributes]


def test_the_top_says_when_by_what_and_what_came_of_it():
    found = page()
    (header,) = found.root.all("header")
    assert "2026-11-30 05:22 UTC" in header.text
    assert "llama3 0.1.0" in header.text
    assert "abababababab-dirty" in header.text
    assert "1:02:03" in header.text
    verdict = found.section("verdict")
    assert verdict.attributes["class"] == "verdict failed"
    assert "✗ Failed: 2 of 2 suites; not released" in verdict.text
    assert [item.text for item in verdict.all("li")] == ["tasks: a <loss>"]
    names = [name.text for name in found.section("models").all("dt")]
    assert names == ["base", "final"]
    assert "(<toy>), unchanged" in found.section("models").text
    stages = found.section("stages")
    assert "2026-11-30 05:20 UTC" in stages.text
    assert "4.8 s" in stages.text


def test_answers_are_marked_and_stand_beside_the_expected_one():
    section = page().section("examples")
    assert "Expected: <2>" in section.text
    (answers,) = section.all("div", **{"class": "answers"})
    assert [answer.text for answer in answers.children] == [
        "base ✗ wrong fish",
        "final ✓ right 2",
        "int8 not scored (an empty answer)",
        "judge score 0.5 hm",
    ]


def test_answers_of_the_audit_are_marked_too():
    examples = copy.deepcopy(FULL["audit_examples"])
    examples["tasks"][0]["expected"] = "4"
    audit = page(audit_examples=examples).section("audit")
    assert "Expected: 4" in audit.text
    assert "before ✓ right 4" in audit.text
    assert "after ✗ wrong <b>fish" in audit.text


def test_every_suite_is_shown_and_one_that_failed_says_why():
    rows = [[cell.text for cell in row.all("th") + row.all("td")] for row in page().section("suites").all("tr")]
    assert rows[1][:3] == ["tasks", "pass_rate", "higher"]
    assert "60.0 %" in rows[1][3]
    assert "n = 100" in rows[1][3]
    assert rows[2] == ["text", "bits_per_byte", "lower", "1.9", "failed: ValueError: <no>"]


def test_input_that_was_lost_is_told_with_its_reason():
    rows = [[cell.text for cell in row.all("th") + row.all("td")] for row in page().section("lost").all("tr")]
    assert rows[1] == ["files", "not <text>", "1,200", "a.txt: byte 3"]
    assert page(losses=[]).section("lost") is None
    assert "1,200 records of the input could not be read (see below)." in of(None, losses=FULL["losses"])["lines"]


def test_the_curves_of_all_rounds_are_drawn():
    figures = page().section("losses").all("figure")
    assert [figure.all("figcaption")[0].text for figure in figures] == ["pretrain", "sft-1 to sft-2"]
    assert [len(figure.all("polyline")) for figure in figures] == [1, 2]
    assert "sft-1 from 3 to 2, sft-2 from 2.5 to 1.5" in figures[1].all("svg")[0].attributes["aria-label"]
    first, second = figures[1].all("polyline")
    assert first.attributes.get("stroke-dasharray") != second.attributes.get("stroke-dasharray"), "not by colour alone"
    told = {text.text for text in figures[1].all("text")}
    assert {"sft-1", "sft-2"} <= told


def test_what_is_no_curve_is_told_in_words():
    figures = page().section("rollouts").all("figure")
    told = {figure.all("figcaption")[0].text: figure for figure in figures}
    assert told.keys() == {"mean reward: prefer-1", *(f"rewards of {n}" for n in ("reject-1", "prefer-1"))} | {
        "rewards of reject-2 (9 answers without one)"
    }
    assert "prefer-1: 0.25 at step 3" in told["mean reward: prefer-1"].text
    assert "All 7 answers have the reward 1." in told["rewards of reject-1"].text
    assert "No reward is known." in told["rewards of reject-2 (9 answers without one)"].text
    assert [len(figure.all("svg")) for figure in told.values()] == [0, 0, 0, 1]


def test_nothing_is_plotted_where_nothing_was_measured():
    empty = {"loss": {}, "reward": {}, "kl": {}, "length": {}, "histograms": {}}
    bare = page(curves=empty, pass_rate={}, pass_rate_by_family={}, examples=[], funnel=[], audit=None, quantization={},
                evaluations={}, safety={"policy": {}})  # fmt: skip
    assert bare.root.all("svg") == []
    for name in ("losses", "rollouts", "tasks", "examples", "corpus", "audit", "quantization", "suites"):
        assert bare.section(name) is None, name
    assert "No guard is configured." in bare.section("guards").text
    assert "recorded" not in bare.root.text


def of(audit: dict | None, **changes: Any) -> dict[str, Any]:
    report = {
        "audit": audit,
        "artifacts": {"release": "ab" * 32},
        "pass_rate": {"base": wilson(1, 100).to_json(), "final": wilson(60, 100).to_json()},
        "bits_per_byte_by_model": {"base": 1.5, "final": 2.0},
        "bits_per_byte": {"model": 1.5, "gzip": 1.9},
        "changes": [],
        "contamination": {"text": {"contaminated": 3, "n": 5}, "dialogs": {"contaminated": 0, "n": 5}},
        "evaluations": {"base": {"refusals": {"rate": 1}, "tasks": {"pass_rate": {}}, "text": {"bits_per_byte": 1.5}}},
    }
    return verdict_of({**report, **changes})


def test_the_verdict():
    raised = of(None)
    assert raised["state"] == "none"
    assert raised["title"].startswith("Released")
    assert raised["lines"] == [
        "Held-out tasks solved: 1.0 % by base, 60.0 % by final.",
        "Bits per byte of held-out text: 1.500 by base, 2.000 by final.",
        "Base beats gzip, which needs 1.900 bits per byte; final needs 33.3% more than base.",
    ]
    change = {"suite": "tasks", "from": "sft", "to": "final", "better": "higher", "change": 0.033, "paired_low": 0.012,
              "paired_high": 0.054, "way": "better"}  # fmt: skip
    told = of(None, changes=[change], bits_per_byte={"gzip": 1.4})["lines"]
    assert told[2] == "Base does not beat gzip, which needs 1.400 bits per byte; final needs 33.3% more than base."
    assert told[3] == "The preference stage, sft to final, on tasks: +3.3 points [+1.2, +5.4]: better."
    suite = {"passed": True, "why": "", "paired_low": None, "paired_high": None}
    assert of({"passed": True, "faults": [], "suites": {"tasks": suite}})["state"] == "passed"
    lost = of(
        {"passed": False, "faults": [], "suites": {"tasks": suite, "text": {"passed": False, "why": "a loss"}}},
        artifacts={},
        contamination={"text": {}, "dialogs": {"contaminated": 2, "n": 5}},
    )
    assert (lost["state"], lost["title"]) == ("failed", "Failed: 1 of 2 suites; not released")
    assert lost["lines"] == ["text: a loss", "2 of 5 held-out tasks stand in the training dialogs."]
    assert of({"passed": False, "faults": ["no suite was evaluated"], "suites": {}})["lines"] == [
        "no suite was evaluated"
    ]


@pytest.mark.parametrize(
    ("low", "high", "word"),
    [
        (0.001, 0.002, ": better."),
        (-0.002, -0.001, ": worse."),
        (-0.002, 0.001, ": no difference that these items can tell."),
        (0.0, 0.0, ": no difference that these items can tell."),
        (None, None, "."),
    ],
)
def test_the_word_for_a_change_follows_the_interval_of_the_audit(low, high, word):
    """However large or small the change itself looks."""
    row = {"passed": True, "why": "", "paired_low": low, "paired_high": high}
    audit = {"passed": True, "faults": [], "suites": {"tasks": row, "text": row}}
    tasks, text = of(audit, bits_per_byte_by_model={"base": 1.5, "final": 1.499})["lines"]
    assert tasks == f"Held-out tasks solved: 1.0 % by base, 60.0 % by final{word}"
    assert text == f"Bits per byte of held-out text: 1.500 by base, 1.499 by final{word}"


def test_rates_that_measurement_cannot_tell_apart_are_said_so():
    rates = {"base": wilson(50, 100).to_json(), "final": wilson(52, 100).to_json()}
    assert "within the error of measurement" in of(None, pass_rate=rates)["lines"][0]
    assert of(None, pass_rate={}, bits_per_byte_by_model={"base": None, "final": None})["lines"] == []


def test_text_that_no_file_can_hold_harms_nothing(tmp_path):
    example = {**copy.deepcopy(FULL["examples"][0]), "prompt": "half \ud83d of a pair"}
    assert "half ? of a pair" in page(examples=[example]).root.text
    write_json_atomic(tmp_path / "report.json", {"examples": [example]})
    assert json.loads((tmp_path / "report.json").read_bytes())["examples"] == [example]
