"""The quickstart: its curation is the complete one, and what its report promises holds (slow: it is run as it is)."""

from __future__ import annotations

import json

import pytest

from llama3.cli import main
from llama3.evaluation.step_changes import change_of
from llama3.plugins.registry import discover
from llama3.preflight import load_config

NEED_SOMETHING = {"dirty_words", "language", "quality", "url_lists"}
"""Filters that judge by lists or models, of which none is shipped."""


def test_its_curation_leaves_no_rule_out():
    data = load_config("quickstart").config.data
    built_in = {row.name for row in discover().list("filters") if row.dist == "llama3"}
    assert {slot.name for slot in data.filters} == built_in - NEED_SOMETHING
    assert all((data.urls, data.exact, data.minhash.enabled, data.lines.enabled, data.decontaminate.tasks))


def test_its_curation_of_a_part_of_the_text(tmp_path, capsys):
    sources = "data.sources=[{name: stdlib, max_bytes: 900000}]"
    with pytest.raises(SystemExit) as done:
        main(["data", "curate", "quickstart", "--set", sources, "--out", str(tmp_path / "run")])
    printed = capsys.readouterr().out
    assert done.value.code == 0
    assert "held_out_tasks: 1,000 examples" in printed
    stages = [line.split()[0] for line in printed.splitlines() if line and line[0].islower()]
    for stage in ("exact", "near", "lines", "decontaminate", "filter.fineweb", "filter.token_distribution", "edit"):
        assert stage in stages
    assert "held_out_tasks" in (tmp_path / "run" / "report.html").read_text("utf-8")


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_it_shows_what_it_says(tmp_path):
    with pytest.raises(SystemExit) as done:
        main(["run", "quickstart", "--set", f"run.dir={tmp_path}"])
    assert done.value.code == 0
    report = json.loads((tmp_path / "quickstart" / "report.json").read_text("utf-8"))
    bits = report["bits_per_byte_by_model"]
    assert bits["base"] < report["bits_per_byte"]["gzip"], "the base model knows the text better than gzip does"
    assert bits["final"] < 1.05 * bits["base"], "finetuning does not cost what it knew"
    preferred = change_of(report["changes"], "pass_rate", "sft", "final")
    assert preferred is not None
    assert preferred["paired_low"] > 0, "the preference stage gains something"
    page = (tmp_path / "quickstart" / "report.html").read_text("utf-8")
    assert "Base beats gzip" in page
    assert "The preference stage, sft to final, on pass_rate: +" in page
