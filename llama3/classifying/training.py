"""Train a classifier of texts from labelled rows, and write it with its card. Deterministic: one thread, one seed.

Letters: N held-out texts, L labels.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from llama3 import _core
from llama3.artifacts.files import fsync_tree, publish, temporary_beside, write_bytes_atomic, write_json_atomic
from llama3.classifying.rows import LabelledText, read_labelled_texts, split_rows
from llama3.data.text_model import CHARACTERS, MODEL, PREFIX, TextModel, as_line, fasttext_library
from llama3.errors import ArtifactError
from llama3.evaluation.intervals import wilson
from llama3.guarding.figures import separation
from llama3.release.markdown import table, text

THERE = ArtifactError.declare("L3-CLS-020", "is there already", fix="choose another --out, or remove it")
NOT_LEARNT = ArtifactError.declare(
    "L3-CLS-021", "the training failed", why="{error}", fix="lower lr, or give other rows"
)

CARD = ("card.json", "CARD.md")
THRESHOLDS = (0.1, 0.25, 0.5, 0.75, 0.9)
SURE = 0.01
"""False positives at which the recall of a label is told."""


class TextModelTraining(BaseModel):
    """How a classifier of texts is trained."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    dim: int = Field(64, ge=1, le=4096, description="width of the vectors")
    epochs: int = Field(10, ge=1, le=10_000, description="passes over the rows")
    lr: float = Field(0.3, gt=0, le=10, description="learning rate at the beginning; it falls to 0")
    ngrams: int = Field(2, ge=1, le=8, description="longest run of words with a vector of its own")
    subwords: tuple[int, int] = Field(
        (0, 0), description="fewest and most characters of parts of words with a vector of their own; 0: none"
    )
    min_count: int = Field(1, ge=1, description="words that occur less often are not learnt")
    buckets: int = Field(200_000, ge=1, le=1 << 28, description="vectors that n-grams and parts of words share")
    characters: int = Field(CHARACTERS, ge=1, description="of each text are read")
    held_out: float = Field(0.2, gt=0, lt=1, description="share of the texts that the card is measured on")
    seed: int = Field(1, ge=0, le=1 << 30)

    @model_validator(mode="after")
    def _in_order(self) -> TextModelTraining:
        least, most = self.subwords
        if not 0 <= least <= most <= 16 or (most and not least):
            raise ValueError("subwords are two numbers that do not fall, up to 16, or both 0")
        return self


def train_text_model(rows: Path, out: Path, asked: TextModelTraining) -> dict[str, Any]:
    """Writes the folder `out`: the model, and its card, which is returned. Nothing is there before all of it is.

    Raises DataError for rows that cannot be learnt from, ConfigError without the library, ArtifactError (L3-CLS-020)
    where `out` is there.
    """
    if os.path.lexists(out):
        raise THERE(out)
    library = fasttext_library()
    train, held_out = split_rows(read_labelled_texts(rows), asked.held_out, rows)
    temporary = temporary_beside(out)
    temporary.mkdir(parents=True)
    try:
        _fit(library, train, asked, temporary)
        card = {
            "rows": {"blake3": _core.blake3_file(str(rows)), "train": _counts(train), "held_out": _counts(held_out)},
            "training": asked.model_dump(mode="json"),
            **card_of(TextModel(temporary, asked.characters), held_out, asked.seed),
        }
        write_json_atomic(temporary / CARD[0], card)
        write_bytes_atomic(temporary / CARD[1], card_text(card).encode())
        fsync_tree(temporary)
        publish(temporary, out)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return card


def _fit(library: Any, train: Sequence[LabelledText], asked: TextModelTraining, folder: Path) -> None:
    lines = folder / "train.txt"
    with lines.open("w", encoding="utf-8", errors="replace") as file:
        file.writelines(f"{PREFIX}{row.label} {as_line(row.text, asked.characters)}\n" for row in train)
    try:
        model = library.train_supervised(
            input=str(lines),
            dim=asked.dim,
            epoch=asked.epochs,
            lr=asked.lr,
            wordNgrams=asked.ngrams,
            minn=asked.subwords[0],
            maxn=asked.subwords[1],
            minCount=asked.min_count,
            bucket=asked.buckets,
            seed=asked.seed,
            loss="softmax",
            thread=1,
            verbose=0,
        )
    except (RuntimeError, ValueError) as error:
        raise NOT_LEARNT("fastText", error=error) from error
    model.save_model(str(folder / MODEL))
    lines.unlink()


