"""The stage `select_dialogs`: which of the dialogs are learnt, and how often (paper 4.2.3).

    all -> of high quality -> no near duplicates -> no tone too frequent -> as often as their source says

What is better, by quality times difficulty, stays; of equals the one whose digest is smaller. So which dialogs stay
does not depend on the order in which they stand.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from pydantic import BaseModel, ConfigDict

from llama3.artifacts import Artifact, Dialogs, Report, StageOutput, stage
from llama3.config.data_quality import SemanticDedupSection, Sign
from llama3.config.schema import Config
from llama3.errors import DataError
from llama3.model.device import device_of
from llama3.quality.cleaning import beyond_shares, signs_of
from llama3.quality.dialogs import FILE, read_dialogs
from llama3.quality.figures import TABLES, marks, not_applied, of_signs, table
from llama3.quality.judged import Judged, rank
from llama3.quality.scoring import EMBEDDINGS, SCORES
from llama3.quality.semantic import near_duplicates
from llama3.tasks.rows import read_rows, write_rows

NOTHING_LEFT = DataError.declare(
    "L3-QUA-002",
    "none of {count} dialogs is left",
    why="{reasons}",
    fix="raise post_training.quality.top_share, the shares under cleaning, or epochs",
)
DECISIONS, REMOVED = "quality/decisions.jsonl", "quality/removed.jsonl"


class SelectOptions(BaseModel):
    """Thresholds and shares."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    top_share: float
    dedup: SemanticDedupSection | None
    cleaning: dict[Sign, float]
    epochs: dict[str, float]
    seed: int
    device: str = "cpu"

    @classmethod
    def of(cls, config: Config) -> Self:
        """From the whole config, which has `post_training.quality`."""
        section = config.post_training.quality
        assert section is not None
        names = ("top_share", "dedup", "cleaning", "epochs")
        given = {name: getattr(section, name) for name in names}
        return cls(**given, seed=config.run.seed, device=str(device_of(config.run.device)))


@stage(output="dialogs")
def select_dialogs(dialogs: Dialogs, scores: Report, *, options: SelectOptions, out: StageOutput) -> None:
    """Write dialogs.jsonl (what is learnt, in the order that it had), quality/decisions.jsonl (a row for each dialog:
    labels, scores, and why it stayed or went) and quality/removed.jsonl (the dialogs that went, with their reasons).

    Metrics: counts by reason, and tables of topics, quality, difficulty, sources and signs before and after. Raises
    DataError (L3-QUA-002) where nothing is left.
    """
    known = {row["digest"]: row for row in read_rows(scores.file(SCORES))}
    judged = [Judged(row, known[row.digest]) for row in read_dialogs(dialogs.path)]
    rank(judged, options.top_share)
    order = sorted(range(len(judged)), key=lambda place: (judged[place].key, place))
    ranked = [judged[place] for place in order]
    for row in ranked:
        row.signs = signs_of(row.dialog.answers)
    _drop_equal(ranked)
    for row in ranked:
        if not row.reason and row.high is False:
            row.reason = "low_quality"
    if options.dedup is not None:
        _drop_near(ranked, scores, options.dedup, options)
    _drop_signs(ranked, options.cleaning)
    _repeat(ranked, options.epochs, options.seed)
    learnt = [row for row in judged if not row.reason]
    reasons = dict(sorted(Counter(row.reason for row in judged if row.reason).items()))
    if not learnt:
        raise NOTHING_LEFT("dialogs", count=len(judged), reasons=reasons)
    write_rows(out.path / FILE, [row.dialog.row for row in learnt for _ in range(row.times)])
    (out.path / "quality").mkdir()
    write_rows(out.path / DECISIONS, [row.decision() for row in judged])
    gone = [
        {**row.dialog.row, "reason": row.reason, "of": row.of, "similarity": row.similarity}
        for row in judged
        if row.reason
    ]
    write_rows(out.path / REMOVED, gone)
    asked = scores.metrics.get("asked", {})
    out.metrics |= {
        "before": len(judged),
        "kept": len(learnt),
        "learnt": sum(row.times for row in learnt),
        "removed": reasons,
        "asked": asked,
        "not_applied": not_applied(judged, asked, options.dedup is not None),
        "unknown_sources": sorted(options.epochs.keys() - {row.dialog.source for row in judged}),
        "tables": {name: table(judged, cell) for name, cell in TABLES.items()},
        "signs": of_signs(judged, options.cleaning),
        "marks": {"before": marks(judged), "after": marks(learnt)},
    }


def _drop_equal(ranked: Sequence[Judged]) -> None:
    first: dict[str, Judged] = {}
    for row in ranked:
        best = first.setdefault(row.dialog.digest, row)
        if best is not row:
            row.reason, row.of, row.similarity = "equal", best.dialog.id, 1.0


def _drop_near(ranked: Sequence[Judged], scores: Artifact, dedup: SemanticDedupSection, options: SelectOptions) -> None:
    """What is semantically near to a better one."""
    places = {row["digest"]: n for n, row in enumerate(read_rows(scores.file(SCORES)))}
    embeddings_ND = np.load(scores.file(EMBEDDINGS), mmap_mode="r", allow_pickle=False)
    among = [row for row in ranked if not row.reason and (not dedup.sources or row.dialog.source in dedup.sources)]
    if not among:
        return
    found = near_duplicates(
        embeddings_ND[[places[row.dialog.digest] for row in among]],
        np.arange(len(among)),
        dedup.threshold,
        clusters=dedup.clusters,
        seed=options.seed,
        device=options.device,
    )
    for n, row in enumerate(among):
        row.cluster = int(found.cluster_N[n])
        if (of := int(found.of_N[n])) >= 0:
            row.reason, row.of, row.similarity = "near_duplicate", among[of].dialog.id, float(found.similarity_N[n])


def _drop_signs(ranked: Sequence[Judged], shares: Mapping[Sign, float]) -> None:
    left = [row for row in ranked if not row.reason]
    for place, sign in beyond_shares([row.signs for row in left], range(len(left)), shares).items():
        left[place].reason = sign


def _repeat(ranked: Sequence[Judged], epochs: Mapping[str, float], seed: int) -> None:
    """Whole epochs are repeated; of a broken one, so many dialogs of the source are drawn."""
    for source, times in sorted(epochs.items()):
        rows = [row for row in ranked if not row.reason and row.dialog.source == source]
        whole = math.floor(times)
        drawn = random.Random(f"quality/{seed}/{source}").sample(range(len(rows)), round((times - whole) * len(rows)))
        for row in rows:
            row.times = whole
        for place in drawn:
            rows[place].times += 1
        for row in rows:
            row.reason = row.reason or ("" if row.times else "downsampled")


def told(metrics: Mapping[str, Any]) -> list[str]:
    """What a person is told of what was selected, from the metrics of the artifact."""
    removed = ", ".join(f"{reason} {count:,}" for reason, count in metrics["removed"].items())
    lines = [f"quality: {metrics['kept']:,} of {metrics['before']:,} dialogs stay" + (f"; {removed}" * bool(removed))]
    untold = [label for label, row in metrics["asked"].items() if not row["told"]]  # told of beside the scores
    lines += [
        f"quality: {step} was not applied, {why}" for step, why in metrics["not_applied"].items() if step not in untold
    ]
    return lines + [f"quality: no dialog is of the source {name!r}" for name in metrics["unknown_sources"]]
