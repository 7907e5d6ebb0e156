"""The audit: what it lets pass, and that it fails closed on everything else."""

from __future__ import annotations

import json
import math
import random

import pytest

from llama3.artifacts import PluginUse
from llama3.cli.run import show, show_audit
from llama3.config.audits import SafetyGateSection
from llama3.errors import GateFailed
from llama3.evaluation.audit import AuditOptions, audit, require_auditable, require_passed, table
from llama3.evaluation.intervals import wilson
from llama3.evaluation.verdict import verdict_of
from llama3.recipe import Run


def options(suites=("tasks", "text"), **changes):
    base = {"margin": 0.1, "relative_margin": 0.05, "margins": {}, "must_improve": [], "seed": 1}
    return AuditOptions(suites=list(suites), **{**base, **changes})


def tasks(count=200, right=0.5, seed=0, start=0):
    rng = random.Random(seed)
    return [
        {"id": f"t{i}", "prompt": f"p{i}", "answer": "a", "score": float(rng.random() < right)}
        for i in range(start, start + count)
    ]


def text(count=20, bits=2.0):
    return [{"id": f"d{i}", "score": bits * (1000 + 10 * i), "weight": 1000 + 10 * i} for i in range(count)]


@pytest.fixture
def audited(run, evaluation):
    """The audit of two sets of suites."""

    def make(before, after, **changes):
        inputs = {"before": evaluation("before", before), "after": evaluation("after", after)}
        return run.execute(audit, inputs, options(**changes))

    return make


def failure(artifact, suite):
    row = artifact.metrics["suites"][suite]
    assert row["passed"] is False
    assert artifact.metrics["passed"] is False
    with pytest.raises(GateFailed) as caught:
        require_passed(artifact)
    assert any(suite in str(problem) and row["why"] in str(problem) for problem in caught.value.problems)
    assert caught.value.exit_code == 5
    return row["why"]


def test_a_model_against_itself_passes(audited):
    made = audited({"tasks": tasks(), "text": text()}, {"tasks": tasks(), "text": text()})
    assert made.metrics["passed"] is True
    require_passed(made)
    row = made.metrics["suites"]["tasks"]
    # None of 200 items was lost or gained: more than 1.8 points either way is excluded, and nothing below that.
    assert (row["paired_low"], row["paired_high"]) == (
        pytest.approx(-0.0183, abs=1e-4),
        pytest.approx(0.0183, abs=1e-4),
    )
    assert row["before"] == row["after"]
    assert row["before"].keys() == {"rate", "low", "high", "n"}
    assert made.metrics["suites"]["text"]["before"]["rate"] == pytest.approx(2.0)


def test_limits_of_safety_are_part_of_the_audit(evaluation, run):
    """Of the model afterwards, both; and before training it is told where so few rows could never show it."""
    rates = lambda vr, frr, n: {"vr": wilson(vr, n).to_json(), "frr": wilson(frr, n).to_json(), "judges": {}}
    rows = {"safety": tasks()}
    made = {
        name: evaluation(name, rows, figures={"safety": rates(*counts)})
        for name, counts in {"bad": (60, 3, 100), "good": (0, 3, 100), "few": (0, 0, 20)}.items()
    }
    limited = options(suites=["safety"], safety=SafetyGateSection(vr_at_most=0.05, frr_at_most=0.1))
    passed = run.execute(audit, {"before": made["bad"], "after": made["good"]}, limited, key="passed")
    require_passed(passed)
    assert passed.metrics["gates"]["vr"]["before"]["rate"] == 0.6
    failed = run.execute(audit, {"before": made["good"], "after": made["bad"]}, limited, key="failed")
    with pytest.raises(GateFailed, match=r"violation rate above 5\.0% is not excluded") as caught:
        require_passed(failed)
    assert (len(caught.value.problems), caught.value.exit_code) == (1, 5)
    assert [row[-1][:6] for row in table(failed.metrics)] == ["passed", "FAILED", "passed"]
    told = {"audit": failed.metrics, "artifacts": {}, "contamination": {}}
    assert verdict_of(told)["title"] == "Failed: 1 of 2 limits of safety; not released"
    require_auditable(made["bad"], limited)
    with pytest.raises(GateFailed, match=r"20 rows cannot show a violation rate of at most 5\.0%"):
        require_auditable(made["few"], limited)


