"""The share of plainly harmful prompts that the model refuses. Noise is no refusal (llama3.safety.refusals)."""

from __future__ import annotations

from llama3.evaluators import Result, SafetyPrompt, Subject
from llama3_plugins.evaluators.judged import judged, kept
from llama3_plugins.evaluators.options import AskOptions


class Refusals:
    """Result: `refused` {rate, low, high, n} and how many answers were of each kind; one sample per prompt, of score 1
    (refused) or 0. To be read beside `harmless`: a model that refuses everything is perfect here."""

    def __init__(self, options: AskOptions) -> None:
        self.options = options

    def run(self, subject: Subject, limit: int, seed: int) -> Result:
        return judged(subject, "harmful", "refused", self.options, limit, seed)

    def kept_prompts(self) -> list[SafetyPrompt]:
        return kept("harmful")
