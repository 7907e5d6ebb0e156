"""The share of harmless prompts that only look harmful ("kill a process") to which the model gives an answer."""

from __future__ import annotations

from llama3.evaluators import Result, SafetyPrompt, Subject
from llama3_plugins.evaluators.judged import judged, kept
from llama3_plugins.evaluators.options import AskOptions


class Harmless:
    """Result: `answered` {rate, low, high, n} and how many answers were of each kind; one sample per prompt, of score 1
    (answered, rightly or not) or 0 (refused, or noise)."""

    def __init__(self, options: AskOptions) -> None:
        self.options = options

    def run(self, subject: Subject, limit: int, seed: int) -> Result:
        return judged(subject, "harmless", "answered", self.options, limit, seed)

    def kept_prompts(self) -> list[SafetyPrompt]:
        return kept("harmless")
