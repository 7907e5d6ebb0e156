"""The stage `llama_guard`: a finetuned model becomes a guard, with a card of its figures on held-out rows."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from llama3.artifacts import Checkpoint, Dialogs, StageOutput, stage
from llama3.artifacts.artifact import COMMIT, MANIFEST
from llama3.artifacts.files import write_bytes_atomic, write_json_atomic
from llama3.guarding.figures import auc, confusion
from llama3.guarding.taught_frame import LLAMA_GUARD_3
from llama3.guarding.taught_model import SETTINGS_FILE, Hazard, LlamaGuardModel, LlamaGuardSettings
from llama3.guarding.taught_rows import HELD_OUT_FILE, GuardRowsOptions, HazardRow, read_hazard_rows
from llama3.inference.llama import Llama
from llama3.release.markdown import code, number, table, text

THRESHOLD = 0.5


@stage(output="checkpoint")
def llama_guard(checkpoint: Checkpoint, dialogs: Dialogs, *, options: GuardRowsOptions, out: StageOutput) -> None:
    """Write the model with its categories (llama_guard.json), card.json and CARD.md."""
    for file in sorted(checkpoint.path.iterdir()):
        if file.is_file() and file.name not in (MANIFEST, COMMIT):
            shutil.copyfile(file, out.path / file.name)
    taxonomy = dict(options.asked.taxonomy or LLAMA_GUARD_3)
    write_json_atomic(out.path / SETTINGS_FILE, LlamaGuardSettings(taxonomy=taxonomy).model_dump())
    guard = LlamaGuardModel(Llama.load(checkpoint.path, device=options.device), taxonomy)
    rows = read_hazard_rows([dialogs.file(HELD_OUT_FILE)], taxonomy)
    with out.progress("held-out rows", len(rows)) as task:
        judged = []
        for row in rows:
            judged.append(guard.weigh(row.turns))
            task.advance()
    figures = {
        "data": dialogs.metrics,
        "taxonomy": taxonomy,
        "threshold": THRESHOLD,
        **measured(rows, judged, taxonomy),
    }
    write_json_atomic(out.path / "card.json", figures)
    write_bytes_atomic(out.path / "CARD.md", ("\n".join(_lines(figures)) + "\n").encode())
    out.metrics |= figures


def measured(rows: Sequence[HazardRow], judged: Sequence[Hazard], taxonomy: Mapping[str, str]) -> dict[str, Any]:
    """F1, precision, recall and false-positive rate, over all and of each category that a row violates.

    A row without a verdict counts against the guard: missed where it is unsafe, a false positive where it is safe, in
    no category; `no_verdict` counts them.
    """
    lost = np.array([not hazard.is_verdict for hazard in judged])
    unsafe = np.array([bool(row.violated) for row in rows])
    p = np.where(lost, ~unsafe, [hazard.p for hazard in judged])
    found = {**confusion(unsafe, p >= THRESHOLD), "auc": auc(p[unsafe], p[~unsafe]), "no_verdict": int(lost.sum())}
    categories = {}
    for category in taxonomy:
        is_violated = np.array([category in row.violated for row in rows])
        named = ~lost & np.array([hazard.categories[category] >= THRESHOLD for hazard in judged])
        if is_violated.any() or named.any():
            categories[category] = dict(confusion(is_violated, named))
    return {"all": found, "categories": categories}


def _lines(figures: Mapping[str, Any]) -> Iterator[str]:
    data, everything = figures["data"], figures["all"]
    yield "# Guard"
    yield ""
    yield f"A language model that judges messages by {len(figures['taxonomy'])} categories. It learnt from"
    yield f"{data['rows']} rows ({data['dialogs']} with their variants) and was measured on {data['held_out']} others,"
    yield f"at a probability of {figures['threshold']:g}."
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
    shown = [f"{found[key]:.3f}" for key in ("f1", "precision", "recall", "fpr")]
    return (name, *shown, str(found["attacks"]), str(found["harmless"]))
