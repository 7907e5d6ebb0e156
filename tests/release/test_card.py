"""The model card is text, whatever names and metrics hold, and tells the stages in the order in which they ran."""

from __future__ import annotations

import re
from collections import Counter

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token

from llama3.evaluation.stages import SAFETY_MARK
from llama3.model.config import ModelConfig
from llama3.release import markdown
from llama3.release.card import Card, model_card
from llama3.release.carried_guards import CarriedGuard
from llama3.release.history import in_order, rounds
from llama3.release.markdown import JOINER
from llama3.release.safety_card import SafetyFacts

HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=y>",
    "![a](http://example.org/b.png)",
    "[a](javascript:b)",
    "[a][b]",
    "` | <b>x</b> `",
    "``` <b>x</b>",
    "**loud** _soft_ ~~gone~~",
    "a | b | c",
    "\\| \\<b>",
    "line\n\n# heading\n| x |",
    "&lt;b&gt; &#60;b&#62;",
    "http://evil.example/x HTTPS://EVIL.EXAMPLE ftp://a.b www.evil.example WWW.evil.example",
    "a@evil.example @name @org/team org/repo#1 #1 GH-7 :smile: :+1:",
    "[^1] [ ] [x] done [a]: there",
    "$x$ $$y$$ \\(z\\) \\[z\\]",
    "a\u200bb\u200dc\ufeffd\u2060e\xadf\U000e0041\U000e0101\u3164\u115f",
    "\x1b[31mred\x07 \u202egnp.exe \ud800",
]


def row(stage: str, number: int, *parents: tuple[str, str], kind: str = "checkpoint", **metrics):
    return {
        "hash": f"{stage}{number}".ljust(64, "f"),
        "type": kind,
        "stage": stage,
        "plugins": [],
        "metrics": metrics,
        "parents": [{"role": role, "hash": name.ljust(64, "f")} for role, name in parents],
    }


def lineage(count: int) -> list[dict]:
    """What `count` rounds leave, newest first, as `lineage.json` has it."""
    rows = [row("curate", 0, kind="corpus", documents=5), row("pretrain", 0, ("corpus", "curate0"), loss=2.5)]
    final = "pretrain0"
    for n in range(1, count + 1):
        rows += [
            row("reject", n, ("checkpoint", final), kind="dialogs", samples=n),
            row("sft", n, ("checkpoint", "pretrain0"), ("dialogs", f"reject{n}"), loss=n / 8),
            row("prefer", n, ("checkpoint", f"sft{n}"), pairs=n),
            row("average", n, ("a", f"sft{n}"), ("b", f"prefer{n}"), distance=n / 16),
        ]
        final = f"average{n}"
    return [row("cast", 0, ("checkpoint", final), precision="bf16"), *rows[::-1]]


def card(**changes) -> str:
    facts = {
        "name": "small",
        "license": "apache-2.0",
        "made_from": None,
        "model": ModelConfig(32, 2, 4, 2, 48, 400),
        "exports": [],
        "policy": {},
        "lineage": lineage(1),
        "reports": {},
        "audit": None,
        "checkpoints": {},
    }
    return model_card(Card(**{**facts, **changes}))


def section(text: str, title: str) -> str:
    return text.split(f"\n## {title}\n")[1].split("\n## ")[0]


def test_the_rounds_of_a_stage_stand_side_by_side_in_their_order():
    training = section(card(lineage=lineage(3)), "Training")
    titles = re.findall(r"^\*\*(\w+)\*\* \((.*)\)$", training, re.MULTILINE)
    assert [stage for stage, _ in titles] == ["pretrain", "reject", "sft", "prefer", "average", "cast"]
    assert titles[2][1] == ", ".join(f"`sft{n}ffffffff`" for n in (1, 2, 3))
    assert "|  | round 1 | round 2 | round 3 |" in training
    assert "| loss | 0.125 | 0.25 | 0.375 |" in training
    assert "| samples | 1 | 2 | 3 |" in training
    assert "| precision | bf16 |" in training


