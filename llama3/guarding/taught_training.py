"""The stage `llama_guard`: a finetuned model becomes a guard, with a card of its figures on held-out rows."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from llama3.artifacts import Checkpoint, Dialogs, StageOutput, stage
from llama3.artifacts.artifact import COMMIT, MANIFEST
from llama3.artifacts.files import write_bytes_atomic, write_json_atomic
from llama3.errors import DataError
from llama3.guarding.figures import auc, confusion, confusion_intervals, threshold_at
from llama3.guarding.prompt_rows import place_of
from llama3.guarding.taught_frame import LLAMA_GUARD_3, SAFE, UNSAFE
from llama3.guarding.taught_model import SETTINGS_FILE, THRESHOLD, Hazard, LlamaGuardModel, LlamaGuardSettings
from llama3.guarding.taught_rows import HELD_OUT_FILE, GuardRowsOptions, HazardRow, read_hazard_rows
from llama3.release.markdown import code, number, table, text
from llama3.tasks.rows import write_rows

FEW_SAFE = DataError.declare(
    "L3-GRD-055",
    "the rows that calibrate have {safe} safe texts and {unsafe} unsafe ones",
    why="a false-positive rate of {fpr} is told from {least} safe texts at least",
    fix="add rows, or raise fpr or held_out, or leave fpr out",
)
NO_LEVEL = DataError.declare(
    "L3-GRD-056",
    "no threshold lets safe texts pass and finds unsafe ones",
    why="more than a share of {fpr} of the safe texts that calibrate has a probability of 1",
    fix="add safe rows that look unsafe, train shorter, or raise fpr",
)
SCORES_FILE = "scores.jsonl"
"""What the guard said of each row that tests: {label, violated, p, categories, rest}, without the texts."""
JUDGED_AT_ONCE = 64
"""Rows between two signs of life."""


@stage(output="checkpoint")
def llama_guard(checkpoint: Checkpoint, dialogs: Dialogs, *, options: GuardRowsOptions, out: StageOutput) -> None:
    """Write the model with its categories (llama_guard.json), card.json and CARD.md."""
    for file in sorted(checkpoint.path.iterdir()):
        if file.is_file() and file.name not in (MANIFEST, COMMIT):
            shutil.copyfile(file, out.path / file.name)
    asked, taxonomy = options.asked, dict(options.asked.taxonomy or LLAMA_GUARD_3)
    guard = LlamaGuardModel.load(checkpoint.path, taxonomy, options.device)
    rows = read_hazard_rows([dialogs.file(HELD_OUT_FILE)], taxonomy)
    with out.progress("held-out rows", len(rows)) as task:
        judged: list[Judged] = []
        for start in range(0, len(rows), JUDGED_AT_ONCE):
            several = rows[start : start + JUDGED_AT_ONCE]
            judged += zip(several, guard.weigh([row.turns for row in several]), strict=True)
            task.advance(len(several))
    threshold, tested = THRESHOLD, judged
    if asked.fpr is not None:
        calibrating = [place_of(row.group) < asked.held_out / 2 for row in rows]
        threshold = calibrated(
            [pair for pair, calibrates in zip(judged, calibrating, strict=True) if calibrates], asked.fpr
        )
        tested = [pair for pair, calibrates in zip(judged, calibrating, strict=True) if not calibrates]
    settings = LlamaGuardSettings(taxonomy=taxonomy, threshold=threshold)
    write_json_atomic(out.path / SETTINGS_FILE, settings.model_dump())
    figures = {
        "data": {**dialogs.metrics, "held_out": len(tested), "calibrated": len(judged) - len(tested)},
        "taxonomy": taxonomy,
        "threshold": threshold,
        **measured(tested, taxonomy, threshold),
    }
    write_rows(out.path / SCORES_FILE, [_scored(*pair) for pair in tested])
    write_json_atomic(out.path / "card.json", figures)
    write_bytes_atomic(out.path / "CARD.md", ("\n".join(_lines(figures)) + "\n").encode())
    out.metrics |= figures


Judged = tuple[HazardRow, Hazard]


def _scored(row: HazardRow, hazard: Hazard) -> dict[str, Any]:
    label = UNSAFE if row.violated else SAFE
    return {"label": label, "violated": list(row.violated), "p": hazard.p, "categories": dict(hazard.categories),
            "rest": hazard.rest}  # fmt: skip


def calibrated(judged: Sequence[Judged], fpr: float) -> float:
    """The least threshold at which a share `fpr` of the safe texts at most is blocked; one without a verdict blocks at
    any. Raises DataError where the rows cannot tell, and where there is none."""
    safe = np.array([hazard.p if hazard.is_verdict else 1.0 for row, hazard in judged if not row.violated])
    least = int(np.ceil(1 / fpr - 1e-9))
    if len(safe) < least or len(safe) == len(judged):
        raise FEW_SAFE("data", safe=len(safe), unsafe=len(judged) - len(safe), fpr=fpr, least=least)
    threshold = threshold_at(safe, fpr)
    if not 0 < threshold < 1:
        raise NO_LEVEL("data", fpr=fpr)
    return threshold


def measured(judged: Sequence[Judged], taxonomy: Mapping[str, str], threshold: float = THRESHOLD) -> dict[str, Any]:
    """F1, precision, recall and false-positive rate, over all and of each category that a row violates.

    A category is named where it reaches the threshold by itself, or is the likeliest where all together do. A row
    without a verdict counts against the guard: missed where it is unsafe, a false positive where it is safe, in no
    category; `no_verdict` counts them.
    """
    lost = np.array([not hazard.is_verdict for _, hazard in judged])
    unsafe = np.array([bool(row.violated) for row, _ in judged])
    p = np.where(lost, ~unsafe, [hazard.p for _, hazard in judged])
    found = {**_confused(unsafe, p >= threshold), "auc": auc(p[unsafe], p[~unsafe]), "no_verdict": int(lost.sum())}
    categories = {}
    for category in taxonomy:
        is_violated = np.array([category in row.violated for row, _ in judged])
        named = ~lost & np.array([category in named_by(hazard, threshold) for _, hazard in judged])
        if is_violated.any() or named.any():
            categories[category] = _confused(is_violated, named)
    return {"all": found, "categories": categories}


def named_by(hazard: Hazard, threshold: float) -> set[str]:
    """The categories that a guard names at a threshold."""
    named = {category for category, p in hazard.categories.items() if p >= threshold}
    if not named and hazard.p >= threshold:
        named = {max(hazard.categories, key=lambda category: hazard.categories[category])}
    return named


def _confused(is_there: np.ndarray, is_found: np.ndarray) -> dict[str, Any]:
    return {**confusion(is_there, is_found), "intervals": confusion_intervals(is_there, is_found)}


def _lines(figures: Mapping[str, Any]) -> Iterator[str]:
    data, everything = figures["data"], figures["all"]
    yield "# Guard"
    yield ""
    yield f"A language model that judges messages by {len(figures['taxonomy'])} categories. It learnt from"
    yield f"{data['rows']} rows ({data['dialogs']} with their variants) and was measured on {data['held_out']} others,"
    yield f"at a probability of {figures['threshold']:.4g}."
    if data["calibrated"]:
        yield f"That threshold was chosen on {data['calibrated']} rows that it neither learnt nor is measured on."
    yield ""
    head = ("", "F1", "precision", "recall", "false positives", "unsafe", "safe")
    yield from table(head, [_row("all", everything), *(_row(code(c), f) for c, f in figures["categories"].items())])
    yield ""
    yield f"AUC over all: {number(everything['auc'])}. Of a category that no row violates nothing is known."
    yield f"Rows to which the model gave neither verdict, which blocks in use: {everything['no_verdict']}."
    yield "Each counts against the guard: as missed where it is unsafe, as a false positive where it is safe."
    yield ""
    yield "## Categories"
    yield ""
    yield from (f"- {code(key)}: {text(name)}" for key, name in figures["taxonomy"].items())


def _row(name: str, found: Mapping[str, Any]) -> tuple[str, ...]:
    shown = [
        f"{found[key]:.3f}{_interval(found['intervals'].get(key))}" for key in ("f1", "precision", "recall", "fpr")
    ]
    return (name, *shown, str(found["attacks"]), str(found["harmless"]))


def _interval(ends: Sequence[float] | None) -> str:
    return "" if ends is None else f" [{ends[0]:.3f}, {ends[1]:.3f}]"
