"""The stage `prompt_guard`: a small Llama with a score head learns to tell attacks from harmless texts.

A text is as bad as its worst window: the loss is the cross-entropy of the largest score of its windows, which is how it
is judged. Some texts are learnt in a disguise too, and some amid harmless ones. Thresholds are chosen on rows that were
held out, and all figures of the card come from others that were.

Legend: S segments, R trees (texts).
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from llama3.artifacts import StageOutput, stage
from llama3.artifacts.files import write_bytes_atomic, write_json_atomic
from llama3.errors import DataError, Problem
from llama3.guarding.asked import PromptGuardTraining, StageOptions
from llama3.guarding.disguises import DISGUISES, disguised
from llama3.guarding.figures import threshold_at
from llama3.guarding.prompt_card import card_text, figures_of
from llama3.guarding.prompt_model import SETTINGS_FILE, PromptGuardModel, PromptGuardSettings, TextReader, pack_windows
from llama3.guarding.prompt_rows import TRUSTS, PromptRow, Side, Trusted, read_prompt_rows, side_of
from llama3.guarding.reading import unfolded
from llama3.guarding.windows import windows
from llama3.guarding.words import common_words, costs_of, parted
from llama3.model.batch import Batch
from llama3.model.build import init_weights
from llama3.model.config import ModelConfig
from llama3.model.device import device_of
from llama3.model.score import Scored
from llama3.model.transformer import Transformer
from llama3.posttraining.datasets import Epochs
from llama3.safety.normalise import Normalised
from llama3.tokenizer import Tokenizer
from llama3.training.algorithm import Algorithm, Term
from llama3.training.checkpoint import CheckpointStore
from llama3.training.loop import train
from llama3.training.placed import PlacedModel
from llama3.training.schedule import Schedule
from llama3.training.stage import reporting, save_checkpoint

FEW_ROWS = DataError.declare(
    "L3-GRD-030",
    "the side {side!r} has {attacks} attacks and {harmless} harmless texts",
    why="a false-positive rate of {fpr} is told from {least} harmless texts at least, and recall from an attack",
    fix="add rows, or raise fpr or held_out",
)
NO_THRESHOLD = DataError.declare(
    "L3-GRD-031",
    "no threshold of {trust} lets harmless texts pass and finds attacks",
    why="more than a share of {fpr} of the harmless texts on the side 'calibrate' has a probability of 1",
    fix="add harmless rows that look like attacks, train shorter, or raise fpr",
)

MOST_WINDOWS = 2
"""Windows of a text that are learnt from: its first ones. All are judged."""
MOST_AROUND = 600
"""Characters before a text, and after it, where it is learnt amid others."""
GAPS = (" ", "\n", "\n\n")
NUM_SPECIAL = 16
CARD_FILES = ("card.json", "CARD.md")


class PromptTrainingOptions(StageOptions):
    """`asked` without the places of the files, whose contents count. `paths` are those of `data`, then of
    `elsewhere`."""

    asked: PromptGuardTraining


class WorstWindow(Algorithm):
    """Binary cross-entropy of the largest score among a text's windows."""

    def collate(self, examples: Sequence[TextExample]) -> Batch:
        return pack_windows([(e.ids, e.cuts, {"is_attack": float(e.is_attack)}) for e in examples], examples[0].bos)

    def loss(self, scored: Scored, batch: Batch) -> dict[str, Term]:
        worst_R = worst_by_tree(scored, batch)
        loss = F.binary_cross_entropy_with_logits(worst_R, batch.per_tree["is_attack"].float(), reduction="sum")
        return {"detection": Term(loss, per="tree")}

    def metrics(self, scored: Scored, batch: Batch) -> dict[str, Term]:
        right_R = (worst_by_tree(scored, batch) > 0) == (batch.per_tree["is_attack"] > 0.5)
        return {"accuracy": Term(right_R.sum(), per="tree")}


def worst_by_tree(scored: Scored, batch: Batch) -> Tensor:
    """The largest score of each text's windows. Differentiable."""
    windows_S = batch.parents_S >= 0
    score_S, tree_S = scored.score_S[windows_S], batch.tree_S[windows_S]
    return score_S.new_full((batch.num_trees,), -torch.inf).scatter_reduce(0, tree_S, score_S, "amax")


@dataclass(frozen=True, slots=True)
class TextExample:
    """A text to learn, cut into windows."""

    ids: np.ndarray
    cuts: Sequence[tuple[int, int]]
    is_attack: bool
    bos: int


