"""The stage `check_round`: what people say of a tenth of the answers that the models of a round gave (paper 4.2.3).

The sample is the one that `llama3 annotate` shows of the round. A text is wrong where anybody rejected or edited it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict

from llama3.annotating.folder import ANNOTATIONS, read_items, read_judgements
from llama3.annotating.items import sample_of_dialogs
from llama3.artifacts import Dialogs, StageOutput, stage
from llama3.artifacts.files import finite
from llama3.config.round_audit import HumanCheckSection
from llama3.evaluation.human_check import figures_of
from llama3.tasks.rows import write_rows

SHEET = "check.jsonl"


class RoundCheckOptions(BaseModel):
    """The artifact that is checked, the limits, and what was said so far: other verdicts are another request."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str
    limits: HumanCheckSection
    verdicts: dict[str, dict[str, str]]
    """By annotator, of items of the source."""

    @classmethod
    def of(cls, limits: HumanCheckSection, run: Path, source: str) -> Self:
        """Of the annotations in a run. Raises DataError where a file of them is broken."""
        folder = run / ANNOTATIONS
        said = read_judgements(folder, "check") if folder.is_dir() else {}
        mine = {name for name, item in read_items(folder, "check").items() if item.source == source} if said else set()
        verdicts = {
            annotator: {item: one.verdict for item, one in of.items() if item in mine} for annotator, of in said.items()
        }
        return cls(source=source, limits=limits, verdicts={name: of for name, of in verdicts.items() if of})


@stage(output="report")
def check_round(dialogs: Dialogs, *, options: RoundCheckOptions, out: StageOutput) -> None:
    """Write check.jsonl, the sheet: each answer of the sample with its id. Metrics: those of `figures_of`, `open`
    (whether some are not checked), `passed` and `why`."""
    count, items = sample_of_dialogs(options.source, dialogs)
    write_rows(out.path / SHEET, [{"id": item.id, **item.to_json()} for item in items])
    told = figures_of(count, {item.id for item in items}, options.verdicts)
    why = objection(told, options.limits)
    out.metrics |= finite({**told, "open": told["checked"] < told["sample"], "passed": not why, "why": why})


def objection(told: dict[str, Any], limits: HumanCheckSection) -> str:
    """Why the round does not pass; "": it does."""
    wrong = told["wrong"]
    if wrong["low"] > limits.most_wrong or (told["checked"] == told["sample"] and wrong["rate"] > limits.most_wrong):
        return (
            f"people hold {wrong['count']} of {told['checked']} answers for wrong, {wrong['rate']:.1%} "
            f"[{wrong['low']:.1%}, {wrong['high']:.1%}] (most_wrong {limits.most_wrong:.0%})"
        )
    if limits.required and told["checked"] < told["sample"]:
        return f"{told['checked']} of {told['sample']} answers of the sample are checked"
    return ""
