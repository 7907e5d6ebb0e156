"""The share of instructions about the form of an answer that the model follows (see instructions.py)."""

from __future__ import annotations

from llama3.evaluators import Result, Subject, answers, wilson
from llama3_plugins.evaluators.instructions import instructions
from llama3_plugins.evaluators.options import AskOptions


class InstructionFormat:
    """Result: `followed` {rate, low, high, n}, and `by_kind` the same; one sample per instruction, of score 1 or 0."""

    def __init__(self, options: AskOptions) -> None:
        self.options = options

    def run(self, subject: Subject, limit: int, seed: int) -> Result:
        asked = instructions(self.options.limit or limit, seed)
        texts = answers(subject, [instruction.prompt for instruction in asked], self.options.max_tokens)
        followed = [instruction.followed(text) for instruction, text in zip(asked, texts, strict=True)]
        by_kind: dict[str, list[bool]] = {}
        for instruction, ok in zip(asked, followed, strict=True):
            by_kind.setdefault(instruction.kind, []).append(ok)
        samples = [
            {"id": i.id, "kind": i.kind, "prompt": i.prompt, "answer": text, "score": float(ok)}
            for i, text, ok in zip(asked, texts, followed, strict=True)
        ]
        metrics = {
            "followed": wilson(sum(followed), len(followed)).to_json(),
            "by_kind": {kind: wilson(sum(oks), len(oks)).to_json() for kind, oks in by_kind.items()},
        }
        return Result(metrics, samples)