def test_gains_pass_and_can_be_demanded(audited):
    before, after = {"tasks": tasks(right=0.3), "text": text()}, {"tasks": tasks(right=0.7), "text": text()}
    made = audited(before, after, must_improve=["tasks"])
    assert made.metrics["passed"] is True
    assert made.metrics["suites"]["tasks"]["paired_low"] > 0
    assert "must improve" in failure(audited(before, before, must_improve=["tasks"]), "tasks")


def test_a_loss_fails(audited):
    made = audited({"tasks": tasks(right=0.8), "text": text()}, {"tasks": tasks(right=0.3), "text": text()})
    assert "not excluded" in failure(made, "tasks")
    assert made.metrics["suites"]["text"]["passed"] is True


def test_text_may_cost_a_little_more_and_no_more(audited):
    before = {"tasks": tasks(), "text": text(bits=2.0)}
    assert audited(before, {**before, "text": text(bits=2.08)}).metrics["passed"] is True
    made = audited(before, {**before, "text": text(bits=2.2)})
    assert made.metrics["suites"]["text"]["paired_low"] == pytest.approx(-0.1)
    failure(made, "text")


def test_a_margin_of_its_own(audited):
    before = {"tasks": tasks(), "text": text(bits=2.0)}
    assert audited(before, {**before, "text": text(bits=2.2)}, margins={"text": 0.2}).metrics["passed"] is True


GOOD = {"tasks": tasks(), "text": text()}


@pytest.mark.parametrize(
    ("change", "suite", "why"),
    [
        ({"tasks": None}, "tasks", "not evaluated"),
        ({"tasks": "RuntimeError: boom"}, "tasks", "RuntimeError: boom"),
        ({"tasks": []}, "tasks", "no items"),
        ({"tasks": tasks(start=1)}, "tasks", "1 only before, 1 only after"),
        ({"tasks": [{**row, "prompt": "another"} for row in tasks()]}, "tasks", "another prompt"),
        ({"text": [{**row, "weight": 1} for row in text()]}, "text", "another prompt or size"),
        ({"tasks": [{**tasks()[0], "score": math.nan}, *tasks()[1:]]}, "tasks", "1 of the scores"),
        ({"tasks": [{**tasks()[0], "score": None}, *tasks()[1:]]}, "tasks", "1 of the scores"),
        ({"tasks": [*tasks(), tasks()[0]]}, "tasks", "twice"),
        ({"extra": tasks()}, "extra", "not evaluated"),
    ],
)
@pytest.mark.parametrize("side", ["before", "after"])
def test_it_fails_closed(audited, change, suite, why, side):
    bad = {name: rows for name, rows in {**GOOD, **change}.items() if rows is not None}
    made = audited(bad, GOOD) if side == "before" else audited(GOOD, bad)
    found = failure(made, suite)
    assert why in found
    assert [name for name, row in made.metrics["suites"].items() if not row["passed"]] == [suite]


@pytest.mark.parametrize(("suite", "rows"), [("tasks", tasks(35)), ("text", text(9))])
def test_too_few_items_prove_nothing(audited, suite, rows):
    suites = {**GOOD, suite: rows}
    assert "at least" in failure(audited(suites, suites), suite)


def test_an_interval_that_is_too_wide_fails(audited):
    # As many items gained as lost: no loss on average, but 40 items cannot tell.
    before = [{**row, "score": float(i % 2)} for i, row in enumerate(tasks(40))]
    after = [{**row, "score": 1 - row["score"]} for row in before]
    assert "not excluded" in failure(audited({**GOOD, "tasks": before}, {**GOOD, "tasks": after}), "tasks")


def test_a_cost_of_nothing_has_no_relative_change(audited):
    suites = {**GOOD, "text": [{**row, "score": 0} for row in text()]}
    assert "finite" in failure(audited(suites, suites), "text")