def _counts(rows: Sequence[LabelledText]) -> dict[str, int]:
    return dict(sorted(Counter(row.label for row in rows).items()))


def card_of(model: TextModel, rows: Sequence[LabelledText], seed: int = 1) -> dict[str, Any]:
    """What a model makes of labelled texts: accuracy, and of each label AUC, recall, and what a threshold keeps.

    {accuracy: a rate, labels: {LABEL: {separation, kept: {THRESHOLD: {kept, precision, recall}}}}}; raises ConfigError
    (L3-CLS-004) for labels that the model does not have.
    """
    model.require(sorted({row.label for row in rows}))
    found_NL = model.probabilities([row.text for row in rows])
    given_N = np.array([model.labels.index(row.label) for row in rows])
    right = int((found_NL.argmax(1) == given_N).sum())
    labels: dict[str, Any] = {}
    for number, label in enumerate(model.labels):
        is_N, p_N = given_N == number, found_NL[:, number]
        if is_N.any() and not is_N.all():
            kept = {f"{t:g}": _kept(is_N, p_N >= t) for t in THRESHOLDS}
            labels[label] = {"separation": separation(p_N[is_N], p_N[~is_N], SURE, seed), "kept": kept}
    return {"model": model.hash, "texts": len(rows), "accuracy": wilson(right, len(rows)).to_json(), "labels": labels}


def _kept(is_N: np.ndarray, kept_N: np.ndarray) -> dict[str, float | None]:
    hits = int((is_N & kept_N).sum())
    return {
        "kept": float(kept_N.mean()),
        "precision": hits / int(kept_N.sum()) if kept_N.any() else None,
        "recall": hits / int(is_N.sum()),
    }


LABELS_HEAD = ("LABEL", "AUC", "INTERVAL", "RECALL AT 1 % FALSE")
KEPT_HEAD = ("LABEL", "THRESHOLD", "KEPT", "PRECISION", "RECALL")


def label_rows(card: dict[str, Any]) -> list[tuple[str, ...]]:
    """How well each label is told from the others."""
    rows: list[tuple[str, ...]] = []
    for label, found in card["labels"].items():
        area, recall = found["separation"]["auc"], found["separation"]["recall"]
        ends = f"[{area['low']:.4f}, {area['high']:.4f}]"
        rows.append((label, f"{area['value']:.4f}", ends, f"{100 * recall['value']:.1f} %"))
    return rows


def kept_rows(card: dict[str, Any]) -> list[tuple[str, ...]]:
    """What is kept by each threshold."""
    return [
        (label, threshold, *(_percent(cell[name]) for name in ("kept", "precision", "recall")))
        for label, found in card["labels"].items()
        for threshold, cell in found["kept"].items()
    ]


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"


def accuracy_words(card: dict[str, Any]) -> str:
    """The share of texts whose likeliest label is theirs."""
    rate = card["accuracy"]
    return f"{100 * rate['rate']:.1f} % [{100 * rate['low']:.1f}, {100 * rate['high']:.1f}] of {rate['n']} texts"


def card_text(card: dict[str, Any]) -> str:
    """CARD.md."""
    lines = ["# Classifier of texts", "", f"- fastText, {', '.join(f'{k} {v}' for k, v in card['training'].items())}"]
    for side, counts in (("learnt from", card["rows"]["train"]), ("held out", card["rows"]["held_out"])):
        lines.append(f"- {side}: " + ", ".join(f"{text(label)} {count}" for label, count in counts.items()))
    lines += [f"- right on held-out texts: {accuracy_words(card)}", ""]
    lines += [*table(LABELS_HEAD, label_rows(card)), "", *table(KEPT_HEAD, kept_rows(card)), ""]
    words = "Measured on held-out rows of the same file: texts from elsewhere may be judged worse."
    return "\n".join([*lines, words, ""])
