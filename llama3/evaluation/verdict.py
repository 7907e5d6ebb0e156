"""What a report says in words: which model is which, and what the run came to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from llama3.artifacts import Artifact
from llama3.evaluation.kept_suites import told_failures
from llama3.evaluation.step_changes import change_of, told_change


def models_of(
    evaluations: Mapping[str, Artifact], artifacts: Mapping[str, Artifact], quantized: Mapping[str, Artifact]
) -> dict[str, dict[str, Any]]:
    """Each measured model by name: {what, artifact}."""
    tuned = "sft" in evaluations
    words = {
        "base": _base(artifacts),
        "sft": "base after supervised finetuning (sft): it learnt to answer from examples of good answers",
        "final": _final(artifacts, "sft" if tuned else "base"),
        **{name: f"final with its weights stored in fewer bits ({name})" for name in quantized},
    }
    return {
        name: {"what": words.get(name, "another model of this run"), "artifact": _measured(artifact)}
        for name, artifact in evaluations.items()
    }


def _base(artifacts: Mapping[str, Artifact]) -> str:
    if (adopted := artifacts.get("adopt")) is not None:
        return f"the model that this run was given ({adopted.manifest.metrics.get('name', 'adopted')}), unchanged"
    return "the model after pretraining on this run's text, before it was taught to answer"


def _final(artifacts: Mapping[str, Artifact], before: str) -> str:
    stages = {artifact.manifest.stage for artifact in artifacts.values()}
    done = [words for name, words in (("prefer", "preference training"), ("average", "averaging")) if name in stages]
    rounds = sum(artifact.manifest.stage == "prefer" for artifact in artifacts.values())
    last = f" of round {rounds}" if rounds > 1 else ""
    after = f"{before} after {' and '.join(done)}{last}" if done else f"{before} in the precision of a release"
    return f"{after}: the model that this run is for"


def _measured(evaluation: Artifact) -> str | None:
    return next((parent.hash for parent in evaluation.manifest.parents if parent.role == "checkpoint"), None)


def verdict_of(report: Mapping[str, Any]) -> dict[str, Any]:
    """{state, title, lines} of a report that has everything else. `state` is passed, failed or none (no audit)."""
    released = "release" in report["artifacts"]
    after = "released" if released else "not released"
    audit = report["audit"]
    if stuck := report.get("held_back"):
        title = f"Failed: a long-context stage was not passed; {after}"
        return {"state": "failed", "title": title, "lines": [*stuck, *_warnings(report)]}
    if audit is None:
        title = f"{after.capitalize()}: raised from raw text, so there is no earlier model to hold it against"
        return {"state": "none", "title": title, "lines": [*_changes(report), *_raised(report), *_warnings(report)]}
    lost = [f"{name}: {row['why']}" for name, row in audit["suites"].items() if row["passed"] is not True]
    missed = [f"{row['title']}: {row['why']}" for row in audit.get("gates", {}).values() if row["passed"] is not True]
    if audit["passed"] is True:
        title = f"Passed: nothing that was measured got worse by more than its margin; {after}"
        return {"state": "passed", "title": title, "lines": [*_changes(report), *_warnings(report)]}
    counts = [f"{len(lost)} of {len(audit['suites'])} suites"] if lost else []
    counts += [f"{len(missed)} of {len(audit['gates'])} limits of safety"] if missed else []
    title = f"Failed: {', '.join(counts) or 'nothing could be compared'}; not released"
    return {"state": "failed", "title": title, "lines": [*audit["faults"], *lost, *missed, *_warnings(report)]}


def _changes(report: Mapping[str, Any]) -> Iterator[str]:
    """What became of the first model until `final`, on tasks and on text."""
    rates = report["pass_rate"]
    if {"base", "final"} <= rates.keys():
        old, new = rates["base"], rates["final"]
        apart = new["low"] > old["high"] or new["high"] < old["low"]
        told = _way(report, "pass_rate") or ("" if apart else ", within the error of measurement")
        yield f"Held-out tasks solved: {100 * old['rate']:.1f} % by base, {100 * new['rate']:.1f} % by final{told}."
    bits = report["bits_per_byte_by_model"]
    if bits.get("base") is not None and bits.get("final") is not None:
        told = _way(report, "bits_per_byte")
        yield f"Bits per byte of held-out text: {bits['base']:.3f} by base, {bits['final']:.3f} by final{told}."


def _raised(report: Mapping[str, Any]) -> Iterator[str]:
    """Of a model raised from raw text: whether it learnt the text, kept it, and what the preference stage added."""
    bits, gzip = report["bits_per_byte_by_model"], report["bits_per_byte"]["gzip"]
    base, final = bits.get("base"), bits.get("final")
    if base:
        kept = (
            f"; final needs {abs(final / base - 1):.1%} {'more' if final > base else 'less'} than base" if final else ""
        )
        yield f"Base {'beats' if base < gzip else 'does not beat'} gzip, which needs {gzip:.3f} bits per byte{kept}."
    suite = _first_suite(report, "pass_rate")
    if preferred := change_of(report["changes"], suite, "sft", "final"):
        yield f"The preference stage, sft to final, on {suite}: {told_change(preferred)}."


def _way(report: Mapping[str, Any], metric: str) -> str:
    """Which way the first suite that measured `metric` went, by the interval of its paired change; nothing where no
    audit has one."""
    suite = _first_suite(report, metric) if report["audit"] else ""
    row = report["audit"]["suites"].get(suite) if suite else None
    if row is None or row["paired_low"] is None:
        return ""
    if row["paired_low"] > 0:
        return ": better"
    return ": worse" if row["paired_high"] < 0 else ": no difference that these items can tell"


def _first_suite(report: Mapping[str, Any], metric: str) -> str:
    """The first suite that measured `metric` of the base model, or ""."""
    return next((name for name, result in report["evaluations"]["base"].items() if metric in result), "")


def _warnings(report: Mapping[str, Any]) -> Iterator[str]:
    """What makes the figures worth less than they seem."""
    yield from told_failures(report.get("evaluations", {}))
    for role, found in report["contamination"].items():
        if role != "text" and found.get("contaminated"):
            yield f"{found['contaminated']} of {found['n']} held-out tasks stand in the training {role}."
    if lost := sum(row["count"] for row in report.get("losses", ())):
        yield f"{lost:,} records of the input could not be read (see below)."
