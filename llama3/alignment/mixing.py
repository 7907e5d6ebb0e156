"""Safety's share of what a round learns: the stages `mix_dialogs` and `mix_pairs` put its rows among the others."""

from __future__ import annotations

import random
import shutil
from collections import Counter
from collections.abc import Sequence
from typing import Any, Self

from pydantic import BaseModel, ConfigDict

from llama3.alignment.answers import DIALOGS, LABELS, PAIRS
from llama3.alignment.balance import share_of, take_balanced
from llama3.artifacts import Artifact, Dialogs, Preferences, StageOutput, stage
from llama3.config.schema import Config
from llama3.tasks.rows import read_rows, write_rows


class MixOptions(BaseModel):
    """Safety's share of all rows, and borderline rows for each adversarial one."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    share: float
    borderline: float
    seed: int

    @classmethod
    def of(cls, config: Config) -> Self:
        """From the whole config, whose `post_training.safety` is given."""
        section = config.post_training.safety
        assert section is not None
        return cls(share=section.share, borderline=section.borderline, seed=config.run.seed)


@stage(output="dialogs")
def mix_dialogs(dialogs: Dialogs, safety: Preferences, *, options: MixOptions, out: StageOutput) -> None:
    """The rows of `dialogs` with those of `safety` that are to be finetuned on."""
    _mix(dialogs, safety, [DIALOGS], options, out)


@stage(output="preferences")
def mix_pairs(preferences: Preferences, safety: Preferences, *, options: MixOptions, out: StageOutput) -> None:
    """The rows of `preferences` with the pairs and the labels of `safety`; files that either of them lacks are left as
    they are. Prompts of algorithms that draw their own answers are not joined."""
    _mix(preferences, safety, [PAIRS, LABELS], options, out)


def _mix(given: Artifact, safety: Artifact, names: Sequence[str], options: MixOptions, out: StageOutput) -> None:
    for path in sorted(given.path.glob("*.jsonl")):
        if path.name not in names or not (safety.path / path.name).exists():
            shutil.copyfile(given.file(path.name), out.path / path.name)
            continue
        rows, own = list(read_rows(given.file(path.name))), list(read_rows(safety.file(path.name)))
        joined = join(rows, own, options)
        write_rows(out.path / path.name, [*rows, *joined])
        out.metrics[path.stem] = _told(len(rows), len(own), joined)


def join(rows: Sequence[Any], own: Sequence[dict[str, Any]], options: MixOptions) -> list[dict[str, Any]]:
    """The rows of safety that join so many others. Where there are fewer than the share asks for, all that keep the
    ratio do."""
    rng = random.Random(f"mix/{options.seed}")
    return take_balanced(own, share_of(len(rows), options.share), options.borderline, rng)


def _told(others: int, there: int, joined: Sequence[dict[str, Any]]) -> dict[str, Any]:
    kinds = Counter(row["kind"] for row in joined)
    share = len(joined) / max(others + len(joined), 1)
    return {"others": others, "safety": dict(sorted(kinds.items())), "there": there, "share": round(share, 4)}
