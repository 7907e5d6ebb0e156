"""Violation rate, false-refusal rate and helpfulness, together, behind the guards of the policy and without them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

from llama3.evaluators import Result, SafetyPrompt, Subject, choose_prompts, parse_prompts, read_prompts, run_safety
from llama3_plugins.evaluators.options import SafetyOptions


class Safety:
    """Result: `vr`, `frr` and `helpful` of the whole policy, each {rate, low, high, n, unjudged, corrected}; the same
    by system, category and language, what guards change, and the front of their settings. One sample per prompt."""

    def __init__(self, options: SafetyOptions) -> None:
        self.options = options
        own = options.path
        self.prompts = built_in() if own is None else sourced(read_prompts(Path(own)), f"the file {Path(own).name}")

    def run(self, subject: Subject, limit: int, seed: int) -> Result:
        options = self.options
        prompts = choose_prompts(self.prompts, options.limit or limit, seed)
        return run_safety(
            subject,
            prompts,
            {"violates": options.violates, "refuses": options.refuses},
            seed,
            options.max_tokens,
        )

    def kept_prompts(self) -> list[SafetyPrompt]:
        return self.prompts


def built_in() -> list[SafetyPrompt]:
    """The prompts that come with the package (prompts/MANIFEST.json says from where)."""
    text = (files("llama3_plugins.evaluators") / "prompts" / "safety.jsonl").read_text(encoding="utf-8")
    return sourced(parse_prompts(text, "safety.jsonl"), "the package llama3, written for it")


def sourced(rows: Sequence[SafetyPrompt], source: str) -> list[SafetyPrompt]:
    """The rows, those that do not say where they are from with this source."""
    return [replace(row, carried={"source": source, **row.carried}) for row in rows]