def test_the_lineage_begins_with_the_text_and_counts_rounds():
    rows = [line.split(" | ") for line in section(card(lineage=lineage(2)), "Lineage").splitlines() if "`" in line][1:]
    assert [cells[0].removeprefix("| ") for cells in rows] == [
        "curate", "pretrain", "reject", "sft", "prefer", "average", "reject, round 2", "sft, round 2",
        "prefer, round 2", "average, round 2", "cast",
    ]  # fmt: skip
    assert "round" not in section(card(), "Training")


@pytest.mark.parametrize("count", [0, 1, 40])
def test_order_and_rounds_of_many_artifacts(count):
    rows = lineage(count)
    ordered = [made["hash"] for made in in_order(rows)]
    assert len(ordered) == len(rows)
    for made in rows:
        for parent in made["parents"]:
            assert ordered.index(parent["hash"]) < ordered.index(made["hash"])
    nth = rounds(rows)
    assert [nth[f"sft{n}".ljust(64, "f")] for n in range(1, count + 1)] == list(range(1, count + 1))


def test_a_parent_that_is_not_there_is_left_out():
    rows = [row("sft", 1, ("checkpoint", "gone")), {"hash": "0" * 64, "missing": True, "parents": []}]
    assert {made["hash"] for made in in_order(rows)} == {made["hash"] for made in rows}
    assert "missing" in section(card(lineage=rows), "Lineage")


def inline(text: str) -> list[Token]:
    """What a renderer makes of the card, but its blocks."""
    body = text.split("\n---\n", 1)[1]
    tokens = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(body)
    assert [token.content for token in tokens if token.type == "html_block"] == []
    assert [token.tag for token in tokens if token.type == "heading_open"].count("h1") == 1
    return [child for token in tokens for child in token.children or ()]


def safety(name: str) -> dict:
    """The figures of a suite of safety whose every name is this one."""
    rate = {"rate": 0.25, "low": 0.1, "high": 0.5, "n": 16, "unjudged": 0}
    rates = {"vr": rate, "frr": rate, "helpful": None}
    card = {"sensitivity": rate, "specificity": rate, "kappa": {"rate": 0.5}}
    change = {"change": -0.1, "low": -0.2, "high": 0.0, "relative": -0.5, "n": 16}
    return {
        **rates,
        "rows": {"adversarial": 16, "borderline": 16, "benign": 0},
        "systems": {"none": rates, name: rates},
        "changes": {name: {"vr": change, "frr": change}},
        "by_category": {name: rates},
        "by_language": {name: rates},
        "without_guards": {"by_category": {name: rates}, "by_language": {name: rates}},
        "prompts": {"sources": {name: 16}, "attacks": {name: 3}},
        "judges": {"violates": {"judge": name, "threshold": 0.5, "card": card},
                   "refuses": {"judge": name, "threshold": 0.5, "card": None}},
        "guards": [name],
    }  # fmt: skip


def figures_of_a_guard(name: str) -> dict:
    row = {"f1": 0.5, "recall": 0.5, "fpr": 0.1, "attacks": 7, "harmless": 9}
    return {"all": row, "categories": {name: row}, "taxonomy": {name: name}}


def full_of(name: str) -> str:
    """A card with this name, or text, in every place that others fill."""
    return card(
        name=name,
        made_from=name,
        exports=[{"name": name, "dtype": name, "verified": 3, "difference": 0.0}],
        policy={name: {"guard": name}},
        lineage=[row(name, 0, (name, "x"), **{name: name, "many": [name]})],
        reports={name: {name: {"rate": name}}, "evaluation": {name: safety(name)}},
        safety=SafetyFacts(
            guards=[CarriedGuard(name, name, name, name, name, name, figures_of_a_guard(name))],
            results={
                name: safety(name),
                "other": {SAFETY_MARK: name, name: {"rate": 0.5, "low": 0, "high": 1, "n": 2}},
            },
            unasked=[name],
        ),
        checkpoints={name: {name: 1.5}},
    )


