"""The stage `safety_prompts`: what a round asks about safety. Files of the user, finds of a red team, generated
prompts, some that the model makes up and some of many shots; none of them is one that the run is measured on."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field

from llama3 import _core
from llama3.alignment.balance import balanced
from llama3.alignment.generated import generated_prompts, many_shot_prompts
from llama3.alignment.holding_out import keeps_prompts, kept_prompts, without_kept
from llama3.alignment.in_context import made_up
from llama3.artifacts import Checkpoint, StageOutput, stage
from llama3.checkpoints.load import load_model
from llama3.config.precision import AutoPrecision
from llama3.config.safety_data import BUILT_IN
from llama3.config.schema import Config
from llama3.config.slot_types import EvaluatorSlot
from llama3.errors import DataError
from llama3.evaluation.safety_rows import SafetyPrompt, read_prompts
from llama3.inference.engine import throughput_engine
from llama3.model.device import device_of
from llama3.tasks.named_files import named_files
from llama3.tasks.rows import write_rows
from llama3.tokenizer import Tokenizer

NONE_LEFT = DataError.declare(
    "L3-SFD-004",
    "no prompts are left ({adversarial} adversarial, {borderline} borderline)",
    why="left out, as the run is measured on them: {left}",
    fix="give other prompts, or add built_in to post_training.safety.prompts",
)

PROMPTS = "safety_prompts.jsonl"


class PromptFile(BaseModel):
    """A file of prompts: its rows count, and not where it lies."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str = Field(exclude=True)
    blake3: str


class SafetyPromptsOptions(BaseModel):
    """What is asked in a round; `suites` are those that it must not hold prompts of."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    files: tuple[PromptFile, ...]
    built_in: bool
    limit: int
    in_context: int
    many_shot: tuple[int, ...]
    borderline: float
    suites: tuple[EvaluatorSlot, ...]
    named: dict[str, str] = {}
    """Contents of the files that the suites read."""
    seed: int
    device: str = "cpu"
    precision: AutoPrecision = Field("auto", exclude=True)
    """In which prompts are made up."""

    @classmethod
    def of(cls, config: Config, round_number: int) -> Self:
        """From the whole config, whose `post_training.safety` is given. Rounds count from 1; each asks others."""
        section = config.post_training.safety
        assert section is not None
        paths = [path for path in section.prompts if path != BUILT_IN]
        suites = tuple(slot for slot in config.evaluation.tasks if keeps_prompts(slot))
        return cls(
            files=tuple(PromptFile(path=path, blake3=_core.blake3_file(path)) for path in paths),
            built_in=BUILT_IN in section.prompts,
            limit=section.limit,
            in_context=section.in_context,
            many_shot=tuple(section.many_shot),
            borderline=section.borderline,
            suites=suites,
            named=named_files(suites),
            seed=config.run.seed * 1000 + round_number,
            device=str(device_of(config.run.device)),
            precision=config.post_training.reject.precision,
        )


@stage(output="preferences")
def safety_prompts(checkpoint: Checkpoint, *, options: SafetyPromptsOptions, out: StageOutput) -> None:
    """Write safety_prompts.jsonl, rows of llama3.evaluation.safety_rows of which each has its source and license.

    Metrics: counts by kind, language, category, attack, source and license, and what was left out, by reason and file.
    Raises DataError (L3-SFD-004) where nothing is left.
    """
    kept = kept_prompts(options.suites)
    rows, left = without_kept(_unique([*given(options), *generated(options)]), kept)
    written: dict[str, Any] = {}
    if options.in_context:
        engine = throughput_engine(load_model(checkpoint.path, device=options.device), options.precision)
        tokenizer = Tokenizer.load(checkpoint.path)
        new, written = made_up(engine, tokenizer, rows, options.in_context, options.seed)
        free, again = without_kept(new, kept)
        rows, left = [*free, *rows], left + again
    chosen = choose(rows, options)
    chosen += many_shot_prompts(rows, options.many_shot, options.seed)
    if not chosen:
        counts = Counter(row.kind == "adversarial" for row in rows)
        raise NONE_LEFT("prompts", adversarial=counts[True], borderline=counts[False], left=dict(left))
    write_rows(out.path / PROMPTS, [row.to_json() for row in chosen])
    out.metrics |= manifest(chosen) | {"left_out": dict(sorted(left.items())), "in_context": written}
    out.metrics["left_out_of_files"] = list(_left_out_of_files(options, kept))


def given(options: SafetyPromptsOptions) -> list[SafetyPrompt]:
    """The rows of all files, in an order by the seed. Each says its source and license, if only that none is stated."""
    rows = []
    for file in options.files:
        for row in read_prompts(Path(file.path)):
            stated = {"source": Path(file.path).name, "license": "not stated", **row.carried}
            rows.append(replace(row, carried=stated))
    random.Random(f"given/{options.seed}").shuffle(rows)
    return rows


def _left_out_of_files(options: SafetyPromptsOptions, kept: Sequence[SafetyPrompt]) -> Iterator[dict[str, Any]]:
    """Of each file that the run is measured on in part: how many of its rows that is."""
    suites = sorted({slot.name for slot in options.suites})
    for file in options.files:
        rows = read_prompts(Path(file.path))
        if left := sum(without_kept(rows, kept)[1].values()):
            yield {"file": Path(file.path).name, "left_out": left, "of": len(rows), "suites": suites}


def told_left_out(metrics: Mapping[str, Any]) -> list[str]:
    """What a user is told of files that are left out of a round in part, from the metrics of `safety_prompts`."""
    return [
        f"{one['left_out']} of {one['of']} prompts of {one['file']} are left out: "
        f"what the run is measured on ({', '.join(one['suites'])}) asks them, their twins or the like; "
        "give the red team seeds of your own (--prompts)"
        for one in metrics.get("left_out_of_files", [])
    ]


def generated(options: SafetyPromptsOptions) -> list[SafetyPrompt]:
    """The prompts of `built_in`, as many as could be asked."""
    if not options.built_in:
        return []
    most = options.limit
    return generated_prompts(*balanced(most, round(most * options.borderline), most, options.borderline), options.seed)


def choose(rows: Sequence[SafetyPrompt], options: SafetyPromptsOptions) -> list[SafetyPrompt]:
    """The first rows of each kind, in the ratio that is asked for; what is not adversarial is answered, so it counts as
    borderline."""
    harmful = [row for row in rows if row.kind == "adversarial"]
    harmless = [row for row in rows if row.kind != "adversarial"]
    a, b = balanced(len(harmful), len(harmless), options.limit, options.borderline)
    return [*harmful[:a], *harmless[:b]]


def manifest(rows: Sequence[SafetyPrompt]) -> dict[str, Any]:
    """Where rows are from and what they are, counted."""
    columns: dict[str, list[str]] = {
        "kinds": [row.kind for row in rows],
        "languages": [row.lang for row in rows],
        "categories": [row.category for row in rows],
        "attacks": [row.carried.get("attack", "none") for row in rows],
        "sources": [row.carried["source"] for row in rows],
        "licenses": [row.carried["license"] for row in rows],
    }
    counts = {name: dict(sorted(Counter(values).items())) for name, values in columns.items()}
    return {"prompts": len(rows), **counts}


def _unique(rows: Sequence[SafetyPrompt]) -> list[SafetyPrompt]:
    """The first of rows that ask the same, and of those with the same id."""
    seen: set[object] = set()
    kept = []
    for row in rows:
        if not {row.id, row.turns} & seen:
            kept.append(row)
            seen |= {row.id, row.turns}
    return kept