@stage(output="checkpoint")
def prompt_guard(*, options: PromptTrainingOptions, out: StageOutput) -> None:
    """Train, calibrate, measure. Writes the model, its tokenizer, how it is asked (prompt_guard.json), and its card.

    Raises DataError for bad rows, and where too few are held out to state what is asked for.
    """
    asked = options.asked
    sides = split_rows(read_prompt_rows([Path(file) for file in asked.data]), asked)
    elsewhere = read_prompt_rows([Path(file) for file in asked.elsewhere])
    reader = _reader([unfolded(row.text) for row in sides["train"]], asked.vocab_size)
    model = _learnt(_examples(sides["train"], reader, options), reader, options, out)
    save_checkpoint(out.path, model, reader.tokenizer, {"stage": asked.kind, "examples": len(sides["train"])})
    guard = PromptGuardModel(
        model.module.eval(),
        reader.tokenizer,
        PromptGuardSettings(
            kind=asked.kind,
            words=reader.words,
            window=asked.window,
            overlap=asked.overlap,
            thresholds=dict.fromkeys(TRUSTS, 0.5),
        ),
    )  # its scores do not depend on thresholds, which are found next
    thresholds = _calibrated(guard, sides["calibrate"], asked.fpr)
    settings = guard.settings.model_copy(update={"thresholds": thresholds})
    write_json_atomic(out.path / SETTINGS_FILE, settings.model_dump(mode="json"))
    seen = {unfolded(row.text).text for rows in sides.values() for row in rows}
    elsewhere = [row for row in elsewhere if unfolded(row.text).text not in seen]
    figures = figures_of(guard, thresholds, sides, elsewhere, asked.fpr, options.seed)
    figures |= {"kind": asked.kind, "parameters": model.config.num_params(), "vocabulary": reader.tokenizer.vocab_size,
                "window": asked.window, "overlap": asked.overlap}  # fmt: skip
    write_json_atomic(out.path / CARD_FILES[0], figures)
    write_bytes_atomic(out.path / CARD_FILES[1], card_text(figures).encode())
    out.metrics |= figures


def _reader(texts: Sequence[Normalised], vocab_size: int) -> TextReader:
    """Reads with the words of these texts, and a tokenizer that was made for them."""
    words = common_words(text.text for text in texts)
    costs = costs_of(words)
    return TextReader(Tokenizer.train([parted(text, costs).text for text in texts], vocab_size, NUM_SPECIAL), words)


def split_rows(rows: Sequence[PromptRow], asked: PromptGuardTraining) -> Mapping[Side, list[PromptRow]]:
    """The rows of each side. Raises DataError where a side has too few to state what is asked for."""
    sides: dict[Side, list[PromptRow]] = {"train": [], "calibrate": [], "test": []}
    for row in rows:
        sides[side_of(row, asked.held_out)].append(row)
    least = int(np.ceil(1 / asked.fpr - 1e-9))
    if problems := [p for side, found in sides.items() for p in _few(side, found, asked.fpr, least)]:
        raise DataError.of(problems)
    return sides


def _few(side: Side, rows: Sequence[PromptRow], fpr: float, least: int) -> Sequence[Problem]:
    attacks = sum(row.is_attack for row in rows)
    harmless = len(rows) - attacks
    if attacks and harmless >= least:
        return []
    return [FEW_ROWS.problem("data", side=side, attacks=attacks, harmless=harmless, fpr=fpr, least=least)]


def _examples(rows: Sequence[PromptRow], reader: TextReader, options: PromptTrainingOptions) -> list[TextExample]:
    """Every row, some of them in a disguise too, and some amid harmless texts."""
    asked, rng = options.asked, random.Random(options.seed)
    harmless = [row.text for row in rows if not row.is_attack]
    made = []
    for row in rows:
        texts = [row.text]
        if rng.random() < asked.disguised:
            texts.append(disguised(row.text, rng.choice(tuple(DISGUISES)), options.seed))
        if rng.random() < asked.embedded:
            before, after = rng.choice(harmless)[-MOST_AROUND:], rng.choice(harmless)[:MOST_AROUND]
            texts.append(f"{before}{rng.choice(GAPS)}{row.text}{rng.choice(GAPS)}{after}")
        for text in texts:
            ids = reader.read(text).ids
            if cuts := windows(len(ids), asked.window, asked.overlap)[:MOST_WINDOWS]:
                made.append(TextExample(ids, cuts, row.is_attack, reader.bos))
    return made


def _learnt(
    examples: Sequence[TextExample], reader: TextReader, options: PromptTrainingOptions, out: StageOutput
) -> PlacedModel:
    asked, section = options.asked, options.asked.train
    shape = asked.model.model_copy(update={"max_seq_len": asked.window + 1})
    config = ModelConfig.from_section(shape, reader.tokenizer.vocab_size)
    drawn = init_weights(Transformer(config, score_head=True), options.seed)
    model = PlacedModel(drawn.to(device_of(options.device)))
    dataset = Epochs(examples, batch=section.batch, epochs=section.epochs, seed=options.seed)
    algorithm = WorstWindow()
    with reporting(asked.kind, asked.logging, out, dataset.steps, model.context) as reporter:
        train(
            model,
            algorithm,
            dataset,
            options=section,
            schedule=Schedule.cosine(section.lr, section.final_lr, section.warmup, dataset.steps),
            seed=options.seed,
            collate=algorithm.collate,
            want=frozenset({"score"}),
            store=CheckpointStore(out.scratch / "checkpoints"),
            identity={"stage": "prompt_guard", "options": options.model_dump(mode="json")},
            reporter=reporter,
        )
    return model


def _calibrated(guard: PromptGuardModel, rows: Sequence[PromptRow], fpr: float) -> dict[Trusted, float]:
    """The threshold for each kind of text, on harmless rows that count for it; on all where those are too few.

    Raises DataError where none finds anything: then too many harmless texts look like sure attacks.
    """
    harmless = [row for row in rows if not row.is_attack]
    scores = np.array([score.p for score in guard.scores([row.text for row in harmless])])
    found: dict[Trusted, float] = {}
    for trust in TRUSTS:
        own = scores[[row.counts_for(trust) for row in harmless]]
        found[trust] = threshold_at(own if len(own) * fpr >= 1 - 1e-9 else scores, fpr)
    if problems := [NO_THRESHOLD.problem("data", trust=t, fpr=fpr) for t, level in found.items() if not 0 < level < 1]:
        raise DataError.of(problems)
    return found
