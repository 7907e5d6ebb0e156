"""The report page: self-contained, complete, and safe against what models write."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama3.evaluation.intervals import wilson
from llama3.evaluation.report import curves, render_html, thin

REPORT = {
    "schema": 1,
    "run": "demo",
    "model": {"parameters": 5_000_000, "n_layers": 6, "dim": 256, "vocab_size": 4096},
    "bits_per_byte": {"model": 1.9, "gzip": 2.5, "order3": 2.4},
    "bits_per_byte_by_model": {"base": 1.9, "final": 1.871},
    "pass_rate": {"base": wilson(1, 100).to_json(), "final": wilson(60, 100).to_json()},
    "pass_rate_by_family": {"list.max": {"base": {"rate": 0.0}, "final": {"rate": 0.5}}},
    "examples": [{"prompt": "1 + 1?", "answers": {"base": "<script>alert(1)</script>", "final": "2"}}],
    "contamination": {
        "text": {"n": 10, "contaminated": 0, "mean_coverage": 0.01, "ngram": 8, "threshold": 0.8},
        "dialogs": {
            "n": 10,
            "contaminated": 0,
            "leaks": [],
            "ngrams": {"n": 10, "contaminated": 0, "mean_coverage": 0.01, "ngram": 8, "threshold": 0.8},
        },
    },
    "funnel": [["read", 100], ["kept", 80]],
    "losses": [
        {
            "source": "web",
            "reason": "shard_quarantined",
            "count": 4,
            "examples": [{"where": "in/b.gz#0", "detail": "cannot be read <to its> end"}],
        }
    ],
    "loss": {"pretrain": [[1, 8.0], [2, 7.0]]},
    "rollouts": {
        "reward": {"prefer": [[1, 0.1], [2, 0.4]]},
        "kl": {"prefer": [[1, 0.0], [2, 0.02]]},
        "length": {},
        "histograms": {"prefer": {"edges": [0.0, 0.5, 1.0], "counts": {"first half": [3, 1]}, "unknown": 2}},
    },
    "audit": {
        "passed": False,
        "faults": [],
        "suites": {
            "tasks": {
                "better": "higher",
                "before": wilson(50, 100).to_json(),
                "after": wilson(20, 100).to_json(),
                "paired_low": -0.4,
                "paired_high": -0.2,
                "margin": 0.1,
                "passed": False,
                "why": "a <loss>",
            },
            "text": {
                "better": "lower",
                "before": None,
                "after": None,
                "paired_low": None,
                "paired_high": None,
                "margin": 0.05,
                "passed": False,
                "why": "it was not evaluated",
            },
        },
    },
    "audit_examples": {
        "tasks": [
            {
                "id": "a",
                "prompt": "2 + 2?",
                "before": {"answer": "4", "score": 1.0},
                "after": {"answer": "<b>fish", "score": 0.0},
            }
        ],
        "text": [],
    },
    "quantization": {"int8": {"bytes": 5_000_000, "bytes_bf16": 9_000_000, "mean_relative_error": 0.005}},
    "safety": {"policy": {"input": {"guard": "prompt_injection"}}},
    "artifacts": {"corpus": "cd" * 32},
}


def test_the_page_is_self_contained_and_escapes_answers():
    page = render_html(REPORT)
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert not re.search(r"(?:src|href)\s*=|url\(|@import", page)
    assert page.count("<svg") == 6
    assert "1.900" in page
    assert "60.0 %" in page


def test_the_page_shows_the_audit_with_its_examples():
    page = render_html(REPORT)
    assert "Audit: FAILED" in page
    assert "50.0 % [40.4, 59.6] (n = 100)" in page
    assert "<td>[-40.0, -20.0] pt</td>" in page
    assert "FAILED: a &lt;loss&gt;" in page
    assert "<pre>&lt;b&gt;fish</pre>" in page
    assert "rewards of prefer (2 answers without one)" in page
    without = render_html({**REPORT, "audit": None, "audit_examples": {}})
    assert "Audit" not in without


def test_a_missing_figure_is_an_error_and_not_a_blank():
    broken = {key: value for key, value in REPORT.items() if key != "quantization"}
    with pytest.raises(Exception, match="quantization"):
        render_html(broken)


def test_curves_keep_one_value_a_step():
    rows = [
        {"stage": "sft", "step": 2, "loss": 1.0},
        {"stage": "sft", "step": 1, "loss": 3.0},
        {"stage": "sft", "step": 2, "loss": 2.0},
        {"stage": "sft", "step": 3, "lr": 0.1},
    ]
    assert curves(rows, "loss") == {"sft": [(1, 3.0), (2, 2.0)]}


@given(st.integers(1, 2000), st.integers(2, 50))
def test_thinning_keeps_both_ends(count, most):
    points = [(float(i), 0.0) for i in range(count)]
    kept = thin(points, most)
    assert len(kept) == min(count, most)
    assert (kept[0], kept[-1]) == (points[0], points[-1])


def test_every_model_that_was_measured_on_text_is_shown():
    assert "1.871" in render_html(REPORT)
    unmeasured = REPORT | {"bits_per_byte_by_model": {"base": None, "final": None}}
    page = render_html(unmeasured)
    assert "1.871" not in page
    assert "2.500" in page