@pytest.mark.parametrize("hostile", HOSTILE)
def test_nothing_from_outside_becomes_markup(hostile):
    text = full_of(hostile)
    text.encode()
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202e]", text.split("\n---\n", 1)[1])
    found, plain = inline(text), inline(full_of("name"))
    # The same bold words and cells as with an innocent name; the only HTML is what a bar in code needs.
    found = inline(text)
    kinds = lambda tokens: Counter(t.type for t in tokens if t.type not in ("text", "code_inline", "html_inline"))
    assert kinds(found) - Counter(text_special=10**6) == kinds(plain)
    assert {token.content for token in found if token.type == "html_inline"} <= {"<code>", "</code>"}


def test_what_was_not_measured_is_said():
    told = section(card(safety=SafetyFacts(results={"pass_rate": {"rate": 0.5}}, unasked=["memory"])), "Safety")
    assert "**Not measured:** `memory`." in told
    assert "**No red team** is known to have attacked it" in told
    assert "No guard is configured." in told
    assert "**Not measured:** how often it violates, and how often it refuses for nothing." in told
    told = section(card(safety=SafetyFacts(results={"safety": safety("name")})), "Safety")
    assert "Not measured" not in told
    assert "No people's labels say how often the judge of who refuses errs" in told


@pytest.mark.parametrize("hostile", HOSTILE)
def test_text_is_read_back_as_it_is(hostile):
    lines = list(markdown.table(("a", "b"), [(markdown.text(hostile), markdown.code(hostile))]))
    tokens = MarkdownIt("commonmark").enable("table").parse("\n".join(lines))
    cells = [token for token in tokens if token.type == "inline"][2:]
    assert len(cells) == 2
    shown = "".join(token.content for token in cells[0].children)
    unseen = "[\x00-\x1f\x7f\xad\u115f\u200b\u200d\u202e\u2060\u3164\ud800\ufeff\U000e0041\U000e0101]"
    expected = re.sub(unseen, "\ufffd", " ".join(hostile.split()))
    assert shown.replace(JOINER, "") == expected
    code = "".join(t.content for t in cells[1].children if t.type != "html_inline")
    assert (code.replace(JOINER, "") if "|" in hostile else code) == expected


LINKED = re.compile(
    r"""[a-z][a-z+.-]*://\S | \bwww\.\S | \w@\w+\.\w | (?<!\w)@\w | \#\d | \bgh-\d | :[\w+-]+:""",
    re.VERBOSE | re.IGNORECASE,
)
"""What renderers make links and pictures of in text that was read already (GFM's autolinks, mentions, emoji)."""


@pytest.mark.parametrize("hostile", HOSTILE)
def test_nothing_from_outside_becomes_a_link_after_it_was_read(hostile):
    written = markdown.text(hostile)
    (line,) = [token for token in MarkdownIt("commonmark").parse(written) if token.type == "inline"]
    assert not LINKED.search("".join(token.content for token in line.children))
    assert not re.search(r"\$|\\[\\()]|(?<!\\)\[(?:\^|[ x]\])", written)


@pytest.mark.parametrize(
    ("policy", "told"),
    [
        ({"input": "regex"}, "a guard that fails blocks:"),
        (
            {
                "input": {"any": ["pii", {"guard": {"name": "regex"}, "on_error": "review"}]},
                "output": {"guard": "pii", "on_error": "allow", "advisory": True},
            },
            "a guard that fails blocks, but for `regex` at input (review), `pii` at output (allow):",
        ),
    ],
)
def test_what_a_guard_that_fails_does_is_said_of_each(policy, told):
    assert told in section(card(policy=policy), "Safety")


def test_text_that_needs_no_escape_has_none():
    for plain in (
        "sources.files.documents",
        "max_relative_error",
        "50.0 % [40.4, 59.6] (n = 100)",
        "C++ at 10:30",
        "loss/nll",
    ):
        assert markdown.text(plain) == plain
    assert markdown.text("_soft_") == "\\_soft\\_"
    assert markdown.code("a `b` c") == "``a `b` c``"
    assert markdown.code("`") == "`` ` ``"
