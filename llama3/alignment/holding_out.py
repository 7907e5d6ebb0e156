"""No prompt that a run is measured on is trained on, nor its twin, nor a text that holds it or hardly differs."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

from llama3.config.slot_types import Slot
from llama3.evaluation.evaluator import KeepsPrompts
from llama3.evaluation.safety_rows import SafetyPrompt
from llama3.plugins.asking import ODD_RESULT, asking, what
from llama3.plugins.registry import discover
from llama3.plugins.specs import EvaluatorSpec

ALIKE = 0.75
"""Share of the words of two prompts that are in both, from which one is a copy of the other."""
_WORD = re.compile(r"[^\W_]+")


def keeps_prompts(suite: Slot) -> bool:
    """Whether the evaluator of a suite tells the prompts that it asks."""
    spec = discover().spec("evaluators", suite.name)
    return isinstance(spec, EvaluatorSpec) and spec.keeps_prompts


def kept_prompts(suites: Iterable[Slot]) -> list[SafetyPrompt]:
    """All prompts that the evaluators of such suites ask and nothing may learn. Raises PluginError where one fails."""
    found: list[SafetyPrompt] = []
    for suite in suites:
        evaluator: KeepsPrompts = discover().build("evaluators", suite.name, suite.options)
        where = f"evaluators.{suite.name}"
        with asking(where, "kept_prompts"):
            rows = list(evaluator.kept_prompts())
        if odd := [what(row) for row in rows if not isinstance(row, SafetyPrompt)]:
            raise ODD_RESULT(where, method="kept_prompts", fault=f"of one row {odd[0]}, not a SafetyPrompt")
        found += rows
    return found


def without_kept(rows: Sequence[SafetyPrompt], kept: Sequence[SafetyPrompt]) -> tuple[list[SafetyPrompt], Counter[str]]:
    """The rows that may be learnt, and how many were left out, by reason: `twin` (the row, or the one it names as its
    twin, is one that is kept), `holds` (a turn of it holds a kept prompt), `alike` (most of the words are the same)."""
    ids = {row.id for row in kept}
    told = [(words, frozenset(words)) for row in kept if (words := _words(row.turns[-1].content))]
    free, left = [], Counter[str]()
    for row in rows:
        reason = "twin" if {row.id, row.carried.get("twin")} & ids else _copies(row, told)
        if reason:
            left[reason] += 1
        else:
            free.append(row)
    return free, left


def alike(a: frozenset[str], b: frozenset[str]) -> bool:
    """Whether two sets of words are nearly the same (Jaccard)."""
    return len(a & b) >= ALIKE * len(a | b)


def _copies(row: SafetyPrompt, told: Sequence[tuple[tuple[str, ...], frozenset[str]]]) -> str:
    said = [_words(turn.content) for turn in row.turns if turn.role != "assistant"]
    flat = [f" {' '.join(words)} " for words in said]
    if any(f" {' '.join(words)} " in text for words, _ in told for text in flat):
        return "holds"
    return "alike" if any(alike(frozenset(words), other) for words in said for _, other in told) else ""


def words_of(text: str) -> frozenset[str]:
    """The words of a text, whatever their case and the signs between them."""
    return frozenset(_words(text))


def _words(text: str) -> tuple[str, ...]:
    return tuple(_WORD.findall(text.casefold()))
