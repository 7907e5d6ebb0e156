"""What contamination is worth: the estimated gain by threshold, against its definition and on planted contamination."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel
from test_report import REPORT

from llama3.artifacts import Stage
from llama3.artifacts.run import RunDir
from llama3.evaluation.audit import Suite
from llama3.evaluation.gain import THRESHOLDS, contamination_gains, gain_at, suite_gain
from llama3.evaluation.report import render_html


def suite(scores, better="higher", weights=None):
    weights = weights if weights is not None else [1.0] * len(scores)
    rows = {str(n): {"score": s, "weight": w} for n, (s, w) in enumerate(zip(scores, weights, strict=True))}
    return Suite(better, rows)


items = st.lists(st.tuples(st.sampled_from([0.0, 0.3, 0.8, 1.0]), st.floats(0, 1), st.integers(1, 5)), min_size=2)


@given(items, st.sampled_from(THRESHOLDS), st.sampled_from(["higher", "lower"]))
def test_the_gain_is_all_less_clean(rows, threshold, better):
    share, score, weight = map(np.array, zip(*rows, strict=True))
    found = gain_at(threshold, share, score, weight, better)
    clean = [(s, w) for c, s, w in rows if c < threshold]
    assert found["contaminated"] == len(rows) - len(clean)
    if not clean:
        assert found["clean_score"] is found["gain"] is None
        return
    figure = sum(s for s, _ in clean) / sum(w for _, w in clean)
    gain = score.sum() / weight.sum() - figure
    assert found["clean_score"] == pytest.approx(figure)
    assert found["gain"] == pytest.approx(gain if better == "higher" else -gain)
    assert found["z"] is None or found["gain"] * found["z"] >= -1e-9


def test_the_threshold_of_the_largest_significant_gain_is_reported():
    """Items from a coverage of 0.6 on are the easiest; those of the least are not the hardest."""
    share = {str(n): n / 200 for n in range(200)}
    easy = [float(n >= 120 or n % (4 if n < 60 else 2) > 0) for n in range(200)]
    hard = [float(n % 3 > 0) for n in range(200)]
    found = suite_gain({"small": suite(hard), "large": suite(easy)}, share)
    assert (found["verdict"], found["threshold"], found["contaminated"], found["n"]) == ("estimated", 0.6, 80, 200)
    large = found["models"]["large"]
    assert large["gain"] == pytest.approx(np.mean(easy) - np.mean(easy[:120]))
    assert large["contaminated_score"] == 1.0
    assert abs(found["models"]["small"]["gain"]) < 0.02
    cost = suite_gain({"one": suite([2 - s for s in easy], "lower")}, share)
    assert (cost["verdict"], cost["threshold"]) == ("estimated", 0.6)
    assert cost["models"]["one"]["gain"] == pytest.approx(large["gain"])


@pytest.mark.parametrize(
    ("scores", "verdict"),
    [
        ([float(n % 2) for n in range(200)], "not significant"),
        ([1.0] * 200, "not significant"),
        ([float(n % 2) for n in range(15)], "too few items"),
        ([1.0] * 70 + [0.0] * 60 + [1.0] * 70, "erratic"),
    ],
)
def test_there_is_no_estimate_where_none_can_be(scores, verdict):
    share = {str(n): n / len(scores) for n in range(len(scores))}
    found = suite_gain({"a": suite(scores)}, share)
    assert found["verdict"] == verdict
    assert found["threshold"] is found["contaminated"] is found["models"]["a"]["gain"] is None


class Written(BaseModel):
    """Rows of the files that a stage writes."""

    files: dict[str, list]


def write(options, out):
    for name, rows in options.files.items():
        (out.path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def gains(tmp_path):
    """The gains of one model, from what a contamination report and an evaluation write."""

    def of(coverage, samples, results):
        with RunDir(tmp_path / "run") as run:
            found = run.execute(
                Stage("contamination", write, "report"), {}, Written(files={"coverage.jsonl": coverage})
            )
            files = {"samples.jsonl": samples, "results.json": [results]}
            measured = run.execute(Stage("evaluate", write, "report"), {}, Written(files=files))
            return contamination_gains(found, {"final": measured})

    return of


def test_suites_whose_items_were_looked_for_are_told_in_the_report(gains):
    coverage = [{"id": f"t{n}", "coverage": float(n < 50), "longest": 0.5} for n in range(100)]
    tasks = [{"suite": "tasks", "id": f"t{n}", "score": float(n < 50 or n % 2)} for n in range(100)]
    other = [{"suite": "other", "id": "elsewhere", "score": 1.0}]
    better = {"better": "higher"}
    found = gains(coverage, tasks + other, {"tasks": better, "other": better})
    assert list(found) == ["tasks"]
    assert found["tasks"]["models"]["final"]["gain"] == pytest.approx(0.25)
    taken_out = {"sums": {"examples": 3, "too_short": 1, "found": 2, "documents": 7, "action": "mask", "left": 0}}
    page = render_html(REPORT | {"contamination_gain": found, "decontamination": taken_out})
    assert "50 of 100 items are contaminated" in page
    assert "0.250" in page
    assert "masked" in page
    assert "no estimate" not in page
