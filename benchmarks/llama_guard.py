"""A Llama Guard trained from SmolLM2-135M on public lists of harmful requests: beside a list of words, and the model
before training.

All three judge the same rows, of groups that nothing learnt from. The list of words is fitted on the rows that the
guard learns from. HarmBench is judged too, of which nothing was learnt.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import common
import numpy as np
import torch
import yaml
from llama_guard_rows import harm_bench, hazard_rows, source_of
from prompt_guard import folders_of, write

from llama3 import _core
from llama3.artifacts import Artifact
from llama3.evaluation.intervals import wilson
from llama3.guarding.asked import read_training
from llama3.guarding.figures import RESAMPLES, auc, confusion, confusion_intervals
from llama3.guarding.prompt_rows import place_of
from llama3.guarding.taught_model import Hazard, LlamaGuardModel
from llama3.guarding.taught_rows import HazardRow, read_hazard_rows
from llama3.guarding.taught_training import SCORES_FILE, named_by
from llama3.guarding.training import train_guard
from llama3.safety.guard import Turn

RECIPE = Path(__file__).with_suffix(".yaml")
LEAST_ROWS = 3
"""Unsafe rows that a word of the list occurs in at least."""
Named = Sequence[set[str]]
"""For each row the categories that are said to be violated; "" stands for one that is not told."""


def train(folder: Path, folders: Mapping[str, Path], model: str, threads: int | None) -> tuple[Artifact, float]:
    """The guard, made now or found, and the seconds that took."""
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / "rows.jsonl", hazard_rows(folders))
    config = yaml.safe_load(RECIPE.read_text("utf-8"))
    config |= {"data": str(folder / "rows.jsonl"), "model": model}
    config["run"] = {"dir": str(folder), "name": "guard", "device": "cpu", "threads": threads}
    path = folder / "guard.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False), "utf-8")
    started = time.monotonic()
    made = train_guard(read_training(path), path.read_text("utf-8"))
    return made, time.monotonic() - started


def sides(rows: Sequence[HazardRow], held_out: float) -> tuple[list[HazardRow], list[HazardRow]]:
    """Those that the guard learns from, and those that test it."""
    learnt = [row for row in rows if place_of(row.group) >= held_out]
    return learnt, [row for row in rows if held_out / 2 <= place_of(row.group) < held_out]


class WordList:
    """Blocks a text with words that unsafe rows have far more often than safe ones.

    How much more often, and how many such words a text must have, is chosen for the best F1 on the rows that it is
    fitted on. A word names the category whose rows have it most.
    """

    def __init__(self, rows: Sequence[HazardRow]) -> None:
        unsafe, safe, by_category = Counter[str](), Counter[str](), dict[str, Counter[str]]()
        for row in rows:
            (unsafe if row.violated else safe).update(words := words_of(row))
            for word in words:
                by_category.setdefault(word, Counter()).update(row.violated)
        is_unsafe = np.array([bool(row.violated) for row in rows])
        best = (-1.0, frozenset[str](), 1)
        for ratio in (2, 4, 8, 16):
            words = frozenset(w for w, n in unsafe.items() if n >= LEAST_ROWS and n >= ratio * (safe[w] + 0.5))
            hits = np.array([len(words_of(row) & words) for row in rows])
            found = [(confusion(is_unsafe, hits >= least)["f1"], words, least) for least in (1, 2, 3)]
            best = max(best, *found, key=lambda one: one[0])
        self.trained_f1, self.words, self.least = best
        self.category = {word: by_category[word].most_common(1)[0][0] for word in self.words}

    def named(self, row: HazardRow) -> set[str]:
        found = words_of(row) & self.words
        if len(found) < self.least:
            return set()
        return {Counter(self.category[word] for word in found).most_common(1)[0][0]}


def words_of(row: HazardRow) -> frozenset[str]:
    """The words of the message that is judged."""
    return frozenset(re.findall(r"[a-z']+", row.turns[-1].content.lower()))


def figures(rows: Sequence[HazardRow], named: Named, taxonomy: Mapping[str, str]) -> dict[str, Any]:
    """F1 and false positives over all, by category, and the false positives of each source."""
    unsafe, found = np.array([bool(row.violated) for row in rows]), np.array([bool(names) for names in named])
    told = {"all": _figures(unsafe, found)}
    for category in taxonomy:
        there = np.array([category in row.violated for row in rows])
        told[category] = _figures(there, np.array([category in names for names in named]))
    sources = np.array([source_of(row.group) for row in rows])
    for source in sorted(set(sources[~unsafe])):
        chosen = ~unsafe & (sources == source)
        told[f"safe, {source}"] = {"fpr": wilson(int(found[chosen].sum()), int(chosen.sum())).to_json()}
    return told


def _figures(is_there: np.ndarray, is_found: np.ndarray) -> dict[str, Any]:
    return {**confusion(is_there, is_found), "intervals": confusion_intervals(is_there, is_found)}


def gain(rows: Sequence[HazardRow], guard: Named, other: Named) -> list[float]:
    """By how much F1 of the guard is above that of the other, a 95 % interval: the same rows are drawn for both."""
    unsafe = np.array([bool(row.violated) for row in rows])
    ours, theirs = (np.array([bool(names) for names in named]) for named in (guard, other))
    drawn_BN = np.random.default_rng(0).integers(len(rows), size=(RESAMPLES, len(rows)))
    f1: Callable[[np.ndarray, np.ndarray], float] = lambda found, draw: confusion(unsafe[draw], found[draw])["f1"]
    return [float(x) for x in np.quantile([f1(ours, d) - f1(theirs, d) for d in drawn_BN], [0.025, 0.975])]


def scores_of(made: Artifact) -> list[Hazard]:
    """What the guard said of the rows that test it, when it was made."""
    lines = (json.loads(line) for line in made.file(SCORES_FILE).read_text("utf-8").splitlines())
    return [Hazard(line["p"], line["categories"], line["rest"]) for line in lines]


def _auc(rows: Sequence[HazardRow], judged: Sequence[Hazard]) -> float:
    unsafe, p = np.array([bool(row.violated) for row in rows]), np.array([hazard.p for hazard in judged])
    return auc(p[unsafe], p[~unsafe])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model", help="the model to start from: SmolLM2-135M-Instruct")
    parser.add_argument("--packages", type=Path, help="a folder that the packages were installed into")
    parser.add_argument("--folder", type=Path, default=Path("runs/bench-llama-guard"), help="where the run lies")
    parser.add_argument("--threads", type=int)
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
        _core.set_num_threads(arguments.threads)
    folders = folders_of(arguments.packages)
    made, seconds = train(arguments.folder, folders, arguments.model, arguments.threads)
    asked = read_training(arguments.folder / "guard.yaml")
    guard = LlamaGuardModel.load(made.path)
    learnt, tested = sides(read_hazard_rows([arguments.folder / "rows.jsonl"], guard.taxonomy), asked.held_out)
    judged = scores_of(made)
    words = WordList(learnt)
    base = LlamaGuardModel.load(arguments.model, guard.taxonomy)
    started = time.monotonic()
    asked_base = base.weigh([row.turns for row in tested])
    per_check = (time.monotonic() - started) / len(tested)
    named: dict[str, Named] = {
        "guard": [named_by(hazard, guard.threshold) for hazard in judged],
        "word list": [words.named(row) for row in tested],
        "before training": [named_by(hazard, base.threshold) for hazard in asked_base],
    }
    elsewhere = [h.p >= guard.threshold for h in guard.weigh([[Turn("user", text)] for text in harm_bench(folders)])]
    results = {
        "versions": common.versions("torch"),
        "seconds": round(seconds, 1),
        "seconds_per_check": round(per_check, 3),
        "rows": {"learnt": len(learnt), "tested": len(tested), "calibrated": made.metrics["data"]["calibrated"]},
        "threshold": guard.threshold,
        "word_list": {"words": len(words.words), "least": words.least, "f1_where_fitted": words.trained_f1},
        "auc": {"guard": made.metrics["all"]["auc"], "before training": _auc(tested, asked_base)},
        "base_left_over": float(np.mean([hazard.rest for hazard in asked_base])),
        "figures": {name: figures(tested, found, guard.taxonomy) for name, found in named.items()},
        "f1_gain": {name: gain(tested, named["guard"], found) for name, found in named.items() if name != "guard"},
        "harm_bench": wilson(sum(elsewhere), len(elsewhere)).to_json(),
    }
    print((made.path / "CARD.md").read_text("utf-8"))
    print(json.dumps({name: found["all"] for name, found in results["figures"].items()}, indent=1))
    print(common.write_results("llama_guard", results))


if __name__ == "__main__":
    main()