def test_too_few_items_are_told(audited):
    """The interval has no finite bound, though the change has."""
    few = [{**row, "weight": 1} for row in text()[:2]]
    other = [{**few[0], "score": few[0]["score"] * 0.9}, few[1]]
    made = audited({**GOOD, "text": few}, {**GOOD, "text": other})
    assert "2 items are too few" in failure(made, "text")
    row = made.metrics["suites"]["text"]
    assert (row["comparable"], row["paired_low"], row["paired_high"]) == (False, None, None)
    figures = [sum(item["score"] for item in items) / 2 for items in (few, other)]
    assert [row[when]["rate"] for when in ("before", "after")] == pytest.approx(figures), "told all the same"
    (told,) = [line for line in table(made.metrics) if line[0] == "text"]
    assert told[1].startswith(f"{figures[0]:.3f} [")
    assert told[3] == "-"


def test_nothing_evaluated_is_no_pass(audited):
    made = audited({}, {}, suites=())
    assert made.metrics["passed"] is False
    with pytest.raises(GateFailed, match="no suite"):
        require_passed(made)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"conditions": {"corpus": "another"}}, "different corpus"),
        ({"plugins": [PluginUse(family="evaluators", name="x", dist="d", version="2")]}, "different plugins"),
        ({"stage": "baselines"}, "no evaluation"),
    ],
)
def test_evaluations_under_other_conditions_are_not_compared(run, evaluation, changes, why):
    inputs = {"before": evaluation("before", GOOD), "after": evaluation("after", GOOD, **changes)}
    made = run.execute(audit, inputs, options())
    assert made.metrics["passed"] is False
    with pytest.raises(GateFailed, match=why):
        require_passed(made)


def test_the_gate_wants_an_audit_of_this_model(run, evaluation, audited):
    with pytest.raises(GateFailed, match="an audit is needed"):
        require_passed(evaluation("before", GOOD))
    made = audited(GOOD, GOOD)
    with pytest.raises(GateFailed, match="not of"):
        require_passed(made, evaluation("model", {}, stage="sft"))


def test_the_table_and_the_examples(audited):
    before, after = {**GOOD, "tasks": tasks(right=0.9)}, {**GOOD, "tasks": tasks(right=0.2, seed=1)}
    made = audited(before, after)
    rows = {row[0]: row for row in table(made.metrics)}
    assert rows["tasks"][-1].startswith("FAILED")
    assert rows["text"][1:3] == ("2.000 [2.000, 2.000] (n = 20)",) * 2
    examples = json.loads(made.file("audit.json").read_text())["examples"]
    assert [e["after"]["score"] - e["before"]["score"] for e in examples["tasks"]] == [-1, -1, 1, 1]
    assert examples["text"] == []


def test_a_run_that_stops_at_the_gate_shows_its_audit(run, audited, capsys):
    made = audited(GOOD, {**GOOD, "tasks": tasks(right=0.1)})
    show_audit(run.path)
    out = capsys.readouterr().out
    assert made.metrics["suites"]["tasks"]["why"] in out
    assert "audit: FAILED" in out
    assert "report.html" in out


def test_a_finished_run_shows_its_audit(run, audited, capsys):
    report = {
        "bits_per_byte": {"model": 1.5, "gzip": 1.6, "order3": 1.7},
        "bits_per_byte_by_model": {"base": 1.5, "final": 1.4},
        "pass_rate": {},
        "audit": audited(GOOD, GOOD).metrics,
        "evaluations": {
            model: {"harm": {"vr": wilson(violated, 40).to_json(), "frr": None, "systems": {}, "judges": {}}}
            for model, violated in (("base", 30), ("final", 4))
        },
    }
    show(Run(run.path, report, {}))
    out = capsys.readouterr().out
    assert out.rstrip().endswith("audit: passed")
    assert all(figure in out for figure in ("1.500", "1.400", "1.600"))
    told = dict(line.split("  ", 1) for line in out.splitlines() if line.startswith("harm, "))
    assert told["harm, base"].strip() == "VR 75.0 % [59.8, 85.8] (n = 40), FRR -"
    assert told["harm, final"].strip() == "VR 10.0 % [4.0, 23.1] (n = 40), FRR -"
