"""What capability recipes made, put among the rest of a round: the stages `with_made`, `with_made_pairs` and
`with_steps`."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict

from llama3.artifacts import Artifact, Dialogs, Preferences, StageOutput, stage
from llama3.config.schema import Config
from llama3.config.slot_types import CapabilitySlot
from llama3.making.stage import DIALOGS, PAIRS, STEPS
from llama3.plugins.registry import discover
from llama3.plugins.specs import CapabilitySpec
from llama3.tasks.rows import read_rows, write_rows


class SharesOptions(BaseModel):
    """The largest share of all dialogs of each recipe that has one."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    shares: dict[str, float]
    own: tuple[str, ...] = ()
    """Recipes whose share is their own, which no config named: one dialog of each may always join."""

    @classmethod
    def of(cls, config: Config) -> Self:
        """From the whole config."""
        slots = config.post_training.capabilities
        shares = {slot.name: share_of(slot) for slot in slots}
        told = {name: share for name, share in shares.items() if share is not None}
        return cls(shares=told, own=tuple(slot.name for slot in slots if slot.share is None and slot.name in told))


def share_of(slot: CapabilitySlot) -> float | None:
    """A recipe's largest share of all dialogs: as the config says, else as its spec does."""
    spec = discover().spec("capabilities", slot.name)
    return slot.share if slot.share is not None else spec.share if isinstance(spec, CapabilitySpec) else None


@stage(output="dialogs")
def with_made(dialogs: Dialogs, *, options: SharesOptions, out: StageOutput, **made: Dialogs) -> None:
    """The rows of `dialogs` and what each recipe kept, from the first on, as far as its share allows."""
    rows, own = _rows(dialogs), {name: _rows(artifact) for name, artifact in made.items()}
    most = within({name: len(found) for name, found in own.items()}, options.shares, len(rows))
    most |= {name: max(1, most[name]) for name in options.own if name in most}
    rows += [row for name, found in own.items() for row in found[: most[name]]]
    write_rows(out.path / DIALOGS, rows)
    out.metrics["dialogs"] = dict(sorted(Counter(str(row.get("source", "")) for row in rows).items()))


@stage(output="preferences")
def with_made_pairs(preferences: Preferences, *, out: StageOutput, **made: Dialogs) -> None:
    """The files of `preferences`, with the pairs that recipes made among its pairs, where it has pairs: prompts of
    algorithms that draw their own answers are not joined."""
    for path in sorted(preferences.path.glob("*.jsonl")):
        shutil.copyfile(preferences.file(path.name), out.path / path.name)
    if (preferences.path / PAIRS).exists():
        _join(preferences, made, PAIRS, out)


@stage(output="preferences")
def with_steps(preferences: Preferences, *, out: StageOutput, **made: Dialogs) -> None:
    """Pairs, and the pairs of steps that recipes made: what a reward model learns from."""
    _join(preferences, made, STEPS, out)


def within(there: Mapping[str, int], shares: Mapping[str, float], others: int) -> dict[str, int]:
    """How many rows of each name may join `others`, so that none is more than its share of all that are there then."""
    taken = dict(there)
    while True:
        total = others + sum(taken.values())
        over = [name for name, share in shares.items() if taken.get(name, 0) > share * total]
        if not over:
            return taken
        free = total - sum(taken[name] for name in over)
        left = 1 - sum(shares[name] for name in over)
        for name in over:
            taken[name] = min(taken[name] - 1, int(shares[name] * free / left)) if left > 0 else taken[name] - 1


def _join(preferences: Artifact, made: Mapping[str, Artifact], name: str, out: StageOutput) -> None:
    rows = list(read_rows(preferences.file(PAIRS)))
    before = len(rows)
    for artifact in made.values():
        rows += read_rows(artifact.file(name))
    write_rows(out.path / PAIRS, rows)
    out.metrics |= {"pairs": len(rows), "made": len(rows) - before}


def _rows(dialogs: Artifact) -> list[dict[str, Any]]:
    return list(read_rows(dialogs.file(DIALOGS)))
