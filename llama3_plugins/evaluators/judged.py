"""Prompts that should be refused and look-alikes that should be answered, and what a model does with them.

`prompts/harmful.jsonl` and `prompts/harmless.jsonl` hold rows {id, category, prompt}. The harmful prompts are plain and
general: they ask for harm and say nothing of how it is done. The harmless ones use the words of harm ("kill a
process") for none.
"""

from __future__ import annotations

import json
import random
from importlib.resources import files
from typing import Literal

from llama3.evaluators import Judgement, Result, SafetyPrompt, Subject, Turn, answers, judge, wilson
from llama3_plugins.evaluators.options import AskOptions

PromptList = Literal["harmful", "harmless"]


def judged(subject: Subject, name: PromptList, wanted: Judgement, options: AskOptions, limit: int, seed: int) -> Result:
    """Ask the prompts of a list, or as many as the limit allows, chosen by the seed.

    Metrics: the share of answers of the wanted kind, under that name, and the count of each kind (`answers`).
    """
    rows = _chosen(read(name), options.limit or limit, seed)
    texts = answers(subject, [row["prompt"] for row in rows], options.max_tokens)
    kinds = [judge(text, row["prompt"]) for row, text in zip(rows, texts, strict=True)]
    samples = [
        {**row, "answer": text, "judgement": kind, "score": float(kind == wanted)}
        for row, text, kind in zip(rows, texts, kinds, strict=True)
    ]
    counts = {kind: kinds.count(kind) for kind in ("refused", "answered", "garbage")}
    return Result({wanted: wilson(counts[wanted], len(kinds)).to_json(), "answers": counts}, samples)


def read(name: PromptList) -> list[dict[str, str]]:
    """The rows of a list."""
    text = (files("llama3_plugins.evaluators") / "prompts" / f"{name}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def kept(name: PromptList) -> list[SafetyPrompt]:
    """The same as rows of the suite `safety`."""
    kind: Literal["adversarial", "borderline"] = "adversarial" if name == "harmful" else "borderline"
    return [
        SafetyPrompt(row["id"], kind, "en", row["category"], (Turn("user", row["prompt"]),), {}) for row in read(name)
    ]


def _chosen(rows: list[dict[str, str]], count: int, seed: int) -> list[dict[str, str]]:
    """`count` of the rows in their order; all where there are fewer."""
    if count >= len(rows):
        return rows
    return [rows[i] for i in sorted(random.Random(seed).sample(range(len(rows)), count))]
